"""Requests per second, latency and memory of `finetune serve`, from clients on the same machine.

python -m benchmarks.serve RUN [--photos DIR] [--seconds 10] [--clients 1 --clients 8 ...]

The clients share the machine's processors with the server. `--seconds 600 --clients 64` shows
whether memory grows.
"""

import http.client
import itertools
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import typer

from benchmarks.paired import ROOT, report
from benchmarks.photos import make_folder


def main(
    run: Path,
    photos: Path | None = None,
    seconds: float = 10.0,
    clients: Annotated[list[int], typer.Option()] = [1, 8, 64],  # noqa: B006
    out: Path | None = None,
) -> None:
    """Each number of clients for so many seconds, after a second that does not count."""
    with tempfile.TemporaryDirectory() as folder:
        source = photos or make_folder(Path(folder), 64)
        files = [path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()][:64]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "finetune", "serve", str(run), "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        address = urlsplit(re.search(r"http://\S+", server.stderr.readline())[0])
        ready = round(time.perf_counter() - begun, 2)
        _load(address, files, 4, 1.0)
        rows = [_row(address, files, number, seconds) for number in clients]
    finally:
        server.terminate()
        server.wait()
    report("serve", pd.DataFrame(rows), pd.DataFrame(rows), out, run=str(run), ready=ready)
    print(f"ready after {ready} s")


def _row(address, files: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    before = _memory(address)
    started = time.perf_counter()
    latencies, statuses = _load(address, files, clients, seconds)
    took = time.perf_counter() - started
    milliseconds = 1000 * np.array(latencies)
    return {
        "clients": clients,
        "requests_per_second": round(len(latencies) / took, 1),
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 1),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 1),
        "refused": sum(statuses.values()) - statuses[200],
        "memory_before_mb": round(before / 1e6),
        "memory_after_mb": round(_memory(address) / 1e6),
    }


def _load(address, files: list[bytes], clients: int, seconds: float):
    """Seconds of each request, and how many had which status."""
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(address.hostname, address.port)
        for photo in itertools.islice(itertools.cycle(files), number, None):
            if time.perf_counter() > until:
                break
            start = time.perf_counter()
            connection.request("POST", "/predict", photo)
            answer = connection.getresponse()
            answer.read()
            latencies.append(time.perf_counter() - start)
            statuses[answer.status] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, statuses


def _memory(address) -> float:
    """Resident bytes of the server."""
    connection = http.client.HTTPConnection(address.hostname, address.port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)[1])


if __name__ == "__main__":
    typer.run(main)
