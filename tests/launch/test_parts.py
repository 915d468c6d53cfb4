"""The parts that need no processes: reading back, judging, showing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import local, processes
from launch.attempts import (
    Ending,
    begin_attempt,
    hold_lock,
    last_attempt,
    newest_step,
    read_owner,
    refuse_running,
    this_process,
)
from launch.code import copy_code
from launch.facts import read_facts
from launch.progress import State, amount, duration
from launch.reports import NodeReport
from launch.rundirs import git_state, new_run_id
from launch.tail import Tail
from launch.verdict import verdict, why_silent
from tests.launch.helpers import ROOT
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, checkpoint_steps
from tmrc.config.schema import Config, LaunchConfig

TORCHRUN_KILL = "E1122 torch/distributed/elastic: failed (exitcode: -9) local_rank: 1 (pid: 77) of binary: python"

TORCHRUN_ERROR = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \nChildFailedError: x\n"


def test_tail_gives_whole_lines_once_and_starts_again_after_a_rewrite(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "metrics.jsonl")
    assert tail.rows() == []
    with tail.path.open("w") as file:
        file.write('{"step": 1}\nnoise\n{"st')
        file.flush()
        assert tail.rows() == [{"step": 1}]
        file.write('ep": 2}\n')
        file.flush()
        assert tail.rows() == [{"step": 2}]
        assert tail.rows() == []
    replacement = tmp_path / "new"
    replacement.write_text('{"step": 1}\n')
    replacement.replace(tail.path)
    assert tail.rows() == [{"step": 1}]
    tail.path.write_text("{}\n")
    assert tail.rows() == [{}]


@pytest.mark.parametrize(
    ("ranks", "log", "torchrun", "ending"),
    [
        ([{"exit_code": 0, "step": 9}] * 2, "", 0, Ending(0, "finished", "", 9, "finished")),
        ([{"exit_code": 0, "step": 9}] * 2, "", 1, Ending(0, "finished", "", 9, "finished")),
        ([{"exit_code": 75, "step": 4}] * 2, "", 0, Ending(75, "stopped", "", 4, "stopped")),
        ([None, {"exit_code": 2, "message": "key: bad"}], "", 1, Ending(2, "failed", "key: bad", 0, "config")),
        (
            [{"exit_code": 1, "message": "boom"}, {"exit_code": 75}],
            "",
            1,
            Ending(1, "failed", "rank 0: boom", 0, "code_error", "a"),
        ),
        ([{"exit_code": 75, "step": 4}, None], TORCHRUN_KILL, 1, (1, "rank 1 was killed by SIGKILL")),
        ([{"exit_code": 1, "kind": "peer_lost"}, None], TORCHRUN_KILL, 1, (1, "rank 1 was killed by SIGKILL")),
        ([None, None], "", -9, (1, "torchrun was killed by SIGKILL")),
        ([None, None], "ImportError: no libcudart\n", 1, (1, "ImportError: no libcudart")),
        ([None, None], f"MemoryError: too big\n{TORCHRUN_ERROR}", 1, (1, "code 1: MemoryError: too big")),
    ],
)
def test_verdict(tmp_path: Path, ranks: list[Any], log: str, torchrun: int, ending: Any) -> None:
    for rank, said in enumerate(ranks):
        if said is not None:
            (tmp_path / f"rank_{rank}.json").write_text(json.dumps(said))
    silent = None in ranks
    cause, kind = why_silent(torchrun, log, out_of_memory=False) if silent else ("", "")
    found = verdict(tmp_path, len(ranks), [NodeReport(0, "a", torchrun, cause, kind, ranks=tuple(range(len(ranks))))])
    if isinstance(ending, Ending):
        assert found == ending
    else:
        assert found.exit_code == ending[0] and ending[1] in found.message


def test_signals_that_nohup_has_us_ignore_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local.signals_counted():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_ending_that_cannot_be_written_is_still_told(tmp_path: Path) -> None:
    run, log = RunDir(tmp_path), tmp_path / "log"
    (tmp_path / "attempts/1/job.json").mkdir(parents=True)
    (tmp_path / "events.jsonl").mkdir()
    own = local._Own(1, this_process(None))
    assert "the job was killed" in local._ending(run, own, log).message
    log.write_text("noise\ntmrc: failed (exit code 2): the disk: is full\n")
    assert local._ending(run, own, log) == Ending(2, "failed", "the disk: is full")
    log.write_text("OSError: no room\n")
    assert local._ending(run, None, log) == Ending(1, "failed", "the job did not start: OSError: no room")


def test_a_submitter_knows_its_own_attempt(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    begin_attempt(run, this_process(None, (1, 2)))
    begin_attempt(run, this_process("7"))
    begin_attempt(run, this_process(None, (3, 4)))
    mine = local._find_own(run, 0, (3, 4))
    assert mine is not None and mine.number == 3
    assert local._find_own(run, 0, (5, 6)) is None


def test_attempts_are_counted_and_locked(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    refuse_running(run)
    lock = hold_lock(run)
    assert [begin_attempt(run, this_process(None)), last_attempt(run)] == [1, 1]
    owner = read_owner(run, 1)
    assert owner is not None and owner.alive()
    held = "import sys; from launch.attempts import *; refuse_running(RunDir(Path(sys.argv[1])))"
    asked = subprocess.run([sys.executable, "-c", held, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert f"still running (process {owner.pid}" in asked.stderr.splitlines()[-1]
    processes.os.close(lock)


def test_an_owner_that_is_gone_does_not_block(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    begin_attempt(run, this_process(None))
    file = run.attempt(1) / "owner.json"
    owner = json.loads(file.read_text())
    file.write_text(json.dumps({**owner, "started": owner["started"] - 1}))  # the process id was used again
    refuse_running(run)
    file.write_text(json.dumps({**owner, "host": "elsewhere"}))
    with pytest.raises(UserError, match="on elsewhere") as error:
        refuse_running(run)
    assert str(file) in str(error.value)


def test_processes_below_one() -> None:
    shell = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"])
    try:
        while len(processes.descendants(shell.pid)) < 2:
            pass
        assert len(processes.kill_descendants(shell.pid)) == 2
    finally:
        shell.kill()
        shell.wait()
    assert processes.start_time(shell.pid) is None


def test_progress_line() -> None:
    state = State()
    assert state.facts(0) == ["starting"]
    state.event({"event": "started", "total_steps": 1000})
    state.metrics({"step": 0, "val_loss": 8.0}, 0)
    state.metrics({"step": 1, "loss": 9.0, "lr": 1e-3, "tokens_per_s": 12345.0}, 10)
    assert state.facts(10) == ["step 1/1,000", "loss 9.0000", "val 8.0000", "lr 0.001", "12.3k tokens/s"]
    state.metrics({"step": 101, "loss": 7.0}, 20)
    assert state.facts(20)[-1] == "1m29s left"


def test_the_rate_leaves_out_the_steps_of_earlier_attempts() -> None:
    state = State(total=200)
    for step in range(1, 101):
        state.metrics({"step": step, "loss": 1.0}, 50.0)
    assert state.eta(51.0) is None
    state.metrics({"step": 110, "loss": 1.0}, 60.0)
    assert state.eta(60.0) == 90.0


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (65, "1m05s"), (4000, "1h06m"), (100_000, "1d03h")])
def test_duration(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def test_amount() -> None:
    assert [amount(n) for n in (5, 1234, 58_400_000, 2e9, 3e12)] == ["5", "1.23k", "58.4M", "2G", "3T"]


def test_run_ids(tmp_path: Path) -> None:
    assert new_run_id(Config(), tmp_path / "my $(config).yaml").startswith("my-config-")
    named = Config(launch=LaunchConfig(name="other"))
    ids = {new_run_id(named, "x.yaml") for _ in range(20)}
    assert len(ids) > 15 and all(one.startswith("other-") for one in ids)


def test_the_code_is_copied_without_what_python_made_of_it(tmp_path: Path) -> None:
    copy_code(tmp_path / "code")
    names = {file.name for file in tmp_path.rglob("*")}
    assert {"tmrc", "launch", "job.py", "rundir.py"} <= names and "__pycache__" not in names
    assert [entry.name for entry in tmp_path.iterdir()] == ["code"]


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for name in ("tmrc/__init__.py", "launch/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40 and not state["dirty"]
    (tmp_path / "tmrc/__init__.py").write_text("x = 1\n")
    (tmp_path / "launch/new.py").touch()
    state = git_state(tmp_path)
    assert state is not None and "+x = 1" in state["diff"] and state["untracked"] == ["launch/new.py"]


def test_launcher_and_trainer_agree_on_what_is_a_checkpoint(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for name in (
        "step_5",
        "step_000000099",
        "step_00000008x",
        "damaged_step_00000009",
        "step_00000007",
        "step_00000003",
    ):
        (run.checkpoints / name).mkdir(parents=True)
    assert list(checkpoint_steps(run)) == [7, 3] and newest_step(run) == 7
    found = read_facts(run).checkpoint
    assert found is not None and found[0] == 7
