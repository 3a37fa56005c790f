"""Where trials run: what ``--on`` says."""

from contextlib import AbstractContextManager

from finetune.errors import UsageError
from finetune.execution.worker import Run


def opened(on: str = "local") -> AbstractContextManager[Run]:
    """What runs the trials of a comparison.

    Args:
        on: ``local``, a worker on this machine; ``ray``, the Ray cluster that this machine belongs
            to (or RAY_ADDRESS names), else one of this machine's own; ``ray://HOST:PORT``, the
            cluster behind a Ray Client server.

    Raises:
        UsageError: no such place, Ray is not installed, or the cluster cannot be used.
    """
    check_place(on)
    if on == "local":
        from finetune.execution import local

        return local.opened()
    from finetune.execution import ray

    return ray.opened(on)


def check_place(on: str) -> None:
    """Raises UsageError if there is no such place; whether it can be reached is not tried."""
    if on not in ("local", "ray") and not on.startswith("ray://"):
        raise UsageError(f"--on is {on!r}; allowed: local, ray and ray://HOST:PORT.")
