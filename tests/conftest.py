"""Fixtures. Real photos and weights come through FINETUNE_DATA_DIR and FINETUNE_WEIGHTS_DIR;
without them tests skip.
"""

import io
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from finetune.model.backbones import BACKBONES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# DenseNet121's 427 layers cost three times as much as the others together.
NETWORKS = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "densenet121" else [])
    for name in BACKBONES
]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """Every test has a cache of its own, and no local copies unless it asks for them.
    It goes with the test: pytest would keep them all to the end, 4.5 GB of a whole suite."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FINETUNE_CACHE", str(folder))
    yield folder
    shutil.rmtree(folder)


def _required(variable: str, file: str) -> Path:
    folder = os.environ.get(variable)
    if not folder or not Path(folder, file).exists():
        pytest.skip(f"{variable} does not name a folder that holds {file}")
    return Path(folder, file)


@pytest.fixture
def cats_and_dogs() -> Path:
    """The 4,000 real photos."""
    return _required("FINETUNE_DATA_DIR", "cats_and_dogs_small")


@pytest.fixture
def vgg16_file() -> Path:
    """The real ImageNet weights of VGG16."""
    return _required("FINETUNE_WEIGHTS_DIR", "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5")


def paint(
    path: Path, color: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 30)
) -> Path:
    """A photo-like file: a colour with noise of its own, so that no two files are alike."""
    noise = np.random.default_rng(seed).integers(-40, 41, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder with splits of two classes that any network can tell apart: 12 + 7 + 7 photos, no
    multiple of 4 or 8.
    """
    for split, counts in {"train": (7, 5), "validation": (3, 4), "test": (4, 3)}.items():
        for name, color, count in zip(
            ("apples", "plums"), ((200, 60, 50), (70, 60, 160)), counts, strict=True
        ):
            for i in range(count):
                paint(
                    tmp_path / "photos" / split / name / f"{i}.png",
                    color,
                    zlib.crc32(f"{split}/{name}/{i}".encode()),
                )
    return tmp_path / "photos"


@pytest.fixture
def no_worker(monkeypatch):
    """A comparison's trials run in this process, which has paid for TensorFlow already. What the
    worker process itself promises has its tests in tests/commands/test_compare.py.
    """
    from finetune.execution import local, worker

    def begin(own: local.Worker) -> local.Worker:
        monkeypatch.setattr(worker, "_bench", None)  # a new worker has kept nothing
        return own

    monkeypatch.setattr(local.Worker, "__enter__", begin)
    monkeypatch.setattr(local.Worker, "run", lambda _, job: worker.work(job))


def finetune_here(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run the command line in this process, which has paid for TensorFlow already.

    What libraries write to the descriptors themselves is not caught: see ``finetune``.
    """
    from finetune.cli import app

    command = ["finetune", *map(str, arguments)]
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True)
    err = io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.object(app, "_watch_signals"),
        mock.patch.dict(os.environ, environment),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    text = out.buffer.getvalue().decode()
    return subprocess.CompletedProcess(command, code, text, err.getvalue())


def finetune(
    *arguments: object, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess:
    """Run the command line as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "finetune", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, driven over its own chromedriver; nothing is downloaded."""
    chromium = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip(
            "needs Chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
        )
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="needs selenium (pip install selenium)"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    )
    for flag in (
        *flags.split(),
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
    ):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
        yield chrome
