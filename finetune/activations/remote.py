"""The store in object storage: what cache entries hold, kept at a URL and shared by machines.

    <url>/activations/<entry>/manifest.json         what the key is made of, for people
                              shard-<digest>.npy    rows, put first
                              shard-<digest>.json   their names and sha256, put last

Such stores have no rename and no lock, and need none: an object is there whole or not at all, and
its name is the digest of what the .json says, the sha256 of the rows among it. So a name has one
content, whoever puts it and however often. A shard exists from the moment its .json is there.
Writers that computed the same rows leave several shards that hold them: all readers take the same
one, the first by its digest. Nothing is read from here: shards are copied into the store on disk.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from finetune.activations.store import Store, parse_shard, read_shard
from finetune.data.photos import map_ahead
from finetune.disk import need_space
from finetune.errors import DataError, FinetuneError, UsageError, need
from finetune.files import cache_dir, cache_url, digest_of, shown_url
from finetune.progress import SILENT, Reporter

_FETCHED_AT_ONCE = 4  # shards of at most 64 MB, in memory
_SAID = {"sha256", "shape", "seconds", "rows"}
_NAME = re.compile(r"shard-([0-9a-f]{64})\.json")
# A lost connection or a 5xx is tried again by botocore, a broken answer by s3fs.
_S3 = {
    "config_kwargs": {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "max_attempts": 4},
    }
}
_S3_TRIES = 5
# aiohttp waits for "100 Continue" outside of its own timeouts. 64 MB at 1 Mbit/s take 9 minutes.
_SECONDS_PER_CALL = 600
_READ_AT_ONCE = 100  # .json files
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": _S3,
    "s3a": _S3,
    "file": {"auto_mkdir": True},
    "local": {"auto_mkdir": True},
}
_WITHOUT_BUCKETS = ("file", "local", "memory")


def remote_store() -> "Remote | None":
    """The store at the URL in ``FINETUNE_CACHE``; None if that names a folder.

    Raises:
        UsageError: the URL or the extra that opens it.
    """
    url = cache_url()
    return _opened(url) if url else None


def check_remote() -> None:
    """Say what is wrong with the store at a URL before anything is made or computed.

    Raises:
        UsageError: see ``remote_store``. DataError: no credentials, no such bucket, no answer.
    """
    remote = remote_store()
    if remote:
        remote.check()


@functools.cache
def _opened(url: str) -> "Remote":
    return Remote(url)


class Remote:
    """Shards at a URL, by cache entry.

    Args:
        url: of any kind that fsspec opens.

    Attributes:
        url: as it is shown.
    """

    def __init__(self, url: str):
        self.url = shown_url(url)
        core = need("fsspec.core", "remote")
        protocol = url.partition("://")[0]
        try:
            self._files, root = core.url_to_fs(url, **_OPTIONS.get(protocol, {}))
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"FINETUNE_CACHE is {self.url}, which cannot be opened: {error}. Allowed are a "
                'folder, s3://BUCKET/PREFIX with `pip install "finetune-cut[remote]"`, and other '
                "URLs whose fsspec package is installed."
            ) from error
        if protocol in ("s3", "s3a"):
            self._files.retries = _S3_TRIES
        self._limit = {"timeout": _SECONDS_PER_CALL} if self._files.async_impl else {}
        # those that are fetched at once share the network
        self._long_limit = {key: _FETCHED_AT_ONCE * value for key, value in self._limit.items()}
        self._root = root.rstrip("/")
        self._bucket = "" if protocol in _WITHOUT_BUCKETS else self._root.partition("/")[0]
        if not self._root:
            raise UsageError(f"FINETUNE_CACHE is {self.url}, which names no bucket or folder.")
        self._known: dict[str, dict[str, dict[str, Any]]] = {}  # entry -> digest -> its .json
        self._broken: set[str] = set()
        self._sent: set[Path] = set()

    def check(self) -> None:
        """Ask for what the URL holds; DataError if it does not answer, or has no such bucket."""
        with self._reported("read"):
            if not self._list(self._root) and self._bucket:
                self._files.invalidate_cache()
                with suppress(PermissionError):  # of rights to the prefix alone, which has answered
                    self._files.ls(self._bucket, detail=False, **self._limit)

    def holds(self, store: Store, names: Sequence[str]) -> set[str]:
        """Those of the names that had a row here when this process last asked."""
        known = self._known[store.key] if store.key in self._known else self._refreshed(store)
        rows = {name for content in known.values() for name in content["rows"]}
        return rows.intersection(names)

    def pull(self, store: Store, names: Sequence[str], reporter: Reporter = SILENT) -> None:
        """Copy the shards that hold rows which the store lacks; the caller holds its lock.

        A shard that is not what its .json says is warned of, and not used.
        """
        self._refreshed(store)
        while chosen := self._chosen(store, store.missing(names)):
            sizes = [int(np.prod(content["shape"])) for content in chosen.values()]
            need_space(store.folder, sum(sizes) * store.dtype.itemsize)
            label = f"activations fetched from {self.url}"
            fetched = map_ahead(functools.partial(self._fetch, store), chosen, _FETCHED_AT_ONCE)
            with reporter.stage(label, len(chosen), "shard") as advance, self._reported("read"):
                for (digest, content), rows in zip(chosen.items(), fetched, strict=True):
                    if rows is None:
                        self._broken.add(digest)
                        name = f"{self._folder(store)}/shard-{digest}.npy"
                        reporter.warn(f"{name} is damaged; its photos are computed again.")
                    else:
                        store.adopt(content, rows)
                    advance(1)

    def push(self, store: Store, names: Sequence[str]) -> None:
        """Copy here what the store holds of these rows, shard by shard; what is here stays."""
        known = self._known[store.key] if store.key in self._known else self._refreshed(store)
        for shard in store.shards(names):
            if shard not in self._sent:
                self._send(store, shard, known)
                self._sent.add(shard)

    def _send(self, store: Store, shard: Path, known: dict[str, dict[str, Any]]) -> None:
        content = read_shard(shard.with_suffix(".json"))
        digest = digest_of(content)
        if content is None or digest in known:
            return
        rows = shard.read_bytes()
        if hashlib.sha256(rows).hexdigest() != content["sha256"]:
            return  # damaged since it was checked: the next run sets it aside
        said = {**content, "digest": digest}
        place = f"{self._folder(store)}/shard-{digest}"
        with self._reported("written"):
            if not known:
                manifest = (store.folder / "manifest.json").read_bytes()
                self._put(f"{self._folder(store)}/manifest.json", manifest)
            self._put(f"{place}.npy", rows)
            self._put(f"{place}.json", json.dumps(said).encode())
        known[digest] = content

    def _put(self, place: str, content: bytes) -> None:
        self._files.pipe_file(place, content, **self._limit)

    def _folder(self, store: Store) -> str:
        return f"{self._root}/activations/{store.folder.name}"

    def _list(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            return self._files.ls(folder, detail=False, **self._limit)
        except FileNotFoundError:
            return []

    def _refreshed(self, store: Store) -> dict[str, dict[str, Any]]:
        """What all shards of an entry say, by digest: those that are new since are read."""
        known = self._known.setdefault(store.key, {})
        with self._reported("read"):
            named = [
                (path, _NAME.fullmatch(path.rpartition("/")[2]))
                for path in self._list(self._folder(store))
            ]
            new = {path: name[1] for path, name in named if name and name[1] not in known}
            paths = list(new)
            for start in range(0, len(paths), _READ_AT_ONCE):
                for path, text in self._texts(paths[start : start + _READ_AT_ONCE]):
                    content = parse_shard(text)
                    if content and set(content) >= _SAID and digest_of(content) == new[path]:
                        known[new[path]] = content
        return known

    def _texts(self, paths: list[str]) -> Iterator[tuple[str, bytes]]:
        """Of those that are still there."""
        for path, text in self._files.cat(paths, on_error="return", **self._limit).items():
            if isinstance(text, bytes):
                yield path, text
            elif not isinstance(text, FileNotFoundError):
                raise text

    def _chosen(self, store: Store, missing: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The shards to fetch for these rows."""
        wanted = set(missing)
        chosen = {}
        for digest, content in sorted(self._known[store.key].items()):
            if digest not in self._broken and not wanted.isdisjoint(content["rows"]):
                chosen[digest] = content
                wanted -= set(content["rows"])
        return chosen

    def _fetch(self, store: Store, digest: str) -> bytes | None:
        """The .npy file of a shard; None if it is damaged, as it is when read twice."""
        for _ in range(2):
            try:
                place = f"{self._folder(store)}/shard-{digest}.npy"
                rows = self._files.cat_file(place, **self._long_limit)
            except FileNotFoundError:
                return None
            if hashlib.sha256(rows).hexdigest() == self._known[store.key][digest]["sha256"]:
                return rows
        return None

    @contextmanager
    def _reported(self, done: str) -> Iterator[None]:
        """Every kind of store has errors of its own; to a user they are one."""
        try:
            yield
        except FinetuneError:
            raise
        except Exception as error:
            silent = f"no answer in {_SECONDS_PER_CALL} s or more"
            unsaid = silent if isinstance(error, TimeoutError) else type(error).__name__
            reason = " ".join(str(error).split())[:300] or unsaid
            raise DataError(
                f"The cache {self.url} cannot be {done}: {reason.rstrip('.')}. Check its address, "
                f"the credentials and the network. What is computed lies in {cache_dir()}; the "
                "same command again goes on from there."
            ) from error
