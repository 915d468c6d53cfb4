"""Tiny data and runs, as in tests/train."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import writer
from tests.faults.install import obstacle
from tests.train.conftest import dataset, new_trial, train
from tmrc.config.rundir import RunDir

__all__ = ["dataset", "new_trial", "train"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose first attempt has saved and ended."""
    path = tmp_path / "run"
    path.mkdir()
    writer.attempt(str(path), 1, keep=2)
    return RunDir(path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested."""
    if problem := obstacle():
        terminalreporter.write_line(f"WARNING: no system call was made to fail: {problem}", red=True, bold=True)
