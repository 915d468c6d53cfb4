"""Directories for heartbeats: those that killed processes have left go, those that are in use stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.scratch import scratch, scratches
from tests.launch.helpers import ROOT, wait_for

OWNER = "import time\nfrom launch.scratch import scratch\nwith scratch('toy', 0):\n    time.sleep(60)\n"


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has a directory for the run `toy`."""
    before = set(scratches("toy"))
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT) as process:
        wait_for(lambda: set(scratches("toy")) - before, "its directory")
        yield process
        process.kill()


def test_what_a_killed_process_has_left_goes_and_what_lives_stays(owner: subprocess.Popen[bytes]) -> None:
    (other,) = scratches("toy")
    with scratch("toy", 0) as own:  # a copy of the run, which has the same id
        assert other.is_dir() and own.is_dir() and own != other
    assert other.is_dir() and not own.exists()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with scratch("another", 0):
        assert not other.exists()


def test_a_link_that_somebody_has_put_there_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    with scratch("toy", 0) as own:
        link = own.with_name(f"tmrc.{os.getuid()}.{os.getpid()}.link")
    link.symlink_to(precious)
    try:
        with scratch("toy", 0):
            assert (precious / "file").exists()
    finally:
        link.unlink()
