"""Concurrent requests share the network: whatever waits is computed together."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np

_Job = tuple[np.ndarray, Future]


class Batcher:
    """One thread that runs the network over the photos that wait.

    Nobody waits for a batch to fill: photos that come while one is computed are the next one. So a
    single client has the latency of a single photo, and many have the throughput of batches.
    """

    def __init__(
        self,
        rows: Callable[[np.ndarray], Iterable[Any]],
        most: int,
        observe: Callable[[int], None] = lambda photos: None,
    ):
        """Start the thread.

        Args:
            rows: uint8 (n, size, size, 3) -> one result for each photo, as soon as it is known.
            most: photos of a batch at most.
            observe: is called with the number of photos of each batch.
        """
        self._rows = rows
        self._most = most
        self._observe = observe
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def submit(self, pixels: np.ndarray) -> Future:
        """The result of one photo, uint8 (size, size, 3), when it is there."""
        future: Future = Future()
        self._queue.put((pixels, future))
        return future

    def close(self) -> None:
        """Finish what waits, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            wanted = [job for job in jobs if job[1].set_running_or_notify_cancel()]
            if wanted:
                self._observe(len(wanted))
                self._answer(wanted)

    def _next(self) -> list[_Job]:
        """Wait for a photo, and take what waits behind it; none after ``close``."""
        jobs: list[_Job] = []
        while len(jobs) < self._most and not (jobs and self._queue.empty()):
            job = self._queue.get()
            if job is None:
                if jobs:
                    self._queue.put(None)  # for the next round
                break
            jobs.append(job)
        return jobs

    def _answer(self, jobs: Sequence[_Job]) -> None:
        futures = [future for _, future in jobs]
        try:
            rows = self._rows(np.stack([pixels for pixels, _ in jobs]))
            for future, row in zip(futures, rows, strict=True):
                future.set_result(row)
        except Exception as error:  # the requests report it, and the thread lives on
            for future in futures:
                if not future.done():
                    future.set_exception(error)
