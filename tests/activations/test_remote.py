"""The store at a URL: machines share rows; whatever breaks on the way, no row is ever wrong."""

import hashlib
import http.client
import itertools
import json
import logging
import os
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import finetune_here

from finetune.activations import remote as remotes
from finetune.activations.cache import ActivationCache
from finetune.activations.extract import extract
from finetune.activations.remote import Remote, check_remote, remote_store
from finetune.activations.store import Store, row_name
from finetune.commands.cache import ls
from finetune.commands.run import plan_run, run
from finetune.data.dataset import read_folder
from finetune.data.photos import Pixels, read_photos
from finetune.errors import DataError, UsageError
from finetune.files import cache_dir, digest_of
from finetune.progress import SILENT, Reporter

fsspec = pytest.importorskip("fsspec")

FIELDS = {"backbone": "test", "cut": "block", "weights": "", "pixels": {}}
NAMES = [f"{number:064x}" for number in range(24)]
ROWS = np.random.default_rng(0).normal(size=(24, 2, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def fresh():
    remotes._opened.cache_clear()
    yield
    remotes._opened.cache_clear()


@pytest.fixture
def url(monkeypatch, tmp_path) -> str:
    """A store in memory; the copy on disk is ``tmp_path/local``."""
    return use(monkeypatch, tmp_path, f"memory://{uuid.uuid4().hex}/prefix")


def use(monkeypatch, tmp_path, url: str) -> str:
    monkeypatch.setenv("FINETUNE_CACHE", url)
    monkeypatch.setenv("FINETUNE_CACHE_LOCAL", str(tmp_path / "local"))
    return url


def machine(folder, *parts: range) -> Store:
    """The store of a machine that has computed these rows, a shard for each part."""
    store = Store(folder, FIELDS, "float32")
    for part in parts:
        store.add([NAMES[index] for index in part], ROWS[list(part)], seconds=len(part))
    return store


def pulled(url: str, folder, reporter=SILENT) -> Store:
    """What a machine without any rows gets: all of them, bit by bit."""
    store = machine(folder)
    Remote(url).pull(store, NAMES, reporter)
    return store


def same(store: Store) -> bool:
    return np.array_equal(store.rows(NAMES)[range(24)], ROWS)


def objects(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return sorted(files.find(root))


class Heard(Reporter):
    def __init__(self):
        super().__init__(silent=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_rows_of_one_machine_are_there_on_another_bit_by_bit(url, tmp_path):
    one = machine(tmp_path / "one", range(10), range(10, 24))
    remote = Remote(url)
    remote.push(one, NAMES)
    remote.push(one, NAMES)
    assert [name.rpartition(".")[2] for name in objects(url)].count("npy") == 2
    assert len(objects(url)) == 5
    other = machine(tmp_path / "other")
    assert Remote(url).holds(other, [*NAMES, "unknown"]) == set(NAMES)
    assert len(other) == 0, "asking copies nothing"
    assert same(pulled(url, tmp_path / "other"))
    manifest = (one.folder / "manifest.json").read_bytes()
    assert (other.folder / "manifest.json").read_bytes() == manifest
    Remote(url).push(machine(tmp_path / "other"), NAMES)
    assert len(objects(url)) == 5, "what came from there is not put there again"


def test_only_the_shards_that_are_needed_are_copied(url, tmp_path):
    Remote(url).push(machine(tmp_path / "one", range(10), range(10, 24)), NAMES)
    other = machine(tmp_path / "other", range(3))
    Remote(url).pull(other, NAMES[:3])
    assert len(other) == 3
    Remote(url).pull(other, NAMES[:5])
    assert len(other) == 10


def test_few_shards_wait_in_memory_however_slow_the_disk_is(url, tmp_path, monkeypatch):
    Remote(url).push(machine(tmp_path / "one", *(range(i, i + 1) for i in range(24))), NAMES)
    fetch = Remote._fetch
    adopt = Store.adopt
    fetched = []
    waiting = []

    def counted(remote, store, digest):
        fetched.append(digest)
        return fetch(remote, store, digest)

    def slow(store, content, rows):
        time.sleep(0.02)
        waiting.append(len(fetched) - len(waiting))
        adopt(store, content, rows)

    monkeypatch.setattr(Remote, "_fetch", counted)
    monkeypatch.setattr(Store, "adopt", slow)
    assert same(pulled(url, tmp_path / "other"))
    assert max(waiting) <= 4


def test_writers_of_the_same_rows_leave_one_valid_set(url, tmp_path):
    """Machines that computed the same rows in shards of their own put them there at once."""
    cuts = [(0, 24), (0, 12, 24), (0, 5, 9, 24), (0, 1, 23, 24)] * 2
    start = threading.Barrier(len(cuts))

    def write(number: int) -> None:
        parts = itertools.starmap(range, itertools.pairwise(cuts[number]))
        store = machine(tmp_path / f"writer-{number}", *parts)
        start.wait()
        Remote(url).push(store, NAMES)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(len(cuts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    readers = [pulled(url, tmp_path / name) for name in ("first", "second")]
    assert all(map(same, readers))
    taken = [sorted(path.name for path in reader.folder.glob("shard-*")) for reader in readers]
    assert taken[0] == taken[1], "all readers take the same"
    named = [name for name in objects(url) if "shard-" in name]
    assert {name.rpartition(".")[0] for name in named if name.endswith("json")} == {
        name.rpartition(".")[0] for name in named if name.endswith("npy")
    }


def test_a_shard_whose_json_is_missing_is_not_there_until_it_is_put_again(url, tmp_path):
    """A writer that was killed between the two."""
    one = machine(tmp_path / "one", range(24))
    Remote(url).push(one, NAMES)
    files, _ = fsspec.core.url_to_fs(url)
    files.rm([name for name in objects(url) if "shard-" in name and name.endswith(".json")])
    other = machine(tmp_path / "other")
    assert Remote(url).holds(other, NAMES) == set()
    Remote(url).pull(other, NAMES)
    assert len(other) == 0
    Remote(url).push(one, NAMES)
    assert same(pulled(url, tmp_path / "other"))


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
def test_a_damaged_shard_is_warned_of_and_another_one_is_taken(url, tmp_path, damage):
    one = machine(tmp_path / "one", range(24))
    Remote(url).push(one, NAMES)
    files, _ = fsspec.core.url_to_fs(url)
    (shard,) = (name for name in objects(url) if name.endswith(".npy"))
    files.rm(shard) if damage is None else files.pipe_file(shard, damage)
    heard = Heard()
    other = pulled(url, tmp_path / "other", heard)
    assert len(other) == 0
    assert len(heard.warnings) == 1
    assert "is damaged" in heard.warnings[0]
    other.add(NAMES, ROWS)
    Remote(url).push(other, NAMES)
    assert same(pulled(url, tmp_path / "third"))


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"digest": "x"}'])
def test_a_json_that_is_not_what_its_name_says_is_not_read(url, tmp_path, text):
    Remote(url).push(machine(tmp_path / "one", range(24)), NAMES)
    files, _ = fsspec.core.url_to_fs(url)
    for name in objects(url):
        if "shard-" in name and name.endswith(".json"):
            files.pipe_file(name, text)
    assert Remote(url).holds(machine(tmp_path / "other"), NAMES) == set()


def test_the_copy_on_disk_is_mended_from_the_url(url, tmp_path, photos):
    dataset = read_folder(photos)
    train = dataset.split("train")
    names = [row_name(photo.sha256) for photo in train]

    def fill(store, remote, engine=lambda: colours):
        def read(wanted):
            return read_photos(Pixels(16), wanted, [None for _ in wanted])

        done = extract([store], train, 0, read, engine, 12, "test", SILENT, remote=remote)
        remote.push(store, names)
        return done.computed

    def colours(batches):
        yield from (batch.mean(axis=(1, 2), dtype=np.float32) for batch in batches)

    assert fill(Store(tmp_path / "one", FIELDS, "float32"), Remote(url)) == 12
    other = Store(tmp_path / "other", FIELDS, "float32")
    assert fill(other, Remote(url), never) == 0
    (shard,) = other.folder.glob("*.npy")
    shard.write_bytes(shard.read_bytes()[:-4])
    assert fill(Store(tmp_path / "other", FIELDS, "float32"), Remote(url), never) == 0
    assert len(objects(url)) == 3


def never():
    pytest.fail("nothing is missing")


def test_a_run_on_another_machine_computes_nothing(url, photos, tmp_path, monkeypatch):
    recipe = {"weights": "random", "image_size": 32, "strategy": "cached-features"}
    monkeypatch.setenv("FINETUNE_CACHE_LOCAL", str(tmp_path / "a"))
    first = run(recipe, data=photos, out=tmp_path / "run-a")
    assert first.extracted == 26
    monkeypatch.setenv("FINETUNE_CACHE_LOCAL", str(tmp_path / "b"))
    remotes._opened.cache_clear()
    plan = plan_run(recipe, data=photos)
    assert plan["to_extract"] == 0
    assert not list((tmp_path / "b").glob("activations/*/*.npy")), "a dry run copies nothing"
    computed = []
    real = ActivationCache.rows
    monkeypatch.setattr(
        ActivationCache,
        "rows",
        lambda self, *given: (real(self, *given), computed.append(self.computed))[0],
    )
    again = run(recipe, data=photos, out=tmp_path / "run-b")
    assert again.extracted == 0
    assert set(computed) == {0}
    assert again.test == first.test
    assert ls()["copy_of"] == url
    assert ls()["cache"] == str(tmp_path / "b")
    listed = finetune_here("cache", "ls")
    assert f"the copy on disk of {url}" in listed.stdout


def test_a_url_is_a_url_and_a_folder_a_folder(monkeypatch, tmp_path):
    assert remote_store() is None
    use(monkeypatch, tmp_path, f"file://{tmp_path}/shared")
    assert cache_dir() == tmp_path / "local"
    check_remote()
    remote_store().push(machine(tmp_path / "one", range(24)), NAMES)
    assert same(pulled(os.environ["FINETUNE_CACHE"], tmp_path / "other"))
    monkeypatch.delenv("FINETUNE_CACHE_LOCAL")
    assert cache_dir().name == "finetune"


def test_rights_to_an_empty_prefix_alone_are_enough(url, monkeypatch):
    remote = remote_store()
    root = remote._root
    remote._bucket = root.rpartition("/")[0]

    def ls(folder, **_):
        raise FileNotFoundError(folder) if folder == root else PermissionError("denied")

    monkeypatch.setattr(remote._files, "ls", ls)
    remote.check()
    remote._root = "/elsewhere"
    with pytest.raises(DataError, match="denied"):
        remote.check()


def test_a_password_is_not_shown(monkeypatch, tmp_path):
    use(monkeypatch, tmp_path, "memory://me:secret@somewhere/x")
    assert remote_store().url == "memory://somewhere/x"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense://bucket/x", "nonsense://bucket/x, which cannot be opened"),
        ("s3://", "s3://, which names no bucket"),
    ],
)
def test_a_url_that_nothing_opens_is_refused(monkeypatch, tmp_path, url, reason):
    use(monkeypatch, tmp_path, url)
    with pytest.raises(UsageError, match=reason):
        check_remote()


# A real S3 server on loopback


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server", reason="needs moto, flask and flask-cors")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def s3(server, monkeypatch, tmp_path) -> str:
    return bucket(server, server, monkeypatch, tmp_path)


def bucket(server: str, through: str, monkeypatch, tmp_path) -> str:
    """The URL of a new bucket, reached through another address."""
    import boto3
    import s3fs

    variables = {
        "AWS_ENDPOINT_URL": through,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=name)
    return use(monkeypatch, tmp_path, f"s3://{name}/prefix")


def test_rows_are_shared_through_s3(s3, tmp_path):
    check_remote()
    Remote(s3).push(machine(tmp_path / "one", range(10), range(10, 24)), NAMES)
    assert same(pulled(s3, tmp_path / "other"))
    (text,) = (
        fsspec.filesystem("s3").cat_file(name)
        for name in objects(s3)
        if name.endswith(".json") and b'"shape": [10,' in fsspec.filesystem("s3").cat_file(name)
    )
    said = json.loads(text)
    assert said.pop("digest") == digest_of(said)
    assert said["rows"] == NAMES[:10]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"FINETUNE_CACHE": "s3://no-such-bucket/x"}, "bucket does not exist"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "credentials"),
    ],
)
def test_what_cannot_be_reached_is_said_before_anything_is_made(
    s3, photos, tmp_path, monkeypatch, change, reason
):
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    (tmp_path / "r.yaml").write_text(f"data: {photos}\nweights: random\n")
    for words in (
        ("run", "--data", photos, "--weights", "random", "--out", tmp_path / "out"),
        ("compare", tmp_path / "r.yaml", "--out", tmp_path / "out"),
        ("extract-features", "--data", photos, "--out", tmp_path / "out"),
    ):
        remotes._opened.cache_clear()
        done = finetune_here(*words)
        assert done.returncode == 3, done.stderr
        assert done.stdout == ""
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "local").exists()


class Proxy(ThreadingHTTPServer):
    """Passes requests on to an S3 server, and does to each what ``fault`` says of its number."""

    daemon_threads = True

    def __init__(self, server: str, fault):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.server = server.removeprefix("http://")
        self.fault = fault
        self.numbers = itertools.count()
        self.done: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """Connections end here on purpose."""


class _Passing(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """A test prints nothing."""

    def do_GET(self) -> None:
        fault = self.server.fault(next(self.server.numbers), self.command)
        self.server.done.append(fault)
        if self.headers.get("Expect"):  # the client waits for this before it sends a body
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if fault == "drop before":
            return
        if fault == "busy":
            text = b"<Error><Code>ServiceUnavailable</Code><Message>later</Message></Error>"
            self.answer(503, {}, text)
            return
        if fault == "slow":
            time.sleep(1)
        onward = http.client.HTTPConnection(self.server.server)
        onward.request(self.command, self.path, body, dict(self.headers))
        answer = onward.getresponse()
        text = answer.read()
        if fault != "drop after":
            self.answer(answer.status, dict(answer.getheaders()), text, fault == "cut")

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def answer(self, status: int, headers: dict, text: bytes, is_cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text[: len(text) // 2] if is_cut else text)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["drop before", "drop after", "cut", "busy", "slow"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_that_fails_every_third_time_changes_no_row(
    server, monkeypatch, tmp_path, fault, seed
):
    draws = np.random.default_rng(seed)
    proxy = Proxy(server, lambda number, method: fault if draws.random() < 1 / 3 else "")
    url = bucket(server, proxy.url, monkeypatch, tmp_path)
    check_remote()
    parts = [range(start, start + 4) for start in range(0, 24, 4)]
    Remote(url).push(machine(tmp_path / "one", *parts), NAMES)
    assert same(pulled(url, tmp_path / "other"))
    assert fault in proxy.done
    proxy.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["busy", "drop before"])
def test_a_store_that_stops_answering_ends_in_a_paragraph_and_loses_nothing(
    server, monkeypatch, tmp_path, photos, fault
):
    broken = threading.Event()
    proxy = Proxy(server, lambda number, method: fault if broken.is_set() else "")
    bucket(server, proxy.url, monkeypatch, tmp_path)
    recipe = {"weights": "random", "image_size": 32, "strategy": "cached-features"}
    real = Remote.push

    def push(self, store, names):
        broken.set()
        real(self, store, names)

    monkeypatch.setattr(Remote, "push", push)
    with pytest.raises(DataError, match="cannot be written.*goes on from there"):
        run(recipe, data=photos, out=tmp_path / "run")
    monkeypatch.setattr(Remote, "push", real)
    broken.clear()
    remotes._opened.cache_clear()
    done = run(recipe, data=photos, out=tmp_path / "run")
    assert done.extracted < 26, "what was computed is kept"
    names = [name for name in objects(os.environ["FINETUNE_CACHE"]) if name.endswith(".npy")]
    files, _ = fsspec.core.url_to_fs(os.environ["FINETUNE_CACHE"])
    said = [json.loads(files.cat_file(name.replace(".npy", ".json"))) for name in names]
    assert sum(len(shard["rows"]) for shard in said) == 26
    for name, shard in zip(names, said, strict=True):
        assert hashlib.sha256(files.cat_file(name)).hexdigest() == shard["sha256"]
    proxy.shutdown()


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(server, monkeypatch, tmp_path):
    """It accepts a connection, and not even says 100 Continue."""
    monkeypatch.setattr(remotes, "_SECONDS_PER_CALL", 5)
    is_deaf, is_over = threading.Event(), threading.Event()
    proxy = Proxy(server, lambda number, method: is_deaf.is_set() and is_over.wait() and "")
    remote = Remote(bucket(server, proxy.url, monkeypatch, tmp_path))
    store = machine(tmp_path / "one", range(24))
    assert not remote.holds(store, NAMES)
    is_deaf.set()
    start = time.monotonic()
    with pytest.raises(DataError, match="cannot be written: no answer in 5 s.*goes on from there"):
        remote.push(store, NAMES)
    with pytest.raises(DataError, match="cannot be read: no answer in 5 s"):
        remote.check()
    assert time.monotonic() - start < 20
    is_over.set()
    proxy.shutdown()
