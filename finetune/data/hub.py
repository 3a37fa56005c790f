"""The way to Hugging Face's hub: what is fetched from there, and what goes wrong on the way."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from finetune.errors import DataError, need

_MOST_BYTES = {"model": 8 * 2**30, "dataset": 256 * 2**30}
_TOKEN = "Log in with `hf auth login`, or set HF_TOKEN, with a token that may write there."
_ADVICE = {
    401: _TOKEN,
    403: _TOKEN,
    404: "Check its name; of a private one, log in with `hf auth login` or set HF_TOKEN.",
}


def client() -> Any:
    """The package ``huggingface_hub``, which sends nothing about its use."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return need("huggingface_hub", "hf")


def snapshot(
    name: str,
    patterns: Sequence[str],
    *,
    kind: str = "model",
    revision: str | None = None,
    only_here: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Path:
    """Files of a repository in the hub's own cache (``HF_HOME``); without a network, the copy.

    Args:
        name: ``USER/REPO``.
        patterns: of the files; no others are fetched.
        kind: model or dataset.
        revision: a branch, tag or commit; the main branch if missing.
        only_here: fetch nothing.
        say: is told what is fetched.

    Raises:
        UsageError: the extra ``hf`` is missing.
        DataError: there is no such repository, no route to it, or it is too large.
    """
    hub = client()
    from huggingface_hub.errors import DryRunError

    wanted = {
        "repo_id": name,
        "repo_type": kind,
        "revision": revision,
        "allow_patterns": list(patterns),
        "local_files_only": only_here,
    }
    files: list[Any] = []
    with hub_errors(name):
        with suppress(DryRunError):  # it cannot be asked: the copy serves, if there is one
            files = hub.snapshot_download(**wanted, dry_run=True)
        size = sum(file.file_size for file in files)
        if size > _MOST_BYTES[kind]:
            raise DataError(
                f"{name} holds {size:,} bytes; allowed are {_MOST_BYTES[kind]:,}. Fetch it "
                "yourself, and give its folder."
            )
        if any(file.will_download for file in files):
            say(f"{name} is fetched from the hub: {size / 2**20:,.1f} MiB")
        return Path(hub.snapshot_download(**wanted))


@contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """What the hub's client raises, as ours."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        why = " ".join((error.server_message or str(error)).split())[:300]
        advice = _ADVICE.get(code, "Try again later.")
        raise DataError(f"The hub refuses {name} ({code}: {why}). {advice}") from error
    except errors.HFValidationError as error:
        raise DataError(f"'{name}' is no name on the hub; they look like USER/REPO.") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        raise DataError(
            f"{name} is not on this machine, and there is no route to it on the hub "
            f"({' '.join(str(error).split())[:200]}). Check the network, and HF_ENDPOINT if it is "
            "set."
        ) from error
