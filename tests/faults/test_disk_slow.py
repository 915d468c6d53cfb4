"""Disks that show files late and disks that stall: the run waits, on all ranks, and then goes on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tests.faults import children, writer
from tests.faults.children import finish, needs_strace, start, traced
from tests.train.conftest import NewTrial, Trial
from tests.train.ranks import _free_port
from tests.train.test_resume import pid_of
from tmrc.config.heartbeat import heartbeat_file, read_heartbeat
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.train import durable, late
from tmrc.train.checkpoint import newest_checkpoint

Train = Callable[..., Trial]
CLONE_NEWNS = 0x20000


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disks of this machine as if they were another's."""
    monkeypatch.setattr(late, "can_be_late", lambda path: True)
    monkeypatch.setattr(late, "SAY_AFTER", 0.0)
    monkeypatch.setattr(late, "_LOOK_EVERY", 0.01)


def hidden(path: Path, then: Callable[[], object]) -> Callable[[str], bool]:
    """Take a file away; it comes back when somebody waits for the third time."""
    away = path.with_name("away") if path.is_dir() else path.parent.parent.with_name("away")
    path.rename(away)
    waits = []
    original = late.Patience.lasts

    def lasts(self: late.Patience, missing: str) -> bool:
        waits.append(missing)
        if len(waits) == 3:
            away.rename(path)
            then()
        return original(self, missing)

    return lasts  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["", "model.safetensors", "trainer.json", durable.MANIFEST])
@pytest.mark.usefixtures("network")
def test_what_appears_late_is_waited_for(
    run: RunDir, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(late.Patience, "lasts", hidden(run.checkpoints / "step_00000002" / name, lambda: None))
    found = newest_checkpoint(run)
    assert found is not None and found.step == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "files can appear late on a network file system; waits 30 seconds" in said[0]


@pytest.mark.usefixtures("network")
def test_what_does_not_appear_is_given_up(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(late, "PATIENCE", 0.05)
    (run.checkpoints / "step_00000002").rename(run.path / "away")
    found = newest_checkpoint(run)
    assert found is not None and found.step == 1
    assert "step_00000002, that events.jsonl names, is gone; goes on from 1" in capsys.readouterr().err


def test_nobody_waits_on_a_disk_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda rw",
        "2 1 0:5 / /home rw shared:1 - nfs4 server:/home rw",
        r"3 2 0:6 / /home/my\040lustre rw - lustre mgs rw",
        "4 2 8:2 / /home/scratch rw - xfs /dev/sdb rw",
    ]
    mounts.write_text("\n".join(lines))
    monkeypatch.setattr(late, "_MOUNTS", mounts)
    paths = {"/srv/run": False, "/home/me": True, "/home/my lustre/x": True, "/home/scratch/x": False, "/homes": False}
    assert {path: late.can_be_late(Path(path)) for path in paths} == paths


@needs_strace
@pytest.mark.parametrize(("error", "code"), [("ESTALE:when=1", 0), ("EIO:when=1", 0), ("EIO", 1)])
def test_a_read_that_fails_once_is_tried_again(run: RunDir, tmp_path: Path, error: str, code: int) -> None:
    """When it fails again an older checkpoint is used; here that fails as well, and nothing can be read."""
    log = tmp_path / "log"
    child = start(writer.attempt_in_words, str(run.path), 2, log=log, stopped=True)
    watched = [
        word
        for name in ("1", "2")
        for word in ("-P", str(run.checkpoints / f"step_0000000{name}" / "model.safetensors"))
    ]
    with traced(child, "-o", "/dev/null", *watched, "-e", "trace=read", "-e", f"inject=read:error={error}"):
        assert finish(child) == code, log.read_text()
    said = log.read_text()
    assert "Traceback" not in said
    assert ("no checkpoint can be read" in said) == bool(code)
    if not code:
        assert "damaged" not in said
        assert (run.checkpoints / "step_00000002").is_dir()


def blind(run: str, environment: dict[str, str]) -> int:
    """A rank that sees an empty directory where the checkpoints are."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{run}/checkpoints"], check=True)
    return children.train(run, environment)


@needs_strace
def test_a_rank_that_sees_no_checkpoint_a_disk_that_stalls_and_a_signal_meanwhile(
    train: Train, new_trial: NewTrial, tmp_path: Path
) -> None:
    """Rank 1 takes what rank 0 has read; it waits while rank 0's syncs take long; the signal is heeded afterwards."""
    trial = train("training.train_steps=3", "training.val_interval=100000")
    more = ["training.train_steps=100000", "training.save_every=0.2"]
    write_config(load_config(trial.run.config, more), trial.run.config)
    beats = tmp_path / "beats"
    beats.mkdir()
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "TMRC_ATTEMPT": "2"}
    shared["TMRC_HEARTBEAT"] = str(beats)
    logs = [tmp_path / "log0", tmp_path / "log1"]
    environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    one = start(blind, str(trial.run.path), environments[1], log=logs[1])
    zero = start(children.train, str(trial.run.path), environments[0], log=logs[0], stopped=True)
    slow = "inject=fsync:delay_enter=200000"  # microseconds; a save has more than ten
    with traced(zero, "-o", "/dev/null", "-e", "trace=fsync", "-e", slow):
        wait_for_save(zero, beats, logs[0])
        os.kill(pid_of(trial, 2, 1), signal.SIGUSR2)
        assert finish(one) == 75, logs[1].read_text()
        assert finish(zero) == 75, logs[0].read_text()
    assert [event["step"] for event in trial.events("resumed")] == [3]
    last = trial.events("checkpoint")[-1]
    assert trial.saved_steps()[-1] == last["step"] > 3
    assert trial.steps == list(range(1, last["step"] + 1))


def wait_for_save(zero: BaseProcess, beats: Path, log: Path) -> None:
    """Return when rank 0 waits for a save that takes long, which the beats must show to be what rank 1 waits for."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        assert zero.is_alive(), log.read_text()
        first, second = (read_heartbeat(heartbeat_file(beats, rank)) for rank in (0, 1))
        if first and second and first.phase == "writing a checkpoint" and second.phase == "forward and backward":
            assert first.counter < second.counter
            return
        time.sleep(0.01)
    pytest.fail("no save is waited for")
