"""What trackers are given: by MLflow's file store and a real server, and by W&B offline."""

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from finetune.errors import UsageError
from finetune.recipe import recipe as recipes
from finetune.recipe.reading import load
from finetune.training import trackers
from finetune.training.trackers import flat, log_epoch, numbers, tracked

ROW = {"phase": "tail", "epoch": 1, "loss": 0.5, "val_loss": 0.25, "learning_rate": None}
RESULT = {
    "validation": {"n": 7, "accuracy": 0.5, "per_class": {}},
    "test": {"accuracy": 0.75},
    "cost": {},
    "seconds": {"total": 1},
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def never(text: str) -> None:
    pytest.fail(text)


def run_folder(place: Path) -> Path:
    for name in ("recipe.yaml", ".lock"):
        (place / "run").mkdir(exist_ok=True)
        (place / "run" / name).write_text("x")
    return place / "run"


def write(kind: str, folder: Path) -> str:
    """A comparison of one trial."""
    settings = {"head": {"pool": "gap"}, "seed": 3}
    with tracked(kind, "compared", never) as parent:
        with tracked(kind, "trial", never, settings, parent.name) as tracker:
            log_epoch(tracker, {**ROW, "epoch": 0, "loss": None})
            log_epoch(tracker, ROW)
            tracker.finish(numbers(RESULT), folder)
        return parent.name


def check_mlflow(uri: str, parent: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("finetune").experiment_id
    child, above = client.search_runs([experiment], order_by=["attributes.start_time DESC"])
    assert above.info.run_id == parent == child.data.tags["mlflow.parentRunId"]
    assert child.info.status == above.info.status == "FINISHED"
    assert child.data.params == {"head.pool": "gap", "seed": "3"}
    assert child.data.metrics["test/accuracy"] == 0.75
    assert "validation/per_class" not in child.data.metrics
    history = client.get_metric_history(child.info.run_id, "tail/val_loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.25), (1, 0.25)]
    assert [file.path for file in client.list_artifacts(child.info.run_id)] == ["recipe.yaml"]


def test_mlflow_writes_files_and_opens_no_socket(place, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a socket"))
    parent = write("mlflow", run_folder(place))
    check_mlflow((place / "mlruns").as_uri(), parent)
    with pytest.raises(KeyError), tracked("mlflow", "broken", never) as tracker:
        raise KeyError
    from mlflow import MlflowClient

    client = MlflowClient((place / "mlruns").as_uri())
    assert client.get_run(tracker.name).info.status == "FAILED"


@pytest.mark.slow
def test_a_real_mlflow_server(place, monkeypatch):
    """``MLFLOW_SERVER`` names an ``mlflow`` command, if it is not on the path."""
    pytest.importorskip("mlflow")
    command = os.environ.get("MLFLOW_SERVER") or shutil.which("mlflow")
    if not command:
        pytest.skip("no mlflow command")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{place}/mlflow.db", "--serve-artifacts"]
    store += ["--artifacts-destination", str(place / "kept")]
    started = [command, "server", "--host", "127.0.0.1", "--port", str(port), *store]
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            [*started, "--workers", "1"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (place / "log").read_text()
            time.sleep(1)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("NO_PROXY", "*")
        check_mlflow(uri, write("mlflow", run_folder(place)))
    finally:
        os.killpg(server.pid, 15)
        server.wait()
    assert not (place / "mlruns").exists()


@pytest.mark.slow
def test_wandb_stays_offline(place):
    pytest.importorskip("wandb")
    write("wandb", run_folder(place))
    found = sorted((place / "wandb").glob("offline-run-*"))
    assert len(found) == 2
    assert all(list(run.glob("*.wandb")) for run in found)


def test_nothing_is_imported_where_nothing_is_tracked(monkeypatch):
    monkeypatch.setattr(trackers, "need", lambda *_: pytest.fail("something was imported"))
    assert write("none", Path("nowhere")) == ""
    assert write("tensorboard", Path("nowhere")) == ""  # Keras's own callback writes it


def test_a_tracker_that_fails_does_not_end_the_run(monkeypatch):
    class Failing:
        name = "a"

        def __init__(self, *_):
            pass

        def log(self, figures, step):
            raise OSError("no route to host")

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Failing)
    warnings = []
    with tracked("mlflow", "trial", warnings.append) as tracker:
        log_epoch(tracker, ROW)
        log_epoch(tracker, ROW)
    assert len(warnings) == 1
    assert "no route to host" in warnings[0]

    def refuse(*_):
        raise OSError("no route to host")

    monkeypatch.setitem(trackers.TRACKERS, "mlflow", refuse)
    with (
        pytest.raises(UsageError, match="mlflow cannot begin: no route"),
        tracked("mlflow", "trial", never),
    ):
        pass


def test_a_missing_package_is_said_with_its_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        recipes.importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name)
    )
    with pytest.raises(UsageError, match=r'pip install "finetune-cut\[mlflow\]"') as caught:
        load(None, {"track": "mlflow"})
    assert caught.value.exit_code == 2
    assert load(None, {"track": "none"}).track == "none"


def test_settings_are_dotted():
    assert flat({"a": {"b": {"c": 1}}, "d": None}) == {"a.b.c": 1, "d": None}
