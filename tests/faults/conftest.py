"""Tiny data and runs, as in tests/train."""

from __future__ import annotations

import pytest

from tests.faults.install import obstacle
from tests.train.conftest import dataset, new_trial, train

__all__ = ["dataset", "new_trial", "train"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not tested."""
    if problem := obstacle():
        terminalreporter.write_line(f"WARNING: no system call was made to fail: {problem}", red=True, bold=True)
