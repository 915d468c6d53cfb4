"""Tests marked `slurm` need a private Slurm cluster, `browser` a browser: without one they are skipped, loudly."""

from __future__ import annotations

import os

import pytest

from tests import browser
from tests.slurm import install as slurm

# marker -> what stands in the way, what was not tested then, and the variable with which tests fail and are not skipped
NEEDS = {
    "slurm": (slurm.obstacle, "on a real Slurm", "TMRC_REQUIRE_SLURM"),
    "browser": (browser.obstacle, "in a real browser", "TMRC_REQUIRE_BROWSER"),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (obstacle, _, required) in NEEDS.items():
        problem = obstacle() if item.get_closest_marker(marker) else ""
        if problem and os.environ.get(required):
            pytest.fail(problem, pytrace=False)
        if problem:
            pytest.skip(problem)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for obstacle, where, _ in NEEDS.values():
        if problem := obstacle():
            terminalreporter.write_line(f"WARNING: nothing was tested {where}: {problem}", red=True, bold=True)
