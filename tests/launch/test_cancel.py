from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.launch.fake_queue import FakeSlurm, HandMade
from tests.launch.helpers import Done, Started, call, events, living, steps, tags, wait_for, write_config

ROOT = Path(__file__).parents[2]
RUNNING = "7|RUNNING|node1|1|1:00:00|None"
PENDING = "7|PENDING||N/A|1:00:00|Priority"


@pytest.fixture
def run(tmp_path: Path) -> HandMade:
    return HandMade(tmp_path / "artifacts").submitted("7")


def cancel(slurm: FakeSlurm, *arguments: object) -> Done:
    return call("cancel", *arguments, module="launch.cli.main", env=slurm.env)


def scancels(slurm: FakeSlurm) -> list[str]:
    return [line for line in slurm.calls if line.startswith("scancel")]


def state(slurm: FakeSlurm, run: Path) -> str:
    done = call("status", run, "--json", module="launch.cli.main", env=slurm.env)
    return str(done.json["state"])


def test_a_run_that_trains_is_asked_to_save_and_stop(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.began().trains()
    done = cancel(slurm, run.path, "--json")
    assert done.code == 0, done.err
    assert (done.json["action"], done.json["job_id"], done.json["state"]) == ("asked", "7", "running")
    assert scancels(slurm) == ["scancel --signal=TERM 7"]
    note = json.loads((run.path / "cancel.json").read_text())
    assert set(note) == {"time", "user", "host", "at_once"} and note["at_once"] is False
    assert [row["event"] for row in events(run.path)] == ["submitted", "started"]  # the rest is the supervisor's


def test_before_there_is_a_step_the_batch_script_is_told(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    text = (slurm.folder / "scancel").read_text()
    refusal = 'case "$*" in --signal*) echo "Job can not be altered now, try again later" >&2; exit 1;; esac\n'
    (slurm.folder / "scancel").write_text(text + refusal)
    assert cancel(slurm, run.path).code == 0
    assert scancels(slurm) == ["scancel --signal=TERM 7", "scancel --batch --signal=TERM 7"]


@pytest.mark.parametrize("job_id", ["7", "12_3"])
def test_a_run_that_waits_is_taken_off_the_queue(slurm: FakeSlurm, tmp_path: Path, job_id: str) -> None:
    slurm.queue(f"{job_id}|PENDING||N/A|1:00:00|Priority")
    run = HandMade(tmp_path / "artifacts").submitted(job_id)
    done = cancel(slurm, run.path)
    assert done.code == 0 and f"job {job_id} was cancelled before it ran" in done.out
    assert scancels(slurm) == [f"scancel {job_id}"]
    assert [row["event"] for row in events(run.path)] == ["submitted", "cancelled"]
    assert (run.path / "cancel.json").exists() and state(slurm, run.path) == "cancelled"
    asked = len(slurm.calls)
    assert state(slurm, run.path) == "cancelled" and len(slurm.calls) == asked  # nobody needs to be asked again


def test_now_does_not_wait_for_a_checkpoint(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.began().trains()
    done = cancel(slurm, "--now", run.path)
    assert done.code == 0 and "cancelled at once" in done.out
    assert scancels(slurm) == ["scancel 7"]
    assert state(slurm, run.path) == "cancelled"


@pytest.mark.parametrize("status", ["finished", "failed", "cancelled", "stopped"])
def test_a_run_that_has_ended_is_left_alone(slurm: FakeSlurm, run: HandMade, status: str) -> None:
    run.began().trains().ended(1, status)
    done = cancel(slurm, run.path)
    assert done.code == 0 and done.out == f"{run.path.name}: is {status}; nothing to cancel\n"
    assert scancels(slurm) == [] and not (run.path / "cancel.json").exists()


@pytest.mark.parametrize("row", [RUNNING, PENDING])
def test_where_slurm_refuses_nothing_has_changed(slurm: FakeSlurm, run: HandMade, row: str) -> None:
    slurm.queue(row)
    slurm.fails("scancel", "scancel: error: Kill job error on job id 7: Access/permission denied")
    done = cancel(slurm, run.path)
    assert done.code == 2 and "Kill job error on job id 7: Access/permission denied" in done.err
    assert len(done.err.splitlines()) == 1 and done.out == ""
    assert not (run.path / "cancel.json").exists() and len(events(run.path)) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_with_the_controller_down_nothing_has_changed(slurm: FakeSlurm, run: HandMade, begun: bool) -> None:
    if begun:
        run.began().trains()
    slurm.fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    done = cancel(slurm, run.path)
    assert done.code == 2 and "Unable to contact" in done.err and not (run.path / "cancel.json").exists()


def test_without_slurm_it_says_where_to_go(run: HandMade, slurm: FakeSlurm) -> None:
    for name in ("scancel", "squeue"):
        (slurm.folder / name).unlink()
    run.began().trains()
    slurm.env["PATH"] = f"{slurm.folder}:{Path(sys.executable).parent}"
    done = cancel(slurm, run.path)
    assert (
        done.code == 2
        and "cannot be cancelled from here: no squeue on PATH" in done.err
        and not (run.path / "cancel.json").exists()
    )


def test_of_several_runs_one_may_fail_and_none_is_touched_for_a_wrong_name(
    slurm: FakeSlurm, run: HandMade, tmp_path: Path
) -> None:
    slurm.queue(RUNNING)
    run.began().trains()
    elsewhere = HandMade(tmp_path / "artifacts", "elsewhere").began(1, None, host="far", pid=1).trains()
    done = cancel(slurm, run.path, "nosuch")
    assert done.code == 2 and scancels(slurm) == []
    assert cancel(slurm, tmp_path / "artifacts").code == 2
    done = cancel(slurm, elsewhere.path, run.path, run.path, "--json")
    assert done.code == 2 and "runs on far (process 1); cancel it there" in done.err
    assert [one["run_id"] for one in json.loads(done.out)] == [run.path.name]
    assert len(scancels(slurm)) == 1


def test_a_process_of_somebody_else_is_left_alone(slurm: FakeSlurm, tmp_path: Path) -> None:
    run = HandMade(tmp_path / "artifacts").began(1, None).trains()  # its files name this very process
    done = cancel(slurm, run.path)
    assert done.code == 2 and "is not the run's" in done.err and len(done.err.splitlines()) == 1


def test_a_run_on_this_machine_saves_and_stops(slurm: FakeSlurm, tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05), "training.train_steps=1000")
    run = started.run_dir
    assert cancel(slurm, run).code == 0  # while it is being started
    for _ in range(3):
        done = cancel(slurm, run)  # asked again and again, it still saves
        assert done.code == 0
    ended = started.end()
    assert ended.code == 75, ended.err
    assert state(slurm, run) == "stopped" and scancels(slurm) == []
    wait_for(lambda: not living(run), "the run's processes to end")


def test_a_run_on_this_machine_that_does_not_stop_can_be_ended_at_once(slurm: FakeSlurm, tmp_path: Path) -> None:
    started = Started(write_config(tmp_path), tags(step_seconds=0.05, deaf=1), "training.train_steps=1000")
    started.wait_for_step(2)
    run = started.run_dir
    assert "was asked to save and stop" in cancel(slurm, run).out
    started.wait_for_step(steps(run)[-1] + 5)
    done = cancel(slurm, run, "--now")
    assert done.code == 0 and "was ended at once" in done.out
    assert started.end().code == 1
    wait_for(lambda: not living(run), "the run's processes to end")
