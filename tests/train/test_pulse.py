"""Signs of life of a run: who is behind has the lowest counter."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_resume import pid_of, wait_for_step
from tmrc.config.heartbeat import Beat, heartbeat_file, read_heartbeat

# A rank that stops while it waits is as far as those that wait for it.
WAITING = {
    "reducing the gradients",
    "agreeing with the other ranks",
    "adding up the validation",
    "waiting for the checkpoint",
}
ENDLESS = ["training.train_steps=1000000", "training.log_interval=10", "training.micro_batch_size=2"]


# The trainer, which prints what stands in its heartbeat file
TOLD = """
import os, sys
from pathlib import Path
from tmrc.config.heartbeat import heartbeat_file, read_heartbeat
from tmrc.train import pulse
from tmrc.train.run import main

rank, beat = int(os.environ["RANK"]), pulse.Pulse.__call__

def told(self, phase):
    beat(self, phase)
    sys.stderr.write(f"{rank} {read_heartbeat(heartbeat_file(Path(os.environ['TMRC_HEARTBEAT']), rank)).phase}\\n")

pulse.Pulse.__call__ = told
sys.exit(main(sys.argv[1:]))
"""
SpawnTwo = Callable[[Trial], subprocess.Popen[str]]


def beats(folder: Path) -> list[Beat]:
    """The last beats of two ranks."""
    found = [read_heartbeat(heartbeat_file(folder, rank)) for rank in (0, 1)]
    return [beat for beat in found if beat]


def beats_at_rest(folder: Path) -> list[Beat]:
    """The same once nothing moves any more."""
    deadline = time.monotonic() + 60
    looks = [beats(folder)]
    while True:
        time.sleep(0.4)
        looks.append(beats(folder))
        if len(looks) > 3 and all(look == looks[-1] for look in looks[-4:]):  # a save can take a second without a beat
            return looks[-1]
        assert time.monotonic() < deadline, "the other rank goes on without the stopped one"


@pytest.fixture
def spawn_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Trial], subprocess.Popen[str]]]:
    """Starts two ranks with a place for their beats; ends what a failed test leaves."""
    monkeypatch.setenv("TMRC_HEARTBEAT", str(tmp_path))
    started = []

    def start(trial: Trial) -> subprocess.Popen[str]:
        started.append(spawn(trial, 2))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # its ranks stop with it
        process.wait()


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.val_interval=0"],
        ["training.val_interval=2", "training.val_batches=3", "datasets.val_split_size=24"],
        ["training.val_interval=0", "training.save_every=0.000001"],
    ],
    ids=["training", "validating", "saving"],
)
def test_a_rank_that_stands_still_has_the_lowest_counter(
    new_trial: NewTrial, tmp_path: Path, spawn_two: SpawnTwo, overrides: list[str]
) -> None:
    trial = new_trial(*ENDLESS, *overrides)
    process = spawn_two(trial)
    wait_for_step(trial, 10)
    for rank in (0, 1, 1, 0):
        pid = pid_of(trial, 1, rank)
        os.kill(pid, signal.SIGSTOP)
        resting = beats_at_rest(tmp_path)
        os.kill(pid, signal.SIGCONT)
        assert resting[rank].counter < resting[1 - rank].counter + (resting[rank].phase in WAITING), resting
    os.kill(pid_of(trial, 1, 0), signal.SIGUSR2)
    finish(process)
    ended = beats(tmp_path)
    assert ended[0].counter == ended[1].counter
    assert ended[0].step == ended[1].step == trial.saved_steps()[-1]


def test_a_rank_that_is_aborted_says_where_it_was(new_trial: NewTrial) -> None:
    """SIGABRT is what a watchdog sends."""
    trial = new_trial(*ENDLESS)
    process = spawn(trial)
    wait_for_step(trial, 10)
    process.send_signal(signal.SIGABRT)
    said = finish(process, expect=-signal.SIGABRT)
    assert "Fatal Python error: Aborted" in said
    assert "loop.py" in said and "feed.py" in said  # every thread


def test_start_up_beats_before_the_first_step(
    new_trial: NewTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank says what its file tells after every beat."""
    monkeypatch.setenv("TMRC_HEARTBEAT", str(tmp_path))
    (tmp_path / "told.py").write_text(TOLD)
    trial = new_trial("training.train_steps=2")
    said = finish(spawn(trial, 2, trainer=[str(tmp_path / "told.py")])).splitlines()
    wanted = {"joining the other ranks", "building the model", "warming up"}
    assert {f"{rank} {phase}" for rank in (0, 1) for phase in wanted} <= set(said), said


def test_nobody_watches_and_nothing_is_written(new_trial: NewTrial, tmp_path: Path) -> None:
    trial = new_trial("training.train_steps=1")
    finish(spawn(trial))
    assert not list(trial.run.path.rglob("rank_0"))


def test_ranks_wait_for_each_other_longer_than_the_watchdog_does(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist

    from tmrc.config.schema import TrainingConfig
    from tmrc.train import distributed
    from tmrc.train.pulse import Pulse

    given = []
    monkeypatch.setattr(dist, "init_process_group", lambda *_, timeout, **__: given.append(timeout))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed, "gather", lambda value, _: [value])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for seconds in (0, 600, 7200):
        with distributed.join_world(TrainingConfig(device="cpu", hang_timeout=seconds), Pulse()) as world:
            assert world.patience == given[-1]
    assert given == [timedelta(minutes=30), timedelta(minutes=30), timedelta(hours=4)]
