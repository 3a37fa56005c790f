"""Weights from addresses: pinned, fetched once, capped; every server is on loopback."""

import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import keras
import pytest

from finetune.errors import DataError, IntegrityError, UsageError
from finetune.files import cache_dir
from finetune.model import remote_weights
from finetune.model.backbones import is_foreign
from finetune.model.base import build_base
from finetune.model.remote_weights import fetched, parse
from finetune.model.weights import base_arrays, load_weights
from finetune.recipe.reading import load

CONTENT = bytes(range(256)) * 40
DIGEST = sha256(CONTENT).hexdigest()
PIN = f"#sha256={DIGEST}"
REVISION = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """One file under any name; ``seen`` has method and path of every request."""

    content = CONTENT
    status = 200

    def __init__(self):
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(f"{self.command} {self.path}")
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", f'"{sha256(self.server.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.content)

    do_GET = do_HEAD = do_POST = _answer


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def hub(scheme: str, server: Server, monkeypatch) -> str:
    """The address of a file at a hub that is on loopback."""
    if scheme == "http":
        return f"{server.url}/models/w.h5{PIN}"
    if scheme == "hf":
        pytest.importorskip("huggingface_hub")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        return f"hf://someone/some.model@v1/keras/w.h5{PIN}"
    kaggle = pytest.importorskip("kagglesdk.kaggle_env")
    monkeypatch.setattr(kaggle, "_env_to_endpoint", dict.fromkeys(kaggle.KaggleEnv, server.url))
    return f"kaggle://someone/model/keras/small/3/w.h5{PIN}"


SCHEMES = pytest.mark.parametrize("scheme", ["http", "hf", "kaggle"])


@SCHEMES
def test_a_file_is_fetched_once_and_kept_by_its_digest(scheme, server, monkeypatch):
    address = hub(scheme, server, monkeypatch)
    path = fetched(address)
    assert path == cache_dir() / "weights" / DIGEST / "w.h5"
    assert path.read_bytes() == CONTENT
    asked = len(server.seen)
    assert 1 <= asked <= 3, server.seen
    assert fetched(address) == path
    assert len(server.seen) == asked, "what is there opens no socket"
    path.write_bytes(b"damaged")
    assert fetched(address).read_bytes() == CONTENT
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "w.h5"]


@SCHEMES
def test_another_digest_is_refused_and_nothing_is_left(scheme, server, monkeypatch):
    address = hub(scheme, server, monkeypatch)
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(IntegrityError, match=DIGEST):
        fetched(address)
    assert [file.name for file in cache_dir().glob("weights/*/*")] == [".lock"]


@SCHEMES
def test_a_file_that_is_too_large_is_refused(scheme, server, monkeypatch):
    monkeypatch.setattr(remote_weights, "MOST_BYTES", len(CONTENT) - 1)
    with pytest.raises(IntegrityError, match=r"bytes that it may have|a weight file may have"):
        fetched(hub(scheme, server, monkeypatch))
    assert [file.name for file in cache_dir().glob("weights/*/*")] == [".lock"]


@SCHEMES
def test_a_file_that_is_not_there(scheme, server, monkeypatch):
    server.status = 404
    with pytest.raises(DataError, match="could not be downloaded"):
        fetched(hub(scheme, server, monkeypatch))


def test_the_hub_cannot_be_reached(server, monkeypatch):
    address = hub("hf", server, monkeypatch)
    server.server_close()
    with pytest.raises(DataError, match="could not be downloaded.*go on with a network"):
        fetched(address)


def test_hf_knows_the_revision(server, monkeypatch):
    fetched(hub("hf", server, monkeypatch))
    assert {row.partition(" ")[2] for row in server.seen} == {
        "/someone/some.model/resolve/v1/keras/w.h5"
    }


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("https://host/w.h5", "an address without a digest"),
        ("https://host/w.h5#sha256=12", "64 hex digits"),
        ("ftp://host/w.h5" + PIN, "addresses are https://HOST/FILE"),
        ("https://host/w.pkl" + PIN, "w.pkl is no weight file; allowed are .h5"),
        ("https://host/" + PIN, "it is no weight file"),
        ("hf://w.h5" + PIN, r"followed by OWNER/REPOSITORY\[@REVISION\]/FILE"),
        ("kaggle://me/model/w.h5" + PIN, "followed by OWNER/MODEL/FRAMEWORK"),
    ],
)
def test_addresses_that_are_refused_before_anything_is_fetched(weights, words):
    with pytest.raises(UsageError, match=words):
        parse(weights)
    with pytest.raises(UsageError, match=words):
        load(None, {"weights": weights})


def test_an_address_keeps_its_place_in_the_recipe():
    address = f"https://host/a/w.safetensors?download=1{PIN}"
    assert load(None, {"weights": address}).weights == address
    assert parse(address).name == "w.safetensors"
    assert is_foreign("https://host/a/w.safetensors" + PIN)


def test_a_network_takes_its_weights_from_an_address(server, tmp_path):
    other = keras.applications.MobileNet((32, 32, 3), 0.25, include_top=False, weights=None)
    other.save_weights(tmp_path / "own.weights.h5")
    server.content = (tmp_path / "own.weights.h5").read_bytes()
    digest = sha256(server.content).hexdigest()
    address = f"{server.url}/own.weights.h5#sha256={digest}"
    base = build_base("mobilenet", 32, alpha=0.25)
    assert load_weights(base, "mobilenet", address, alpha=0.25).source == address
    assert (base_arrays(base)["conv1"][0] == other.get_layer("conv1").get_weights()[0]).all()
