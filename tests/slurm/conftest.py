"""Private Slurm clusters for tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import sweep
from tests.slurm.live import write_data
from tests.slurm.pool import Pool

FOLDER = Path(tempfile.gettempdir()) / "tmrc-slurm-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("slurm")
    # First those of Slurm, which wait while others work; then those that take long, lest they be the last ones left.
    items.sort(key=lambda item: [item.get_closest_marker(name) is None for name in ("slurm", "slow")])


@pytest.fixture(scope="session")
def slurm_folder() -> Iterator[Path]:
    """A directory for clusters and runs; what a test session that was killed has left is stopped first."""
    FOLDER.mkdir(exist_ok=True)
    sweep(FOLDER)
    folder = Path(tempfile.mkdtemp(dir=FOLDER, prefix="session-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def pool(slurm_folder: Path) -> Iterator[Pool]:
    """Clusters that come up when they are wanted."""
    with Pool(slurm_folder) as pool:
        yield pool


@pytest.fixture(scope="session")
def slurm_data(slurm_folder: Path) -> Path:
    """The data set of all runs."""
    return write_data(slurm_folder / "data")
