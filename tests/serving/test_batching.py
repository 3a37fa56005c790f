"""Photos that wait are computed together; an error reaches its requests and nobody else's."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from finetune.serving.batching import Batcher


def photo(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


class Network:
    """Waits to be let go; gives each photo's own value, and fails on 13."""

    def __init__(self):
        self.begun = threading.Event()
        self.go = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, photos: np.ndarray) -> list[int]:
        self.begun.set()
        assert self.go.wait(60)
        self.sizes.append(len(photos))
        values = photos[:, 0, 0, 0].tolist()
        if 13 in values:
            raise RuntimeError("broken")
        return values


def submitted(batcher: Batcher, network: Network, values: range) -> list[Future]:
    """The first photo is under way before the others come."""
    first, *others = values
    futures = [batcher.submit(photo(first))]
    assert network.begun.wait(60)
    return [*futures, *(batcher.submit(photo(value)) for value in others)]


def test_what_comes_meanwhile_is_the_next_batch():
    network = Network()
    seen: list[int] = []
    batcher = Batcher(network, 6, seen.append)
    futures = submitted(batcher, network, range(20, 31))
    network.go.set()
    assert [future.result(60) for future in futures] == list(range(20, 31))
    batcher.close()
    assert network.sizes == seen == [1, 6, 4]


def test_an_error_ends_its_batch_alone():
    network = Network()
    batcher = Batcher(network, 2)
    futures = submitted(batcher, network, range(11, 17))  # 11; 12 and 13; 14 and 15; 16
    network.go.set()
    for value, future in enumerate(futures, 11):
        if value in (12, 13):
            with pytest.raises(RuntimeError, match="broken"):
                future.result(60)
        else:
            assert future.result(60) == value
    batcher.close()


def test_what_waits_is_finished_at_the_end_and_what_was_given_up_is_left_out():
    network = Network()
    batcher = Batcher(network, 2)
    futures = submitted(batcher, network, range(20, 25))
    assert futures[2].cancel()
    ending = threading.Thread(target=batcher.close)
    ending.start()
    network.go.set()
    ending.join(60)
    assert not ending.is_alive()
    assert [future.result(0) for future in futures if not future.cancelled()] == [20, 21, 23, 24]


def test_an_answer_is_given_before_the_rest_of_its_batch_is_known():
    network = Network()
    go = threading.Event()

    def rows(photos):
        for number, value in enumerate(network(photos)):
            assert number == 0 or go.wait(60)
            yield value

    batcher = Batcher(rows, 2)
    futures = submitted(batcher, network, range(1, 4))  # 1; 2 and 3
    network.go.set()
    assert [future.result(60) for future in futures[:2]] == [1, 2]
    assert not futures[2].done()
    go.set()
    assert futures[2].result(60) == 3
    batcher.close()
