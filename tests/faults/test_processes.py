"""Killing, stopping and signalling the real processes of a run: nothing is left, and it goes on to equal results."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch.processes import state
from tests.launch.helpers import REAL, Done, Started, call, events, living, wait_for, write_config
from tests.train.conftest import NewTrial, Trial, spawn
from tests.train.conftest import finish as finish_processes
from tests.train.test_fence import contents, wait_until_stopped
from tests.train.test_stop import EVERY_STEP
from tmrc.train.ledger import read_ledger

STEPS = 400
VICTIMS = ("rank 0", "rank 1", "torchrun", "job", "controller", "tmrc-submit")
EXACT = ("step", "loss", "val_loss", "grad_norm", "lr", "tokens")
Result = tuple[list[dict[str, Any]], dict[str, bytes], bytes]


def config_in(folder: Path, **training: Any) -> Path:
    folder.mkdir(exist_ok=True)
    about = {"train_steps": STEPS, "epochs": 10**6, "log_interval": 5, "val_interval": 100, "val_batches": 1}
    return write_config(
        folder,
        training={**about, "save_every": 0.2, "micro_batch_size": 2, **training},
        model={"dropout_p": 0.1},
        launch={"processes_per_node": 2},
    )


def result_of(run: Path) -> Result:
    """Rows of metrics without times, the newest checkpoint's tensors, and the ledger's records."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    newest = max((run / "checkpoints").glob("step_*"))
    tensors = {file.name: file.read_bytes() for file in newest.glob("*.safetensors")}
    return (
        [{name: row[name] for name in EXACT if name in row} for row in rows],
        tensors,
        repr(read_ledger(run / "ledger.bin")).encode(),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What an uninterrupted run leaves."""
    done = call("--local", "--json", config_in(tmp_path_factory.mktemp("whole")), module=REAL)
    assert done.code == 0, done.err
    return result_of(Path(done.json["run_dir"]))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def rank_pid(run: Path, rank: int, attempt: int = 1) -> int:
    file = run / f"attempts/{attempt}/rank_{rank}.pid"
    wait_for(file.exists, f"rank {rank}")
    return int(file.read_text().split()[1])


def pid_of(started: Started, victim: str) -> int:
    """The process of the run's first attempt that is called `victim`."""
    if victim == "tmrc-submit":
        return started.process.pid
    if victim.startswith("rank"):
        return rank_pid(started.run_dir, int(victim.split()[1]))
    if victim == "torchrun":
        return parent_of(rank_pid(started.run_dir, 0))
    job = int(json.loads(started.wait_for_file("attempts/1/owner.json").read_text())["pid"])
    return job if victim == "job" else parent_of(job)


def finish(run: Path) -> Done:
    """Resume the run until it is finished."""
    for _ in range(3):
        done = call("--local", "--resume", run, module=REAL)
        if done.code == 0 or "finished at step" in done.err:
            return done
        assert done.code == 75, done.err
    raise AssertionError("it does not come to its end")


def nothing_left(run: Path) -> None:
    wait_for(lambda: not living(run), "the run's processes to end", patience=90.0)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("victim", VICTIMS)
def test_sigkill_of_any_process_at_any_time(tmp_path: Path, whole: Result, victim: str, seed: int) -> None:
    moment = random.Random(f"{victim} {seed}")
    started = Started(config_in(tmp_path), module=REAL)
    run = started.run_dir
    if seed == 0:  # while it starts
        started.wait_for_file("attempts/1/owner.json")
        time.sleep(moment.uniform(0, 3))
    else:
        started.wait_for_step(1)
        time.sleep(moment.uniform(0, 1))
    try:
        os.kill(pid_of(started, victim), signal.SIGKILL)
    except ProcessLookupError:
        pytest.skip("the run was over by then")
    done = started.end()
    assert done.code != 0 or events(run, "finished")
    assert len([line for line in done.err.splitlines() if line.startswith("error:")]) <= 1, done.err
    nothing_left(run)
    finish(run)
    assert result_of(run) == whole


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["USR2", "TERM", "INT", "USR1", "CONT", "PIPE", "WINCH", "URG", "QUIT", "HUP"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_in_order_or_is_nothing(
    tmp_path: Path, whole: Result, name: str, rank: int
) -> None:
    # QUIT and HUP are ignored in what --local starts: the terminal sends them, and its job is asked in another way.
    started = Started(config_in(tmp_path), module=REAL)
    started.wait_for_step(4)
    run = started.run_dir
    os.kill(rank_pid(run, rank), getattr(signal, f"SIG{name}"))
    done = started.end()
    assert done.code == (75 if name in ("USR2", "TERM", "INT", "USR1") else 0), done.err
    assert "error" not in done.err
    finish(run)
    assert result_of(run) == whole


@pytest.mark.campaign
@pytest.mark.parametrize("name", ["ALRM", "ABRT", "SEGV", "BUS", "FPE", "ILL", "VTALRM", "IO", "SYS"])
def test_a_deadly_signal_to_one_rank_is_one_line_that_names_both(tmp_path: Path, whole: Result, name: str) -> None:
    started = Started(config_in(tmp_path), module=REAL)
    started.wait_for_step(4)
    run = started.run_dir
    os.kill(rank_pid(run, 1), getattr(signal, f"SIG{name}"))
    done = started.end()
    assert done.code == 1
    (error,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    known = {"IO": ("SIGIO", "SIGPOLL")}.get(name, (f"SIG{name}",))
    assert any(f"rank 1 was killed by {one}" in error for one in known), error
    nothing_left(run)
    finish(run)
    assert result_of(run) == whole


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_signals_stops_it_in_order(tmp_path: Path, whole: Result, seed: int) -> None:
    """To ranks and to the job, at any time from the start on. No INT to the job: three of them end it at once."""
    moment = random.Random(seed)
    started = Started(config_in(tmp_path), module=REAL)
    run = started.run_dir
    pids = [pid_of(started, victim) for victim in ("job", "rank 0", "rank 1")]
    time.sleep(moment.uniform(0, 3))
    for _ in range(25):
        pid = moment.choice(pids)
        names = ["TERM", "USR2", "HUP", "USR1", "CONT"] + ["INT"] * (pid != pids[0])
        try:
            os.kill(pid, getattr(signal, f"SIG{moment.choice(names)}"))
        except ProcessLookupError:
            break
        time.sleep(moment.uniform(0, 0.08))
    done = started.end()
    assert done.code in (0, 75), done.err
    nothing_left(run)
    finish(run)
    assert result_of(run) == whole


@pytest.mark.campaign
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_for_seconds_only_costs_them(tmp_path: Path, whole: Result, rank: int) -> None:
    started = Started(config_in(tmp_path, hang_timeout=60), module=REAL)
    started.wait_for_step(4)
    pid = rank_pid(started.run_dir, rank)
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)
    done = started.end()
    assert done.code == 0, done.err
    assert result_of(started.run_dir) == whole


@pytest.mark.campaign
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_stands_still_for_good_is_ended_and_named(tmp_path: Path, whole: Result, rank: int) -> None:
    started = Started(config_in(tmp_path, hang_timeout=25), module=REAL)
    started.wait_for_step(4)
    run = started.run_dir
    pid = rank_pid(run, rank)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: state(pid) in ("T", ""), "the rank to stand")
    done = started.end()
    assert done.code == 1
    (error,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert f"rank {rank} has not moved for " in error and "step " in error, error
    (failed,) = events(run, "failed")
    assert failed["kind"] == "hang"
    nothing_left(run)
    finish(run)
    assert result_of(run) == whole


@pytest.mark.campaign
def test_a_whole_run_that_stands_still_and_wakes_up_goes_on(tmp_path: Path, whole: Result) -> None:
    """As when a machine sleeps: its watchdog stands still with it."""
    started = Started(config_in(tmp_path, hang_timeout=25), module=REAL)
    started.wait_for_step(4)
    pids = [pid_of(started, victim) for victim in VICTIMS]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(2.5)
    done = started.end()
    assert done.code == 0, done.err
    assert result_of(started.run_dir) == whole


PLACES = [
    "run:load_config:1", "start:plan_data:1", "start:take_over:1", "start:newest_checkpoint:1",
    "start:require_same_run:1", "start:build_parts:1", "step:Stepper.warm_up:1", "start:load_model:1",
    "start:rewind:1", "start:set_aside:1", "loop:Loop._train_step:2", "loop:Loop._validate:1", "loop:Loop._save:2",
]  # fmt: skip
BY_RANK_0 = ("take_over", "newest_checkpoint", "require_same_run", "load_model", "rewind", "set_aside")  # for all


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("place", "rank"),
    [(place, rank) for place in PLACES for rank in (0, 1) if rank == 0 or place.split(":")[1] not in BY_RANK_0],
)
def test_sigkill_of_one_rank_in_every_phase_of_a_resumed_start(
    new_trial: NewTrial, train_two: Callable[[Trial], Trial], place: str, rank: int
) -> None:
    short = [EVERY_STEP, "training.train_steps=8", "training.micro_batch_size=4", "training.val_interval=4"]
    trial = new_trial(*short, "training.train_steps=4")
    finish_processes(spawn(trial, 2))
    from tmrc.config.load import load_config, write_config

    write_config(load_config(trial.run.config, short), trial.run.config)
    killed = spawn(trial, 2, ("-m", "tests.train.paused", f"{place}:SIGKILL:{rank}"))
    finish_processes(killed, expect=1)
    finish_processes(spawn(trial, 2))
    whole = train_two(new_trial(*short))
    assert trial.exact_rows == whole.exact_rows and trial.tensor_files() == whole.tensor_files()


@pytest.fixture
def train_two() -> Callable[[Trial], Trial]:
    """Trains with two processes to the end."""

    def run(trial: Trial) -> Trial:
        finish_processes(spawn(trial, 2))
        return trial

    return run


@pytest.mark.campaign
def test_of_three_attempts_at_once_the_last_has_the_run_and_the_others_wake_up_in_vain(
    new_trial: NewTrial, train: Callable[..., Trial]
) -> None:
    short = [EVERY_STEP, "training.train_steps=40"]
    trial, whole = new_trial(*short), train(*short)
    first = spawn(trial, trainer=("-m", "tests.train.paused", "durable:commit:3"))
    wait_until_stopped(first.pid)
    second = spawn(trial, trainer=("-m", "tests.train.paused", "metrics:MetricsFile.write:9"))
    wait_until_stopped(second.pid)
    train(again=trial)
    after = contents(trial.run)
    for old, number in ((second, 2), (first, 1)):
        old.send_signal(signal.SIGCONT)
        said = finish_processes(old, expect=1)
        assert "attempt 3 has taken over this run" in said and len(said.splitlines()) == 1
        assert json.loads((trial.run.attempt(number) / "rank_0.json").read_text())["kind"] == "superseded"
    assert contents(trial.run) == after
    assert trial.exact_rows == whole.exact_rows and trial.tensor_files() == whole.tensor_files()
