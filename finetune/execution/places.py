"""Where trials run: what ``--on`` says."""

from contextlib import AbstractContextManager

from finetune.errors import UsageError, need
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
    if on == "local":
        from finetune.execution import local

        return local.opened()
    if on == "ray" or on.startswith("ray://"):
        need("ray", "ray")
        from finetune.execution import ray

        return ray.opened(on)
    raise UsageError(f"--on is {on!r}; allowed: local, ray and ray://HOST:PORT.")
