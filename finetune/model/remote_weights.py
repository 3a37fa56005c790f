"""Weights from elsewhere: https://, hf:// and kaggle:// files, taken only with a digest.

A file is fetched once into the cache, under its sha256; where it is there already, no socket is
opened. Neither imports Keras nor, before a download, anything that speaks to a network.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from finetune.data.download import fetch
from finetune.errors import DataError, IntegrityError, UsageError, need
from finetune.files import LOCK, cache_dir, make_folder, sha256_of

MOST_BYTES = 2 * 2**30  # of a weight file; the largest of keras.applications has 0.8e9
_SUFFIXES = (".h5", ".safetensors", ".onnx")
_ADDRESS = re.compile(r"(https?|hf|kaggle)://(.+?)(?:#sha256=([^#]*))?")
_PIN = (
    "Add its digest, as in FILE#sha256=64-HEX-DIGITS: whoever can change the file could otherwise "
    "change the model. `sha256sum FILE` tells it of a copy that you trust."
)
_HF = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)")
_KAGGLE = re.compile(r"([\w-]+/[\w-]+/\w+/[\w.-]+/\d+)/(.+)")
_FORMS = {
    "hf": (_HF, "OWNER/REPOSITORY[@REVISION]/FILE"),
    "kaggle": (_KAGGLE, "OWNER/MODEL/FRAMEWORK/VARIATION/VERSION/FILE"),
}


class Remote(NamedTuple):
    """An address, taken apart; ``digest`` in lower case."""

    scheme: str
    place: str
    digest: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.place.partition("?")[0].rpartition("/")[2]


def is_remote(weights: str) -> bool:
    """Whether ``weights`` is meant as an address."""
    return "://" in weights


def parse(weights: str) -> Remote:
    """An address of weights, taken apart; nothing is fetched.

    Args:
        weights: ``https://HOST/FILE#sha256=HEX``, ``hf://OWNER/REPOSITORY[@REVISION]/FILE#...`` or
            ``kaggle://OWNER/MODEL/FRAMEWORK/VARIATION/VERSION/FILE#...``.

    Raises:
        UsageError: it is no such address, or has no digest.
    """
    match = _ADDRESS.fullmatch(weights)
    if not match:
        raise UsageError(
            f"weights is '{weights}'; addresses are https://HOST/FILE, hf://{_FORMS['hf'][1]} and "
            f"kaggle://{_FORMS['kaggle'][1]}, each with #sha256= and 64 hex digits behind it."
        )
    scheme, place, digest = match.groups()
    if digest is None:
        raise UsageError(f"weights is '{weights}', an address without a digest. {_PIN}")
    if not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise UsageError(f"weights is '{weights}'; a sha256 has 64 hex digits, not '{digest}'.")
    remote = Remote(scheme, place, digest.lower())
    if not remote.name.endswith(_SUFFIXES):
        raise UsageError(
            f"weights is '{weights}', and {remote.name or 'it'} is no weight file; allowed are "
            f"{', '.join(_SUFFIXES)}."
        )
    form, expected = _FORMS.get(scheme, (None, ""))
    if form and not form.fullmatch(place):
        raise UsageError(f"weights is '{weights}'; {scheme}:// is followed by {expected}.")
    return remote


def fetched(weights: str) -> Path:
    """The file of an address, in the cache; downloaded if it is not there.

    Raises:
        UsageError: as ``parse``, or the package that speaks to the hub is not installed.
        DataError: the file cannot be downloaded.
        IntegrityError: it has another digest, or more than ``MOST_BYTES``.
    """
    remote = parse(weights)
    folder = cache_dir() / "weights" / remote.digest
    path = folder / remote.name
    make_folder(folder)
    with FileLock(folder / LOCK):
        if path.is_file() and sha256_of(path) == remote.digest:
            return path
        path.unlink(missing_ok=True)
        if remote.scheme in ("http", "https"):
            address = f"{remote.scheme}://{remote.place}"
            fetch(address, path, sha256=remote.digest, most=MOST_BYTES)
        else:
            _from_hub(remote, path)
    return path


def _from_hub(remote: Remote, path: Path) -> None:
    """Download into a hidden folder beside the file, compare, and move."""
    download = _HUBS[remote.scheme]
    address = f"{remote.scheme}://{remote.place}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        file = download(remote, Path(folder))
        found = sha256_of(file)
        if found != remote.digest:
            raise IntegrityError(
                f"{address} has sha256 {found}, but {remote.digest} was asked for. It was deleted; "
                "give the digest of the file that you mean, or use a local copy."
            )
        os.replace(file, path)


def _hf(remote: Remote, folder: Path) -> Path:
    """Through huggingface-hub, which knows HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    hub = need("huggingface_hub", "hf")
    match = _HF.fullmatch(remote.place)
    assert match
    repository, revision, file = match.groups()
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        url = hub.hf_hub_url(repository, file, revision=revision, endpoint=endpoint)
        _check_size(remote, hub.get_hf_file_metadata(url, endpoint=endpoint).size)
        found = hub.hf_hub_download(
            repository, file, revision=revision, local_dir=folder, endpoint=endpoint
        )
    except (hub.errors.HTTPError, OSError, ValueError) as error:  # also where there is no route
        raise _unreachable(remote, error) from error
    return Path(found)


def _kaggle(remote: Remote, folder: Path) -> Path:
    """Through kagglehub's client, which knows Kaggle's credentials; read here, for the limit."""
    need("kagglehub", "kaggle")
    from kagglehub.clients import build_kaggle_client
    from kagglehub.exceptions import KaggleApiHTTPError
    from kagglehub.handle import parse_model_handle
    from kagglesdk.models.types.model_api_service import ApiDownloadModelInstanceVersionRequest
    from requests import RequestException

    match = _KAGGLE.fullmatch(remote.place)
    assert match
    try:
        handle = parse_model_handle(match[1])
        request = ApiDownloadModelInstanceVersionRequest()
        request.owner_slug = handle.owner
        request.model_slug = handle.model
        request.framework = handle.framework_enum()
        request.instance_slug = handle.variation
        request.version_number = handle.version
        request.path = match[2]
        with build_kaggle_client() as client:
            models = client.models.model_api_client
            response = models.download_model_instance_version(request)
            _check_size(remote, int(response.headers.get("Content-Length") or 0))
            return _received(remote, response.iter_content(2**20), folder / remote.name)
    except (RequestException, KaggleApiHTTPError, ValueError) as error:
        raise _unreachable(remote, error) from error


def _received(remote: Remote, chunks: Iterable[bytes], path: Path) -> Path:
    with path.open("wb") as file:
        for chunk in chunks:
            _check_size(remote, file.tell() + len(chunk))
            file.write(chunk)
    return path


def _check_size(remote: Remote, size: int | None) -> None:
    if size is None or size > MOST_BYTES:
        told = "an unknown number of" if size is None else f"{size:,} and more"
        raise IntegrityError(
            f"{remote.scheme}://{remote.place} has {told} bytes; a weight file may have "
            f"{MOST_BYTES:,}. Use a local copy instead."
        )


def _unreachable(remote: Remote, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300]
    return DataError(
        f"{remote.scheme}://{remote.place} could not be downloaded: {reason}. Correct the address, "
        "go on with a network, or give a local copy with --weights FILE."
    )


_HUBS: dict[str, Callable[[Remote, Path], Path]] = {"hf": _hf, "kaggle": _kaggle}
