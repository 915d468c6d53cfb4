"""Tests marked `slurm` need a private Slurm cluster, `browser` a browser: without one they are skipped, loudly."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

from tests import browser
from tests.slurm import install as slurm

# marker -> what stands in the way, what was not tested then, and the variable with which tests fail and are not skipped
NEEDS = {
    "slurm": (slurm.obstacle, "on a real Slurm", "TMRC_REQUIRE_SLURM"),
    "browser": (browser.obstacle, "in a real browser", "TMRC_REQUIRE_BROWSER"),
}

# Files of a minute and more go first, the longest of all foremost: at the end no process waits for another's last file.
LONG = (
    "slurm/test_coming_back", "train/test_tracking", "launch/test_multirun", "slurm/test_sweeps",
    "launch/test_supervise", "launch/test_local", "train/test_resume", "train/test_fence", "report/test_browser",
    "train/test_nodes", "launch/test_submission", "launch/test_sync", "train/test_pulse", "launch/test_real_training",
    "launch/test_drill", "launch/test_hydra_sweep", "train/test_training",
)  # fmt: skip


# A slow machine is no failure, and what one run of the suite has tried the next one tries: campaigns draw at random.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

# What wandb's own commands report, and torchrun's questions for this machine's name, go to servers that may be silent.
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")


def pytest_configure() -> None:
    """What tests start must hear Ctrl-C and a hang-up, also where `nohup` or a shell's `&` has them ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get("/".join(item.path.with_suffix("").parts[-2:]), len(LONG)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Torch names its cache in the environment when it compiles here; for what later tests start that is a choice."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        os.environ.pop(name, None)


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
