"""Seconds against nodes of a Ray cluster on this machine: tasks that sleep, tasks that compute, and
an extraction. The nodes share the machine's cores: more nodes than cores compute no faster.

python -m benchmarks.ray_scaling [--nodes 1]... [--tasks 24] [--photos 1536] [--out FILE]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from benchmarks.paired import report
from benchmarks.photos import make_folder

SECONDS = 0.5  # of a task
RECIPE = "weights: random\nbackbone: mobilenet\nimage_size: 96\nstrategy: cached-features\n"


def sleep() -> None:
    """A task that waits, as for a network."""
    time.sleep(SECONDS)


def compute() -> None:
    """A task that takes so many seconds of a core, however long that is."""
    start = time.process_time()
    while time.process_time() - start < SECONDS:
        sum(range(10_000))


def main(
    nodes: Annotated[list[int], typer.Option()] = [1, 2, 3],  # noqa: B006
    tasks: int = 24,
    photos: int = 1536,
    out: Path | None = None,
) -> None:
    """One cluster after another; nodes have one core each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        data = make_folder(Path(folder), photos - photos // 2, photos // 4, photos // 4)
        rows = []
        for count in nodes:
            rows.append(measured(count, tasks, data, Path(folder)))
            print(f"  {rows[-1]}", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    for name in ("sleep", "compute", "extraction"):
        table[f"{name} x"] = (table[f"{name} s"].iloc[0] / table[f"{name} s"]).round(2)
    report("ray_scaling", table, pd.DataFrame(rows), out, tasks=tasks, photos=photos)


def measured(nodes: int, tasks: int, data: Path, folder: Path) -> dict[str, Any]:
    """Seconds of each kind of work on a cluster of so many nodes."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = cluster.address
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        seconds = {kind.__name__: timed(ray, kind, nodes, tasks) for kind in (sleep, compute)}
        ray.shutdown()
        seconds["extraction"] = extraction(data, folder / str(nodes))
    finally:
        cluster.shutdown()
    return {"nodes": nodes, **{f"{name} s": round(s, 1) for name, s in seconds.items()}}


def timed(ray: Any, function: Callable[[], None], nodes: int, tasks: int) -> float:
    """Seconds of so many tasks, each worker started before."""
    task = ray.remote(num_cpus=1)(function)
    ray.get([task.remote() for _ in range(3 * nodes)])
    start = time.perf_counter()
    ray.get([task.remote() for _ in range(tasks)])
    return time.perf_counter() - start


def extraction(data: Path, folder: Path) -> float:
    """Seconds that the command gives for its activations, start of the workers included."""
    from finetune.commands.compare import compare
    from finetune.progress import Reporter

    folder.mkdir()
    os.environ["FINETUNE_CACHE"] = str(folder / "cache")
    recipe = folder / "r.yaml"
    recipe.write_text(f"data: {data}\n{RECIPE}")
    with (folder / "log").open("w+") as log:
        compare(recipe, on="ray", out=folder / "out", reporter=Reporter(file=log))
        log.seek(0)
        (line,) = (line for line in log if " computed in " in line)
    return float(line.split(" computed in ")[1].split()[0])


if __name__ == "__main__":
    typer.run(main)
