"""A finished run, and copies of it to plant faults in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.verify.helpers import MORE, STEPS
from tests.train.conftest import TINY, tokens_that_can_be_learnt, training_here, write_dataset
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.train import loop
from tmrc.verify.run import verify_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data of two shards and a run that has finished, in this process."""
    folder = tmp_path_factory.mktemp("verify")
    shards = [tokens_that_can_be_learnt(16 * 60 - 5), tokens_that_can_be_learnt(16 * 40 - 7, 1)]
    data = write_dataset(folder / "data", shards)
    run = RunDir(folder / "run")
    run.path.mkdir()
    write_config(load_config("default", [*TINY, f"datasets.path={data}", *MORE]), run.config)
    with training_here() as train_run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "_save_is_due", lambda self: self.progress.step == STEPS - 2)
        assert train_run(run) == 0
    assert [check.verdict for check in verify_run(run).checks] == ["ok"] * 9
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunDir:
    """A copy of the finished run, on the same data."""
    return RunDir(Path(shutil.copytree(finished / "run", tmp_path / "run")))


@pytest.fixture
def shard(finished: Path) -> Iterator[Path]:
    """A shard that is mended afterwards."""
    path = finished / "data" / "tiny_1.bin"
    content, before = path.read_bytes(), path.stat()
    yield path
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
