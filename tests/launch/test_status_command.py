"""`tmrc status` as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import screen
from tests.launch.fake_queue import FakeSlurm, HandMade
from tests.launch.helpers import Started, tags, wait_for, write_config
from tests.launch.test_status import PENDING, ROOT, RUNNING, look, tmrc


def test_json(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains(1, 0, 3)
    everything = json.loads(tmrc("status", run.path.parent.name, "--json", cwd=run.path.parents[1]).out)
    one = tmrc("status", run.path, "--json").json
    assert isinstance(everything, list) and everything[0].items() <= one.items() and one["run_dir"] == str(run.path)
    assert one["loss"] == 10 / 3 and one["val_loss"] is None and one["run_id"] == run.path.name
    assert [attempt["first_step"] for attempt in one["history"]] == [0]
    assert one["next"].startswith("tmrc logs ")


def test_what_is_not_finite_is_valid_json(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("7").began().trains().ended(1, "failed", kind="non_finite")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": NaN, "tokens_per_s": Infinity}\n{"step": 11, "val_loss": -Infinity}\n')
    done = tmrc("status", run.path, "--json")
    assert json.loads(done.out, parse_constant=lambda word: pytest.fail(word))["loss"] is None
    assert tmrc("status", run.path).code == 0


def test_one_run_in_full(slurm: FakeSlurm, run: HandMade, tmp_path: Path) -> None:
    slurm.queue(PENDING)
    run.submitted("7").began().trains(1, 0, 50, 200).saved(50)
    run.ended(1, "stopped", kind="preempted", message="preempted; saved after step 50", action="requeued", step=50)
    run.event("requeued", attempt=1, step=50, kind="preempted", cause="preempted", action="requeued", job_id="7")
    (run.path / "submitit/7_0_log.out").write_text("hello\n")
    done = tmrc("status", "toy", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "state       pending: behind jobs of higher priority; last: preempted; saved after step 50" in done.out
    assert "on node1,node2 · job 7 · steps 0 to 50 · preempted, requeued" in done.out
    assert f"log         artifacts/{run.path.name}/submitit/7_0_log.out" in done.out
    assert f"next        tmrc cancel artifacts/{run.path.name}" in done.out


def test_a_lost_run_says_how_to_go_on(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("7").began().trains().saved(5)
    assert f"tmrc-submit --resume {run.path}" in tmrc("status", run.path).out
    HandMade(run.path.parent, "other").submitted("8").began(1, "8").saved(5)
    assert "lost: tmrc-submit --resume RUN goes on from the last checkpoint\n" in tmrc("status", run.path.parent).out


def test_a_run_without_a_checkpoint_is_started_by_going_on_with_it(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("7")
    assert tmrc("status", run.path).out.endswith(f"tmrc-submit --resume {run.path}  # starts it: no checkpoint yet\n")
    assert tmrc("status", run.path, "--json").json["next"] == f"tmrc-submit --resume {run.path}"
    HandMade(run.path.parent, "other").submitted("8")
    assert "lost: tmrc-submit --resume RUN starts it: no checkpoint yet\n" in tmrc("status", run.path.parent).out
    run.saved(5)
    words = "lost: tmrc-submit --resume RUN goes on from the last checkpoint; without one, it starts the run\n"
    assert words in tmrc("status", run.path.parent).out
    assert tmrc("status", run.path).out.endswith(f"tmrc-submit --resume {run.path}\n")


def test_an_attempt_that_scancel_ended_stays_cancelled_when_the_run_goes_on(slurm: FakeSlurm, run: HandMade) -> None:
    run.submitted("6").began(1, "6").trains()
    slurm.queue("6|CANCELLED|node1|1|1:00:00|None")
    assert "· steps 0 to 10 · job 6 was cancelled with scancel" in tmrc("status", run.path).out
    run.event("cancelled", attempt=1, step=10, kind="cancelled", cause="job 6 was cancelled with scancel", job_id="6")
    run.submitted("7", attempt=2)
    slurm.queue(PENDING)
    for _ in ("it waits", "it runs"):
        done = tmrc("status", run.path)
        assert "· steps 0 to 10 · cancelled: job 6 was cancelled with scancel" in done.out, done.out
        run.began(2)
        slurm.queue(RUNNING)


def test_a_directory_without_runs_and_none_at_all(tmp_path: Path) -> None:
    assert tmrc("status", tmp_path).out == f"no runs in {tmp_path}\n"
    assert tmrc("status", tmp_path, "--json").out == "[]\n"
    for arguments in ([], ["nosuch"], ["nosuch/dir"]):
        done = tmrc("status", *arguments, cwd=tmp_path)
        assert done.code == 2 and len(done.err.splitlines()) == 1, done.err


def test_nothing_heavy_is_imported(run: HandMade) -> None:
    run.began(1, None).trains()
    code = "import sys; from launch.cli.main import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    for command in (["status", run.path], ["status", run.path.parent], ["logs", run.path], ["cancel", "nosuch"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False
        )
        heavy = {"torch", "numpy", "omegaconf", "hydra", "submitit", "yaml", "rich", "matplotlib"}
        assert not heavy & set(done.stderr.split()), command


def test_watch_in_a_pipe_prints_when_a_state_changes_until_interrupted(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains(1, 0, 10).saved(5)
    command = [sys.executable, "-m", "launch.cli.main", "status", str(run.path.parent), "--watch", "--interval", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **slurm.env})
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)][1].split()[1:3] == ["running", "10/100"]
    time.sleep(1.2)  # the checkpoint gets older, which is no change
    run.trains(1, 10, 1)
    time.sleep(0.5)  # nor does a step alone make it print
    run.trains(1, 11, 1).ended()
    assert process.stdout.readline() == "\n"
    assert [process.stdout.readline() for _ in range(2)][1].split()[1:3] == ["finished", "12/100"]
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0 and process.stdout.read() == ""


def test_watch_in_a_pipe_tells_of_steps_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [1000.0]

    def look() -> tuple[object, object]:
        clock[0] += 2
        if clock[0] > 1150:
            raise KeyboardInterrupt
        return "running", clock[0]

    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda _: None))
    screen.watch(look, lambda *_: [f"at {clock[0]:.0f}"], 2)
    assert capsys.readouterr().out.split("\n") == ["at 1002", "", "at 1062", "", "at 1122", ""]


def test_a_real_run_on_this_machine(tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05), "training.train_steps=1000")
    run = HandMade.__new__(HandMade)
    run.path = started.run_dir
    wait_for(lambda: look(run).state == "starting", "the start to be seen")
    started.wait_for_step(3)
    one = look(run)
    assert (one.state, one.sure, one.total_steps, one.executor) == ("running", True, 1000, "local")
    started.interrupt()
    assert started.end().code == 75
    one = look(run)
    assert one.state == "stopped" and (one.step or 0) >= 3
    assert f"tmrc-submit --local --resume {run.path}" in tmrc("status", run.path).out
