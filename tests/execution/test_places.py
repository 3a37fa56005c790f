"""`--on`: what is refused before anything is made, and what tasks are cut into; needs no Ray."""

import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import finetune_here

from finetune.data.dataset import read_folder
from finetune.errors import UsageError
from finetune.execution import cluster, node
from finetune.execution import ray as on_ray
from finetune.execution.board import Board
from finetune.execution.parts import parts
from finetune.execution.places import opened
from finetune.execution.sharing import cuts_together
from finetune.execution.worker import Job
from finetune.progress import SILENT
from finetune.recipe.matrix import expand
from finetune.recipe.reading import load


def test_a_place_that_does_not_exist_is_exit_2_and_leaves_nothing(photos, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {photos}\nweights: random\nimage_size: 32\n")
    out = tmp_path / "out"
    done = finetune_here("compare", path, "--on", "slurm", "--out", out)
    assert (done.returncode, done.stdout, out.exists()) == (2, "", False)
    assert "allowed: local, ray and ray://HOST:PORT" in done.stderr


def test_without_ray_the_line_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "finetune-cut\[ray\]"'), opened("ray"):
        pass


def test_a_folder_that_a_variable_names_is_the_same_one_on_every_node(
    photos, tmp_path, monkeypatch
):
    fake = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2}}])
    monkeypatch.setattr(on_ray, "_probe", lambda ray, common: None)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "FINETUNE_CACHE": "cache",
        "FINETUNE_DATA_DIR": "sets",
        "FINETUNE_WEIGHTS_DIR": "",
        "KERAS_HOME": "s3://bucket/keras",
    }.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {photos}\n")
    (trial,) = expand(path)
    with on_ray._shared(fake, [Job(trial, tmp_path)]) as common:
        found = {name: common.environment.get(name) for name in on_ray._PLACES}
    assert found == {
        "FINETUNE_CACHE": str(tmp_path / "cache"),
        "FINETUNE_DATA_DIR": str(tmp_path / "sets"),
        "FINETUNE_WEIGHTS_DIR": None,
        "KERAS_HOME": "s3://bucket/keras",
    }


def test_a_task_that_failed_is_told_from_one_whose_worker_was_lost():
    class RayTaskError(Exception):
        cause = ValueError("no such row")

    fake = SimpleNamespace(exceptions=SimpleNamespace(RayTaskError=RayTaskError))
    assert on_ray._lost(fake, RayTaskError("a traceback")) == "ValueError: no such row."
    assert "lost 4 times: Out of memory." in on_ray._lost(fake, RuntimeError("Out of memory"))


@pytest.fixture
def fake_ray(monkeypatch):
    """A Ray that is no package: ``init`` raises what ``problem`` holds."""
    private = SimpleNamespace(ray_constants=SimpleNamespace())
    fake = SimpleNamespace(problem=None, asked=[], _private=private)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")

    def init(**given):
        fake.asked.append(given)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray does, in its way
        if fake.problem:
            raise fake.problem

    fake.init = init
    monkeypatch.setattr(cluster, "need", lambda module, extra: fake)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return fake


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://", "is no address"),
        ("ray://127.0.0.1", "is no address"),
        ("ray://127.0.0.1:99999", "is no address"),
        ("ray://127.0.0.1:1", "No Ray cluster answers"),
    ],
)
def test_a_wrong_address_is_refused_at_once(fake_ray, address, reason):
    with pytest.raises(UsageError, match=reason):
        cluster.connect(address)
    assert fake_ray.asked == []


def test_another_version_on_the_cluster_is_one_paragraph(fake_ray, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        fake_ray.problem = RuntimeError("Version mismatch:\n  Ray: 1.0\n  Python: 3.9")
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(UsageError) as caught:
            cluster.connect("ray")
    assert signal.getsignal(signal.SIGTERM) is before
    assert "Version mismatch: Ray: 1.0 Python: 3.9. The cluster and" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ray_alone_joins_the_cluster_of_this_machine_or_starts_one_on_loopback(fake_ray):
    import os

    def init(**given):
        fake_ray.asked.append(given)
        if given["address"] == "auto":
            raise ConnectionError("Could not find any running Ray instance.")

    fake_ray.init = init
    cluster.connect("ray")
    assert [given["address"] for given in fake_ray.asked] == ["auto", "local"]
    assert fake_ray._private.ray_constants.ENABLE_RAY_CLUSTER is False
    assert fake_ray.asked[1]["include_dashboard"] is False
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_tasks_take_what_their_engine_runs_on():
    def nodes(*resources):
        return SimpleNamespace(
            nodes=lambda: [{"Alive": True, "Resources": found} for found in resources]
        )

    assert cluster.cores(nodes({"CPU": 16.0}, {"CPU": 2.0}, {})) == (2, False)
    assert cluster.cores(nodes({"CPU": 16.0, "GPU": 1.0})) == (4, True)
    with pytest.raises(UsageError, match="no node with a core"):
        cluster.cores(nodes({"memory": 1.0}))
    openvino, auto = (load(None, {"engine": engine}) for engine in ("openvino", "auto"))
    assert cluster.resources(auto, 2, False) == {"num_cpus": 2}
    assert cluster.resources(auto, 2, True) == {"num_cpus": 1, "num_gpus": 1}
    assert cluster.resources(openvino, 2, True) == {"num_cpus": 2}


def test_a_node_says_what_it_lacks(tmp_path):
    import finetune

    assert node.missing(node.Common(finetune.__version__, {}, (tmp_path,))) == ""
    assert "the driver has 0.0" in node.missing(node.Common("0.0", {}, ()))
    unseen = node.missing(node.Common(finetune.__version__, {}, (tmp_path / "no",)))
    assert f"does not see {tmp_path / 'no'}" in unseen


def test_each_photo_is_in_one_part_of_each_pass_whatever_trials_want_of_it(photos, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"data: {photos}\nbackbone: mini-resnet\nweights: random\nimage_size: 32\n"
        "matrix: {strategy: [cached-features, top-blocks, full], seed: [0, 1]}\n"
    )
    trials = expand(path)
    together = cuts_together(trials)
    dataset = read_folder(photos)
    jobs = [Job(trial, Path("x"), dataset, together[trial.name]) for trial in trials]
    found = parts(jobs, size=10)
    cuts = {pieces[0].cuts for pieces in found.values()}
    assert len(found) == 2, "one through the trunk, and the photos themselves for `full`"
    assert {len(names) for names in cuts} == {1, 2}
    sizes = {pieces[0].cuts: [len(part.photos) for part in pieces] for pieces in found.values()}
    assert sorted(sizes.values()) == [[10, 4], [10, 10, 6]], "`full` trains on fresh views"
    for pieces in found.values():
        names = [photo.sha256 for part in pieces for photo in part.photos]
        assert len(set(names)) == len(names)


def test_the_table_shows_every_trial_that_runs():
    trials = [SimpleNamespace(name=name) for name in "abc"]
    board = Board(trials, SILENT)
    for trial, status in zip(trials, ("running", "running", "done"), strict=True):
        board.set(trial, status)
    board.note = "activations: 3 of 4 parts"
    table = board.table()
    assert table.title == "2 running, 1 done"
    assert table.caption == "activations: 3 of 4 parts"
