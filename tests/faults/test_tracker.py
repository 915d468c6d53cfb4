"""Weights & Biases in trouble beside a run: training is equal, finishes, and says nothing of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.processes import command_line, descendants
from tests.train.conftest import NewTrial, Trial
from tests.train.test_stop import before
from tests.wandb_server import API_KEY
from tmrc.train import tracking

Train = Callable[..., Trial]


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 1.0)


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def kill_tracker() -> None:
    for pid in descendants(os.getpid()):
        if "tmrc.train.wandb_sync" in command_line(pid):
            os.kill(pid, signal.SIGKILL)


def equal_to_plain(tracked: Trial, plain: Trial) -> bool:
    return tracked.exact_rows == plain.exact_rows and tracked.tensor_files() == plain.tensor_files()


def test_a_server_that_swallows_everything(train: Train, deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", deaf)
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    assert equal_to_plain(train("wandb_log.mode=online"), train())


def test_a_tracker_that_is_killed(train: Train, new_trial: NewTrial) -> None:
    trial = new_trial("wandb_log.mode=offline")
    with before("loop", "Loop._train_step", 3, kill_tracker):
        train(again=trial)
    assert equal_to_plain(trial, train())


def test_a_directory_in_which_nothing_can_be_made(train: Train, new_trial: NewTrial) -> None:
    trial = new_trial("wandb_log.mode=offline")
    trial.run.wandb.write_text("a file where wandb wants a directory")
    train(again=trial)
    assert equal_to_plain(trial, train())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.campaign
def test_a_disk_of_its_own_that_is_full(train: Train, new_trial: NewTrial) -> None:
    trial = new_trial("wandb_log.mode=offline")
    trial.run.wandb.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(trial.run.wandb)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        train(again=trial)
        assert equal_to_plain(trial, train())
    finally:
        subprocess.run(["umount", "-l", str(trial.run.wandb)], check=False)
