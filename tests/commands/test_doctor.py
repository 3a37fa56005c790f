"""`finetune doctor`: what is there, and exit code 1 with the mend for what is wrong."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import finetune

from finetune.commands import doctor as module
from finetune.commands.doctor import ADDS, doctor
from finetune.model.backbones import BACKBONES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(monkeypatch):
    """The requirements of this source tree, as if it had been installed; no weights anywhere."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra, texts in project["optional-dependencies"].items():
        lines += [f'{text}; extra == "{extra}"' for text in texts]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    versions = importlib.metadata.version

    def version(name: str) -> str:
        return project["name"] if name == module.PACKAGE else versions(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for name in ("FINETUNE_WEIGHTS_DIR", "FINETUNE_DATA_DIR", "KERAS_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return project


def problems() -> list[str]:
    found = doctor()
    assert found["ok"] == (not found["problems"])
    assert all(problem["mend"].endswith(".") for problem in found["problems"])
    return [problem["problem"] for problem in found["problems"]]


def test_a_sound_installation_has_no_problems(installed, cache):
    found = doctor()
    assert found["problems"] == []
    assert found["versions"]["tensorflow"] == importlib.metadata.version("tensorflow")
    assert found["precision"]["float32"] == "yes"
    assert found["devices"][0].startswith("CPU: ")
    assert (found["cache"]["folder"], found["cache"]["bytes"]) == (str(cache), 0)
    (cache / "file").write_bytes(bytes(1000))
    assert doctor()["cache"]["bytes"] == 1000
    json.dumps(found, allow_nan=False)


def test_every_extra_of_users_says_what_it_adds(installed):
    extras = set(installed["optional-dependencies"]) - {"all", "bench", "test", "dev", "docs"}
    assert set(ADDS) == extras


def test_a_missing_extra_has_its_line(installed, monkeypatch):
    versions = importlib.metadata.version

    def version(name: str) -> str:
        if name == "uvicorn":
            raise importlib.metadata.PackageNotFoundError(name)
        return versions(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    extra = doctor()["extras"]["serve"]
    assert [name.partition(">")[0] for name in extra["missing"]] == ["uvicorn"]
    assert extra["install"] == 'pip install "finetune-cut[serve]"'
    assert problems() == [], "what is optional may be missing"


def test_weights_are_found_where_they_would_be_read(installed, tmp_path, monkeypatch):
    row = BACKBONES["resnet50"]
    for variable, folder in (("KERAS_HOME", "keras/models"), ("FINETUNE_WEIGHTS_DIR", "own")):
        file = tmp_path / folder / row.weights_file
        file.parent.mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / folder.partition("/")[0]))
        assert doctor()["weights"]["resnet50"] is None
        file.write_bytes(b"weights")
        assert doctor()["weights"]["resnet50"] == str(file)
        file.unlink()
    assert doctor()["weights"]["densenet121"] is None


def test_what_is_wrong_is_named(installed, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert problems() == [
        "KERAS_BACKEND is 'jax'; allowed is tensorflow.",
        f"FINETUNE_DATA_DIR is '{tmp_path / 'none'}', which is no folder.",
    ]
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.delenv("FINETUNE_DATA_DIR")
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (full,) = problems()
    assert full.startswith("10 MiB are free")
    monkeypatch.undo()


def test_a_requirement_that_is_missing_or_too_old_is_a_problem(installed, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "requires", lambda n: ["numpy>=99", "no-such-thing"])
    assert [text.partition(" is needed")[0] for text in problems()] == [
        "numpy>=99",
        "no-such-thing",
    ]


def test_the_command_prints_and_ends_with_1_where_something_is_wrong(tmp_path):
    done = finetune("doctor", "--json", FINETUNE_WEIGHTS_DIR=str(tmp_path / "none"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert "FINETUNE_WEIGHTS_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    shown = finetune("doctor", FINETUNE_WEIGHTS_DIR=str(tmp_path)).stdout
    assert "serve, for finetune serve: " in shown
    assert "resnet50: none here" in shown or "resnet50: /" in shown


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="there is a GPU to ask for")
def test_it_does_not_import_tensorflow():
    code = "import sys; from finetune.commands.doctor import doctor; doctor()\n"
    code += "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
