"""Comparisons on a real Ray cluster: nodes of one core each on loopback, killed and added."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import finetune, paint

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="needs the extra ray")
from ray.cluster_utils import Cluster  # noqa: E402

from finetune.activations.listing import entries  # noqa: E402
from finetune.activations.store import read_shard  # noqa: E402
from finetune.commands.compare import compare  # noqa: E402
from finetune.commands.tune import tune  # noqa: E402
from finetune.execution import parts  # noqa: E402
from finetune.progress import Reporter  # noqa: E402

pytestmark = pytest.mark.slow
SMALL = "weights: random\nimage_size: 32\nbatch_size: 8\nbackbone: mini-resnet\n"
HEAVY = "weights: random\nimage_size: 128\nbatch_size: 8\nbackbone: resnet50\n"
PART = 20  # photos; of HEAVY a second or more


@contextmanager
def cluster(nodes: int, monkeypatch, **head):
    """A cluster of so many nodes of one core, which `--on ray` finds."""
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **head}
    )
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    monkeypatch.setattr(parts, "PHOTOS", PART)
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1)
        yield made
    finally:
        if ray.is_initialized():
            ray.shutdown()
        made.shutdown()


@pytest.fixture
def one_thread(monkeypatch):
    """As many for a local worker as a node of one core has: the order of sums depends on it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")


@pytest.fixture
def many_photos(tmp_path) -> Path:
    """240 photos of two classes: 12 parts."""
    seed = 0
    for split, count in {"train": 80, "validation": 20, "test": 20}.items():
        for name, color in (("apples", (200, 60, 50)), ("plums", (70, 60, 160))):
            for index in range(count):
                seed += 1
                paint(tmp_path / "many" / split / name / f"{index}.png", color, seed)
    return tmp_path / "many"


def recipe(folder, photos, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(f"data: {photos}\n{text}\n")
    return path


def shards(cache) -> dict[Path, list[str]]:
    """Shard of pixels or of the trunk's rows -> their names, without the audits' float32 ones."""
    stored = [entry for entry in entries(cache) if entry["fields"]["dtype"] != "float32"]
    found = [path for entry in stored for path in Path(entry["folder"]).glob("shard-*.json")]
    return {path: [*read_shard(path)["rows"]] for path in found}


def working(node, name: str) -> list[psutil.Process]:
    """Processes of a node that are in a task of this name."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    found = []
    for child in raylet.children(recursive=True):
        try:
            found += [child] if f"ray::{name}" in " ".join(child.cmdline()) else []
        except psutil.Error:
            continue
    return found


def until(found, seconds: float = 240.0):
    """What a function returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert result, "it never happened"
    return result


def steady(out) -> pd.DataFrame:
    """What must not depend on where trials ran."""
    table = pd.read_csv(out / "results.csv")
    words = ("seconds", "memory", "extracted", "images_per")
    return table[[name for name in table.columns if not any(word in name for word in words)]]


def assert_equal(here: dict, there: dict, first: Path, second: Path) -> None:
    """Same results, ranking and digests, to the last bit."""
    kept = ("name", "status", "split", "test", "validation", "cut")
    for a, b in zip(here["cells"], there["cells"], strict=True):
        assert {key: a[key] for key in kept} == {key: b[key] for key in kept}
        files = [out / "cells" / a["name"] / "predictions.csv" for out in (first, second)]
        assert files[0].read_text() == files[1].read_text()
    rankings = [
        [{k: v for k, v in row.items() if k != "cost_seconds"} for row in result["ranking"]]
        for result in (here, there)
    ]
    assert rankings[0] == rankings[1]
    assert here["extractions"] == there["extractions"]
    pd.testing.assert_frame_equal(steady(first), steady(second))


@pytest.mark.parametrize("by_client", [False, True])
def test_a_comparison_on_three_nodes_equals_the_local_one(
    photos, tmp_path, monkeypatch, cache, one_thread, by_client
):
    path = recipe(
        tmp_path,
        photos,
        f"{SMALL}epochs: 2\nhead: {{pool: gap, dropout: 0.3}}\n"
        "matrix: {strategy: [cached-features, top-blocks, frozen-base, full], seed: [0, 1]}",
    )
    here = compare(path, out=tmp_path / "here")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "other"))
    with cluster(3, monkeypatch, ray_client_server_port=23001 if by_client else None):
        on = "ray://127.0.0.1:23001" if by_client else "ray"
        there = compare(path, on=on, out=tmp_path / "there")
    assert_equal(here, there, tmp_path / "here", tmp_path / "there")
    found = shards(tmp_path / "other").items()
    rows = Counter((path.parent, name) for path, names in found for name in names)
    assert set(rows.values()) == {1}
    in_entry = Counter(path for path, _ in rows)
    assert sorted(in_entry.values()) == [14, 26, 26], "pixels of those that `full` does not stream"
    assert not list((tmp_path / "other").glob(".nodes-*"))


def test_a_node_killed_in_extraction_loses_what_was_in_flight_and_nothing_else(
    many_photos, tmp_path, monkeypatch, cache
):
    path = recipe(tmp_path, many_photos, f"{HEAVY}strategy: cached-features")
    with (
        (tmp_path / "log").open("w") as log,
        cluster(3, monkeypatch) as made,
        ThreadPoolExecutor(1) as pool,
    ):
        reporter = Reporter(file=log)
        running = pool.submit(compare, path, on="ray", out=tmp_path / "out", reporter=reporter)
        victim = next(iter(made.worker_nodes))
        until(lambda: len(shards(cache)) >= 3 and working(victim, "extract_part"))
        before = {shard: shard.stat().st_mtime_ns for shard in shards(cache)}
        made.remove_node(victim, allow_graceful=False)
        result = running.result(600)
    assert [cell["status"] for cell in result["cells"]] == ["done"]
    assert {shard: shard.stat().st_mtime_ns for shard in before} == before
    rows = Counter(name for names in shards(cache).values() for name in names)
    assert (len(rows), set(rows.values())) == (240, {1}), "nothing lost, nothing stored twice"
    assert result["cells"][0]["extracted"] == 0, "the trial found every row"
    (line,) = (each for each in (tmp_path / "log").read_text().splitlines() if "computed" in each)
    computed = int(line.split("parts, ")[1].split()[0])
    print(line)
    assert 240 - PART <= computed <= 240, "of the killed task, what it had committed is used"


def test_a_node_killed_in_training_has_its_trial_run_elsewhere(
    photos, tmp_path, monkeypatch, cache, one_thread
):
    path = recipe(
        tmp_path,
        photos,
        f"{SMALL}strategy: frozen-base\nepochs: 40\npatience: 40\nmatrix: {{seed: [0, 1, 2]}}",
    )
    here = compare(path, out=tmp_path / "here")
    computed = shards(cache)
    with cluster(3, monkeypatch) as made, ThreadPoolExecutor(1) as pool:
        running = pool.submit(compare, path, on="ray", out=tmp_path / "there")
        victim = until(lambda: [node for node in made.worker_nodes if working(node, "run_job")])
        cells = tmp_path / "there" / "cells"
        until(lambda: list(cells.glob("*/checkpoint.npz")))
        made.remove_node(victim[0], allow_graceful=False)
        there = running.result(600)
    assert_equal(here, there, tmp_path / "here", tmp_path / "there")
    assert shards(cache) == computed, "no row was computed again"


def test_a_node_added_under_way_takes_work(many_photos, tmp_path, monkeypatch, cache):
    path = recipe(tmp_path, many_photos, f"{HEAVY}strategy: cached-features")
    with cluster(1, monkeypatch) as made, ThreadPoolExecutor(1) as pool:
        running = pool.submit(compare, path, on="ray", out=tmp_path / "out")
        until(lambda: shards(cache))
        added = made.add_node(num_cpus=1)
        until(lambda: working(added, "extract_part"))
        assert running.result(600)["cells"][0]["status"] == "done"


DRIVER = """
import sys
from finetune.commands.compare import compare
from finetune.execution import parts
parts.PHOTOS = int(sys.argv[1])
compare(sys.argv[2], on="ray", out=sys.argv[3])
"""


def test_a_killed_driver_goes_on_from_what_is_stored(many_photos, tmp_path, monkeypatch, cache):
    path = recipe(tmp_path, many_photos, f"{HEAVY}strategy: cached-features")
    with cluster(3, monkeypatch):
        command = [sys.executable, "-c", DRIVER, str(PART), str(path), str(tmp_path / "out")]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: len(shards(cache)) >= 3)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        before = shards(cache)
        assert sum(map(len, before.values())) < 240
        again = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert again.returncode == 0, again.stderr
    rows = Counter(name for names in shards(cache).values() for name in names)
    assert (len(rows), set(rows.values())) == (240, {1})
    assert before.items() <= shards(cache).items()
    assert (tmp_path / "out" / "compare.json").exists()


def test_other_versions_on_the_cluster_are_exit_2_and_make_nothing(
    photos, tmp_path, monkeypatch, cache
):
    path = recipe(tmp_path, photos, f"{SMALL}strategy: cached-features")
    other = tmp_path / "site"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.0'\n")
    with cluster(1, monkeypatch):
        done = finetune(
            "compare", path, "--on", "ray", "--out", tmp_path / "out", PYTHONPATH=joined(other)
        )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Version mismatch" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def joined(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_ray_alone_starts_a_cluster_on_loopback_and_ends_it(photos, tmp_path, monkeypatch, cache):
    """No telemetry, no dashboard, and no port beyond this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = recipe(tmp_path, photos, f"{SMALL}strategy: cached-features")
    before = psutil.Process().children(recursive=True)  # zombies of nodes that tests have killed
    seen: dict[str, set] = {"listening": set(), "names": set()}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            for child in psutil.Process().children(recursive=True):
                try:
                    seen["names"].add(" ".join(child.cmdline()))
                    ports = child.net_connections("inet")
                    found = [c.laddr.ip for c in ports if c.status == "LISTEN"]
                    # an IPv6 socket calls 127.0.0.1 so (RFC 4291, 2.5.5.2)
                    seen["listening"] |= {place.removeprefix("::ffff:") for place in found}
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=look)
    watcher.start()
    done = finetune("compare", path, "--on", "ray", "--out", tmp_path / "out", "--json")
    ended.set()
    watcher.join()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"][0]["status"] == "done"
    print(sorted(seen["listening"]), done.stderr)
    assert seen["listening"] <= {"127.0.0.1", "::1"}
    heads = [name for name in seen["names"] if "dashboard.py" in name]
    assert all("--disable-frontend" in name for name in heads)
    until(lambda: set(psutil.Process().children(recursive=True)) <= set(before), 30)


def test_a_study_makes_as_many_trials_at_once_as_there_is_room_for(
    photos, tmp_path, monkeypatch, cache, one_thread
):
    pytest.importorskip("optuna", reason="needs the extra tune")
    search = "search: {learning_rate: {log: [1e-4, 1e-1]}}"
    path = recipe(tmp_path, photos, f"{SMALL}strategy: top-blocks\nepochs: 3\n{search}")
    with (tmp_path / "log").open("w") as log, cluster(2, monkeypatch):
        reporter = Reporter(file=log)
        found = tune(path, trials=4, on="ray", out=tmp_path / "tuned", reporter=reporter)
        again = tune(path, trials=4, on="ray", out=tmp_path / "tuned")
    lines = (tmp_path / "log").read_text().splitlines()
    drawn = [number for number, line in enumerate(lines) if line.startswith("trial ")]
    asked = [n for n in drawn if "learning_rate" in lines[n]]
    assert (len(asked), asked[1] - asked[0], asked[3] - asked[2]) == (4, 1, 1), "two and two"
    assert (found["trials"], found["failed"]) == (4, 0)
    assert again["best"] == found["best"]
    metrics = json.loads((tmp_path / "tuned" / "best" / "metrics.json").read_text())
    assert metrics["validation"]["loss"] == pytest.approx(found["validation"]["loss"], abs=1e-6)
    rows = Counter(name for names in shards(cache).values() for name in names)
    assert set(rows.values()) == {1}
