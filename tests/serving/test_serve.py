"""`finetune serve` on a real port: answers, limits, broken uploads, an orderly end, the page."""

import io
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from conftest import finetune, paint
from PIL import Image
from reliability.generators.photos import BROKEN, encoded, scene

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

from finetune.commands.predict import predict
from finetune.errors import UsageError
from finetune.runs.classifier import Classifier
from finetune.serving import network, uploads
from finetune.serving.app import Service
from finetune.serving.network import Served
from finetune.serving.server import Server, bind

APPLES, PLUMS = (200, 60, 50), (70, 60, 160)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of painted photos on random weights."""
    folder = tmp_path_factory.mktemp("served")
    for number, split in enumerate(("train", "validation", "test")):
        for i in range(6):
            for name, color in (("apples", APPLES), ("plums", PLUMS)):
                paint(folder / "photos" / split / name / f"{i}.png", color, 10 * number + i)
    done = finetune(
        *("run", "--data", folder / "photos", "--strategy", "cached-features"),
        *("--weights", "random", "--image-size", 64, "--out", folder / "run"),
        FINETUNE_CACHE=str(folder / "cache"),
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


@dataclass
class Process:
    """A server in a process of its own."""

    url: str
    pid: int


def start(run: Path, *more: object) -> tuple[subprocess.Popen, str]:
    """A server, and its address when it answers."""
    command = [sys.executable, "-m", "finetune", "serve", str(run), "--port", "0", *map(str, more)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    found = re.search(r"http://\S+(?=/)", line)
    if not found:
        process.kill()
        pytest.fail(line + process.communicate()[1])
    return process, found[0]


def end(process: subprocess.Popen) -> str:
    """What it wrote on stderr; its exit code is SIGTERM's."""
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, ""), err
    assert "Traceback" not in err
    return err


@pytest.fixture(scope="module")
def server(run) -> Iterator[Process]:
    process, url = start(run)
    yield Process(url, process.pid)
    assert "are finished first" in end(process)


@pytest.fixture
def apple(tmp_path) -> Path:
    return paint(tmp_path / "apple.png", APPLES, 99)


def form(*photos: bytes) -> list[tuple]:
    return [("file", (f"{i}.png", data)) for i, data in enumerate(photos)]


def ask(server: Process, data: bytes) -> dict:
    return requests.post(f"{server.url}/predict", data=data).json()


# Answers


def test_it_predicts_what_predict_predicts(server, run, apple):
    (expected,) = predict(run, apple, top=2)
    found = requests.post(f"{server.url}/predict?top=2", data=apple.read_bytes()).json()
    assert found["class"] == found["top"][0]["class"] == expected.top[0][0] == "apples"
    shares = [best["probability"] for best in found["top"]]
    assert shares == pytest.approx([share for _, share in expected.top], abs=2e-6)
    assert found["probability"] == shares[0]


def test_one_or_many_photos_raw_or_in_a_form(server, apple):
    data = apple.read_bytes()
    kinds = (
        {"data": data},
        {"files": form(data)},
        {"data": data, "headers": {"Content-Type": "a/b"}},
    )
    answers = [requests.post(f"{server.url}/predict", **sent).json() for sent in kinds]
    assert [(answer["file"], answer["class"], len(answer["top"])) for answer in answers] == [
        ("", "apples", 1),
        ("0.png", "apples", 1),
        ("", "apples", 1),
    ]
    several = requests.post(f"{server.url}/predict", files=form(data, b"text", data))
    assert several.status_code == 200
    assert [found["file"] for found in several.json()["predictions"]] == ["0.png", "2.png"]
    assert [found["file"] for found in several.json()["bad"]] == ["1.png"]
    refused = requests.post(f"{server.url}/predict", files=form(b"text", b"text"))
    assert refused.status_code == 415


def test_many_clients_get_their_own_answers(server, tmp_path):
    colors = {"apples": APPLES, "plums": PLUMS}
    photos = [
        (name, paint(tmp_path / name / f"{i}.png", color, i).read_bytes())
        for i in range(20)
        for name, color in colors.items()
    ]
    with ThreadPoolExecutor(16) as clients:
        answers = clients.map(
            lambda photo: requests.post(f"{server.url}/predict", data=photo[1]), photos
        )
        found = [answer.json()["class"] for answer in answers]
    assert found == [name for name, _ in photos]
    text = requests.get(f"{server.url}/metrics").text
    counts = dict(re.findall(r"^(finetune_\w+?)(?:\{.*\})? ([\d.]+)$", text, re.MULTILINE))
    assert float(counts["finetune_photos_total"]) >= 40
    assert float(counts["finetune_batch_photos_sum"]) == float(counts["finetune_photos_total"])
    assert 'finetune_requests_total{route="/predict",status="200"}' in text


def test_health_and_metadata(server, run):
    assert requests.get(f"{server.url}/healthz").json() == {"status": "ok"}
    about = requests.get(f"{server.url}/metadata").json()
    assert (about["run"], about["classes"]) == ("run", ["apples", "plums"])
    assert (about["image_size"], about["resize"], about["backbone"]) == (64, "squash", "vgg16")
    assert (
        about["test"]["accuracy"]
        == json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    )
    assert str(run.parent) not in json.dumps(about), "paths of this machine are nobody's business"


def test_the_evidence_is_a_picture_of_the_photo(server, apple):
    answer = requests.post(f"{server.url}/explain?class=plums", data=apple.read_bytes())
    assert answer.headers["Content-Type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (448, 336)  # 40 x 30 px, larger
    seen = [
        requests.post(f"{server.url}/explain?class={name}", data=apple.read_bytes()).headers
        for name in ("apples", "plums")
    ]
    assert {headers["X-Evidence"] for headers in seen} <= {"some", "none"}
    wrong = requests.post(f"{server.url}/explain?class=pears", data=apple.read_bytes())
    assert (wrong.status_code, "no class 'pears'" in wrong.json()["detail"]) == (422, True)
    assert requests.post(f"{server.url}/explain", data=b"text").status_code == 415
    many = requests.post(f"{server.url}/explain", files=form(b"a", b"b"))
    assert many.status_code == 422


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_there_is_no_tensorflow_in_the_process(server, apple):
    requests.post(f"{server.url}/explain", data=apple.read_bytes()).raise_for_status()
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "openvino" in maps
    assert "site-packages/tensorflow/" not in maps


# Refusals


@pytest.mark.parametrize(
    ("status", "words", "sent"),
    [
        (413, "too many pixels", {"data": BROKEN["wide.gif"]()}),
        (413, "megapixels", {"data": encoded(Image.new("1", (9000, 9000)), "PNG")}),
        (413, "too many pixels", {"data": BROKEN["wide.png"]()}),
        (415, "known format", {"data": b"text"}),
        (415, "known format", {"data": encoded(scene(1), "PPM")}),
        (422, "cannot be decoded", {"data": encoded(scene(1), "PNG")[:-900]}),
        (422, "no photo in this request", {"data": b""}),
        (422, "no photo in this request", {"files": form(b"")}),
        (422, "no photo in this request", {"files": [("photo", ("a.png", b"data"))]}),
        (422, "greater than or equal to 1", {"data": b"text", "params": {"top": 0}}),
        (422, "valid integer", {"data": b"text", "params": {"top": "x"}}),
        (400, "Too many files", {"files": form(*[b"a"] * 65)}),
        (400, "boundary", {"data": b"a", "headers": {"Content-Type": "multipart/form-data"}}),
        (
            400,
            "multipart",
            {"data": b"a" * 99, "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_plain_words(server, status, words, sent):
    answer = requests.post(f"{server.url}/predict", **sent)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_a_request_that_is_too_large_is_refused_whether_it_says_so_or_not(server):
    size = uploads.MAX_UPLOAD + 1
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        assert client.recv(99).startswith(b"HTTP/1.1 413")
    chunks = (bytes(2**20) for _ in range(uploads.MAX_UPLOAD // 2**20 + 1))
    answer = requests.post(f"{server.url}/predict", data=chunks)
    assert answer.status_code == 413
    assert f"allowed are {uploads.MAX_UPLOAD:,}" in answer.json()["detail"]


def broken(count: int) -> Iterator[bytes]:
    """Broken files, and photos with bytes cut out, changed or doubled."""
    draw = random.Random(0)
    whole = [
        encoded(scene(n), kind) for n, kind in enumerate(("JPEG", "PNG", "WEBP", "TIFF", "GIF"))
    ]
    made = [make() for make in BROKEN.values()]
    for number in range(count):
        if number < len(made):
            yield made[number]
            continue
        data = bytearray(draw.choice(whole))
        for _ in range(draw.randint(1, 20)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        start = draw.randrange(len(data))
        yield bytes(data[:start] + data[start + draw.randrange(200) :])


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_broken_uploads_do_no_harm(server, count, apple):
    def send(numbered: tuple[int, bytes]) -> int:
        number, data = numbered
        kind = {"files": form(data)} if number % 2 else {"data": data}
        return requests.post(f"{server.url}/predict", **kind).status_code

    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(send, enumerate(broken(count))))
    assert set(found) <= {200, 413, 415, 422}  # a few changed bytes may leave a photo
    assert len([status for status in found if status != 200]) > count / 2
    assert (
        requests.post(f"{server.url}/predict", data=apple.read_bytes()).json()["class"] == "apples"
    )


# Limits of a server whose network is a stand-in


class Stand:
    """A service in this process whose network waits until it is let go."""

    def __init__(self):
        self.go = threading.Event()
        self.begun = threading.Event()
        classifier = Classifier(Path("run"), ("apples", "plums"), 8, "squash")
        self.service = Service(Served(classifier, "float32", self._engine, None, {"run": "run"}))
        self.taken = bind("127.0.0.1", 0)
        self.server = Server(self.service, self.taken)
        self.url = f"http://127.0.0.1:{self.taken.getsockname()[1]}"

    def _engine(self, batches):
        self.begun.set()
        assert self.go.wait(60)
        for batch in batches:
            yield np.tile(np.float32([0.75, 0.25]), (len(batch), 1))

    def post(self, **sent) -> requests.Response:
        return requests.post(f"{self.url}/predict", timeout=60, **sent)


@pytest.fixture
def stand() -> Iterator[Stand]:
    stand = Stand()
    yield stand
    stand.go.set()
    stand.server.close()
    assert stand.service.admission == uploads.Admission(0, 0), "what was held was not given back"


PHOTO = encoded(scene(1), "PNG")


def test_a_full_server_turns_requests_away(stand, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_REQUESTS", 1)
    with ThreadPoolExecutor(1) as client:
        first = client.submit(stand.post, data=PHOTO)
        assert stand.begun.wait(60)
        refused = stand.post(data=PHOTO)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert requests.get(f"{stand.url}/healthz").status_code == 200
        stand.go.set()
        assert first.result(60).json()["probability"] == 0.75
    assert stand.post(data=PHOTO).status_code == 200


def test_bytes_of_all_requests_together_are_limited(stand, monkeypatch):
    stand.go.set()
    monkeypatch.setattr(uploads, "MAX_HELD", len(PHOTO))
    assert stand.post(data=PHOTO).status_code == 200
    for sent in ({"data": PHOTO + b"x"}, {"files": form(PHOTO)}):
        refused = stand.post(**sent)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")


def test_a_request_that_does_not_arrive_is_given_up(stand, monkeypatch):
    monkeypatch.setattr(uploads, "READ_SECONDS", 0.2)
    with socket.create_connection(stand.taken.getsockname()) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
        assert client.recv(99).startswith(b"HTTP/1.1 408")


def test_a_client_that_goes_away_leaves_nothing_behind(stand):
    stand.go.set()
    with socket.create_connection(stand.taken.getsockname()) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab")
        while not stand.service.admission.held:
            time.sleep(0.01)
    assert stand.post(data=PHOTO).status_code == 200


def test_requests_that_are_being_answered_are_finished_at_the_end(stand):
    with ThreadPoolExecutor(2) as client:
        answer = client.submit(stand.post, data=PHOTO)
        assert stand.begun.wait(60)
        ending = client.submit(stand.server.close)
        stand.go.set()
        assert answer.result(60).json()["class"] == "apples"
        ending.result(60)
    with pytest.raises(requests.ConnectionError):
        stand.post(data=PHOTO)


def test_a_network_that_fails_is_an_error_and_not_the_end(stand):
    stand.service._batcher._rows = lambda photos: 1 / 0
    assert stand.post(data=PHOTO).status_code == 500
    stand.service._batcher._rows = stand.service.served.rows
    stand.go.set()
    assert stand.post(data=PHOTO).status_code == 200


# The command


def test_what_keeps_it_from_starting_is_said(run, tmp_path):
    taken = bind("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    busy = finetune("serve", run, "--port", port)
    assert (busy.returncode, busy.stdout) == (75, "")
    assert f"Port {port}" in busy.stderr
    taken.close()
    for code, words, given in (
        (2, "--host", ("serve", run, "--port", 0, "--host", "203.0.113.7")),
        (2, "no OpenVINO network", ("serve", tmp_path, "--port", 0)),
        (3, "does not exist", ("serve", tmp_path / "none", "--port", 0)),
    ):
        done = finetune(*given)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_the_network_is_made_where_it_can_be_before_a_run_is_refused(tmp_path, monkeypatch):
    asked = []
    unmade = SimpleNamespace(has_ir=lambda: asked.append(1))
    monkeypatch.setattr(network, "Classifier", SimpleNamespace(open=lambda run: unmade))
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(UsageError, match="no OpenVINO network"):
        network.open_served(tmp_path)
    assert asked


def test_without_the_extra_the_line_that_installs_it_is_named(run):
    code = "import sys; sys.modules['uvicorn'] = None; from finetune.cli.app import main\n"
    code += f"sys.argv = ['finetune', 'serve', {str(run)!r}]; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert 'pip install "finetune-cut[serve]"' in done.stderr


# The page


def test_the_page_shows_classes_and_evidence(server, browser, apple, tmp_path):
    for width in (1280, 390):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"{server.url}/")
        wait(browser, "return document.title === 'run'")
        browser.find_element("id", "file").send_keys(str(apple))
        wait(browser, "return document.getElementById('heat').naturalWidth === 448")
        names = [
            button.text.split("\n")[0] for button in browser.find_elements("css selector", "button")
        ]
        assert [name.split(" ")[0] for name in names] == ["apples", "plums"]
        assert browser.execute_script("return document.scrollingElement.scrollWidth <= innerWidth")
        browser.save_screenshot(str(tmp_path / f"{width}.png"))
    browser.find_elements("css selector", "button")[1].click()
    wait(browser, "return document.getElementById('heat').alt.includes('plums')")
    assert "evidence for plums" in browser.find_element("id", "caption").text
    assert browser.get_log("browser") == []
    (tmp_path / "text.png").write_text("no photo")
    browser.find_element("id", "file").send_keys(str(tmp_path / "text.png"))
    wait(browser, "return document.getElementById('status').textContent.includes('known format')")


def wait(browser, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda page: page.execute_script(script), script)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_it_in_order(run):
    process, url = start(run)
    requests.get(f"{url}/healthz").raise_for_status()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
