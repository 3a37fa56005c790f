"""Fixtures of the reliability tests: a warm process, photos, and stories with their results."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reliability.harness import Story, Warm, paint_photos, story

if not sys.platform.startswith("linux"):
    collect_ignore_glob = ["test_*.py"]  # /proc, flock and tmpfs; elsewhere the suite itself runs


def pytest_configure(config: pytest.Config) -> None:
    """Markers of what a plain `pytest` leaves out."""
    config.addinivalue_line("markers", "slow: minutes")
    config.addinivalue_line("markers", "reliability: up to hours; run with -m reliability")


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Runs commands without waiting for TensorFlow each time."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture(scope="session")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 painted photos in three splits of two classes."""
    return paint_photos(tmp_path_factory.mktemp("painted") / "photos")


@pytest.fixture
def tell(few_photos: Path, tmp_path: Path, warm: Warm) -> Callable[..., tuple[Story, dict]]:
    """A story of a name in an empty place, and the result that it has when nobody disturbs it."""

    def made(name: str, trials: int = 3) -> tuple[Story, dict]:
        found = story(name, few_photos, tmp_path / "place", trials)
        found.clear()
        done = found.again(warm)
        assert done.code == 0, done.stderr
        expected = found.result()
        found.clear()
        return found, expected

    return made
