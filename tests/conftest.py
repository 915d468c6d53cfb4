"""Tests marked `slurm` need a private Slurm cluster: where there can be none they are skipped, loudly."""

from __future__ import annotations

import os

import pytest

from tests.slurm.install import obstacle

REQUIRED = "TMRC_REQUIRE_SLURM"  # set it, and tests that would be skipped fail


def pytest_runtest_setup(item: pytest.Item) -> None:
    problem = obstacle() if item.get_closest_marker("slurm") else ""
    if problem and os.environ.get(REQUIRED):
        pytest.fail(problem, pytrace=False)
    if problem:
        pytest.skip(problem)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if problem := obstacle():
        terminalreporter.write_line(f"WARNING: nothing was tested on a real Slurm: {problem}", red=True, bold=True)
