"""Weights & Biases: offline read back by wandb's own reader, online at a stand-in for its server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import NewTrial, Trial, spawn
from tests.wandb_server import SentRun, WandbServer, wandb_server
from tmrc.config.rundir import RunDir, append_event
from tmrc.train import tracking

pytestmark = pytest.mark.slow

Train = Callable[..., Trial]
ROOT = Path(__file__).parents[2]


def records(trial: Trial, kind: str) -> list[dict[str, Any]]:
    """Records of one kind in the run's offline files, oldest first, as `wandb leet inspect` reads them."""
    found = []
    for file in sorted(trial.run.wandb.glob("offline-run-*/*.wandb")):
        reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        text = subprocess.run(reader, capture_output=True, text=True, timeout=60, check=True).stdout
        found += [json.loads(line) for line in text.splitlines()]
    return [record[kind] for record in found if record["type"] == kind]


def history(trial: Trial) -> list[dict[str, Any]]:
    """The points that the offline files hold, in the order in which they were written."""
    return [record["item"] for record in records(trial, "history")]


def all_once(trial: Trial, points: list[dict[str, Any]]) -> bool:
    """Whether the points are the run's metrics: each step once, in order, training and validation together."""
    expected: dict[int, dict[str, Any]] = {}
    for row in trial.rows:
        expected.setdefault(row["step"], {}).update(row)
    got = [{name: point.get(name) for name in ("_step", "loss", "val_loss", "grad_norm")} for point in points]
    names = ("loss", "val_loss", "grad_norm")
    return got == [{"_step": step, **{name: expected[step].get(name) for name in names}} for step in sorted(expected)]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Until it holds; fails if it never does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it has not come about"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a login would be kept
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 300.0)  # wandb is slow to start on a busy machine


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running


class HandMade:
    """A run whose metrics the test writes, and its tracking processes."""

    def __init__(self, trial: Trial, steps: int) -> None:
        self.run = trial.run
        append_event(self.run, "started", attempt=1, total_steps=steps)

    def logs(self, *rows: dict[str, float]) -> HandMade:
        with self.run.metrics.open("a") as file:
            file.writelines(json.dumps({"time": 1000.0 + row["step"], **row}) + "\n" for row in rows)
        return self

    def trains(self, first: int, last: int) -> HandMade:
        return self.logs(*({"step": step, "loss": 1 / step} for step in range(first, last + 1)))

    def track(self, attempt: int, script: str = "pass") -> subprocess.Popen[str]:
        start = f"import sys, tmrc.train.wandb_sync as sync; {script}; sync.main(*sys.argv[1:])"
        command = [sys.executable, "-c", start, str(self.run.path), str(attempt)]
        self.run.attempt(attempt).mkdir(parents=True)
        return subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def tracked(self, attempt: int, word: str) -> str:
        """What a tracking process prints that is told `word` at once."""
        return self.track(attempt).communicate(word, timeout=60)[0]


def test_a_run_is_reported_offline_with_its_id_project_group_and_tags(train: Train) -> None:
    names = ("wandb_log.name=tracked", "wandb_log.group=family", "wandb_log.job_type=small", "wandb_log.tags=[a, b]")
    trial = train("wandb_log.mode=auto", *names)
    (run,) = records(trial, "run")
    assert (run["run_id"], run["project"]) == (trial.run.run_id, "tracked")
    assert (run["run_group"], run["job_type"], run["tags"]) == ("family", "small", ["a", "b"])
    assert all_once(trial, history(trial))


def test_a_resumed_run_stays_one_curve_without_repeats(train: Train) -> None:
    trial = train("wandb_log.mode=offline", "training.train_steps=6", "training.save_every=0.000001")
    newest = max(trial.run.checkpoints.glob("step_*"))
    (newest / "manifest.json").unlink()  # so that the last step is done again
    train(again=trial)
    assert len(list(trial.run.wandb.glob("offline-run-*"))) == 2
    assert all_once(trial, history(trial))


def test_killed_hard_and_resumed_online_it_is_one_run_with_each_step_once(
    train: Train, new_trial: NewTrial, server: WandbServer
) -> None:
    steps = ("training.train_steps=3000", "training.log_interval=5", "training.val_interval=300")
    trial = new_trial("wandb_log.mode=online", *steps, "training.save_every=0.3")
    process = spawn(trial)
    wait_for(lambda: trial.saved_steps() != [] and len(trial.steps) > 20)
    process.send_signal(signal.SIGSTOP)  # so that it is not done before the first rows have arrived
    wait_for(lambda: len(sent(server, trial).history) > 0)
    sender = json.loads((trial.run.wandb / "sender.json").read_text())["pid"]
    os.kill(sender, signal.SIGKILL)
    process.kill()
    process.communicate()
    assert max(trial.steps) < 3000, "killed too late: nothing is left for a second attempt"
    before = sent(server, trial).steps
    train(again=trial)
    assert list(server.runs) == [trial.run.run_id]
    run = sent(server, trial)
    assert run.steps[: len(before)] == before
    assert all_once(trial, run.rows)
    assert run.endings == [0]
    assert [row["_step"] for row in run.rows if "val_loss" in row] == [*trial.validations]


def sent(server: WandbServer, trial: Trial) -> SentRun:
    with server.lock:
        return server.runs.get(trial.run.run_id, SentRun(""))


def test_a_step_waits_for_its_validation_also_over_attempts(new_trial: NewTrial, server: WandbServer) -> None:
    trial = new_trial("wandb_log.mode=online", "training.val_interval=3")
    run = HandMade(trial, 6).logs({"step": 0, "val_loss": 9.0}).trains(1, 3)
    run.tracked(1, "stopped\n")
    assert sent(server, trial).steps == [0, 1, 2]  # the validation of step 3 was cut short
    run.logs({"step": 3, "val_loss": 2.0}).trains(4, 6)
    run.tracked(2, "stopped\n")
    assert sent(server, trial).steps == [0, 1, 2, 3, 4, 5]
    run.logs({"step": 6, "val_loss": 1.0})
    run.tracked(3, "finished\n")
    assert all_once(trial, sent(server, trial).rows)
    assert [row["_timestamp"] for row in sent(server, trial).rows] == [1000.0 + step for step in range(7)]


def test_the_log_interval_may_change_on_the_way(new_trial: NewTrial, server: WandbServer) -> None:
    trial = new_trial("wandb_log.mode=online", "training.val_interval=0")
    run = HandMade(trial, 20).logs({"step": 4, "loss": 4.0}, {"step": 8, "loss": 8.0})
    run.tracked(1, "stopped\n")
    run.run.metrics.write_text("")  # back to step 5, and now every third step is logged
    run.logs(*({"step": step, "loss": float(step)} for step in (4, 6, 9, 12)))
    run.tracked(2, "finished\n")
    assert sent(server, trial).steps == [4, 8, 9, 12]


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_what_was_not_there_when_the_tracker_was_killed_is_sent_by_the_next(
    new_trial: NewTrial, server: WandbServer, mode: str
) -> None:
    trial = new_trial(f"wandb_log.mode={mode}", "training.val_interval=0")
    run = HandMade(trial, 5000).trains(1, 3000)
    tracker = run.track(1)
    wait_for(lambda: any(trial.run.wandb.glob("*run-*/*.wandb")))
    time.sleep(0.2)
    tracker.kill()
    tracker.communicate()
    run.trains(3001, 5000)
    run.tracked(2, "finished\n")
    points = sent(server, trial).rows if mode == "online" else history(trial)
    assert [point["_step"] for point in points] == list(range(1, 5001))


@pytest.mark.parametrize(
    ("word", "outcome", "endings", "preempting"),
    [
        ("finished\n", None, [0], 0),
        ("stopped\n", None, [75], 1),
        ("", {"exit_code": 3}, [3], 0),
        ("", None, [1], 0),
    ],
)
def test_the_server_is_told_how_it_ended(
    new_trial: NewTrial, server: WandbServer, word: str, outcome: object, endings: list[int], preempting: int
) -> None:
    trial = new_trial("wandb_log.mode=online")
    tracker = HandMade(trial, 6).trains(1, 2).track(1, "sync.OUTCOME_SECONDS = 0.2")
    if outcome:
        (trial.run.attempt(1) / "rank_0.json").write_text(json.dumps(outcome))
    tracker.communicate(word, timeout=60)
    assert (sent(server, trial).endings, sent(server, trial).preempting) == (endings, preempting)


def test_a_later_attempt_takes_over_and_the_earlier_one_leaves_without_a_word(
    new_trial: NewTrial, server: WandbServer
) -> None:
    trial = new_trial("wandb_log.mode=online")
    run = HandMade(trial, 6).trains(1, 2)
    earlier = run.track(1, "sync.POLL_SECONDS = 0.1")
    wait_for(lambda: sent(server, trial).steps == [1, 2])
    run.tracked(2, "stopped\n")
    said = earlier.communicate("finished\n", timeout=60)[0]
    assert "another process sends this run" in said
    assert sent(server, trial).endings == [75]
    assert sent(server, trial).steps == [1, 2]


def test_a_server_that_comes_back_gets_everything(new_trial: NewTrial, server: WandbServer) -> None:
    trial = new_trial("wandb_log.mode=online")
    run = HandMade(trial, 9)
    server.refused.add(trial.run.run_id)
    run.trains(1, 2)
    tracker = run.track(1, "sync.POLL_SECONDS = 0.1; sync.RETRY_SECONDS = 1.0")
    wait_for(lambda: any(trial.run.wandb.glob("offline-run-*")))
    server.refused.clear()
    wait_for(lambda: sent(server, trial).steps == [1, 2])
    run.trains(4, 5)
    said = tracker.communicate("finished\n", timeout=60)[0]
    assert said.count("offline for now") >= 1
    assert sent(server, trial).steps == [1, 2, 4, 5]


def test_no_secret_and_no_environment_is_sent_but_a_points_overrides_are(
    train: Train, new_trial: NewTrial, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JWT", "SLURM_JOB_ID", "HF_TOKEN", "SOMETHING"):
        monkeypatch.setenv(name, f"value-of-{name}")
    trial = new_trial("wandb_log.mode=online", "wandb_log.group=sweep-1", "training.train_steps=2")
    point = {"id": "sweep-1", "overrides": ["optimizer.lr=0.1", "training.seed=2"]}
    trial.run.run_json.write_text(json.dumps({"sweep": point}))
    train(again=trial)
    run = sent(server, trial)
    everything = repr(run)
    assert "value-of-" not in everything
    assert os.environ["WANDB_API_KEY"] not in everything
    assert run.config["sweep"]["value"] == {"id": "sweep-1", "overrides": "optimizer.lr=0.1 training.seed=2"}
    assert (run.said("groupName"), run.said("jobType")) == ("sweep-1", "train")
    assert run.config["training"]["value"]["train_steps"] == 2


def test_goodput_is_in_the_summary(train: Train, server: WandbServer) -> None:
    pytest.importorskip("tmrc.config.goodput")
    trial = train("wandb_log.mode=online", "training.train_steps=2")
    summary = sent(server, trial).summary
    assert summary["goodput/step"] > 0
    assert 0 < summary["goodput/share"] <= 1


def test_disabled_starts_nothing(train: Train) -> None:
    trial = train("wandb_log.mode=disabled")
    assert not trial.run.wandb.exists()
    assert not (trial.run.path / "wandb.log").exists()


@pytest.mark.parametrize(
    "fault", ["raise RuntimeError('broken')", "import time; time.sleep(3600)", "import os; os._exit(1)"]
)
def test_a_broken_or_hanging_wandb_changes_nothing(
    train: Train, new_trial: NewTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "shim" / "wandb").mkdir(parents=True)
    (tmp_path / "shim" / "wandb" / "__init__.py").write_text(fault + "\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shim"))
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 0.5)
    tracked, plain = train("wandb_log.mode=online"), train()
    assert tracked.exact_rows == plain.exact_rows
    assert tracked.tensor_files() == plain.tensor_files()
    assert tracked.events("finished")


def test_without_a_server_a_run_is_tracked_offline(
    train: Train, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the port that discards
    trial = train("wandb_log.mode=online", "training.train_steps=2")
    assert trial.events("finished")
    assert all_once(trial, history(trial))
    (said,) = [line for line in (trial.run.path / "wandb.log").read_text().splitlines() if "offline for now" in line]
    assert "127.0.0.1:9 does not answer" in said


def test_a_server_that_answers_with_errors_is_as_good_as_none(new_trial: NewTrial, server: WandbServer) -> None:
    server.down = True
    trial = new_trial("wandb_log.mode=online")
    tracker = HandMade(trial, 9).trains(1, 9).track(1, "import tmrc.train.wandb_run as run; run.INIT_SECONDS = 2.0")
    said = tracker.communicate("finished\n", timeout=90)[0]
    assert said.count("offline for now") == 1
    assert [point["_step"] for point in history(trial)] == list(range(1, 10))


def test_a_log_that_cannot_be_written_changes_nothing(new_trial: NewTrial, train: Train) -> None:
    trial = new_trial("wandb_log.mode=offline", "training.train_steps=2")
    (trial.run.path / "wandb.log").mkdir()
    train(again=trial)
    assert trial.events("finished")


@pytest.mark.parametrize(
    ("mode", "environment", "chosen"),
    [
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("auto", {}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "0" * 40}, "online"),
        ("auto", {"WANDB_API_KEY": "no key"}, "offline"),
        ("auto", {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "no address"}, "offline"),
    ],
)
def test_auto_is_online_only_with_a_login_and_asks_no_server(
    mode: str, environment: dict[str, str], chosen: str
) -> None:
    script = f"""if True:
        from tmrc.config.schema import WandbConfig
        from tmrc.train.wandb_run import choose_mode
        print(choose_mode(WandbConfig(mode={mode!r})))"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "WANDB_BASE_URL": url, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout == f"{chosen}\n", done.stderr
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(("given", "kept"), [(None, "false"), ("true", "true")])
def test_wandb_reports_its_own_errors_to_nobody_unless_asked(
    monkeypatch: pytest.MonkeyPatch, given: str | None, kept: str
) -> None:
    from tmrc.train.wandb_run import forget_the_job

    monkeypatch.setattr(os, "environ", {} if given is None else {"WANDB_ERROR_REPORTING": given})
    forget_the_job()
    assert os.environ["WANDB_ERROR_REPORTING"] == kept


def test_a_run_directory_is_all_that_a_claim_needs(tmp_path: Path) -> None:
    from tmrc.train.claim import SYNC, Claim

    run = RunDir(tmp_path)
    sync, earlier, later = Claim(run, SYNC), Claim(run, 1), Claim(run, 2)
    assert earlier.take() is None
    assert sync.take() == 1
    assert later.take() is None
    assert (earlier.keep(), later.keep()) == (False, True)
    later.release()
    assert sync.take() is None
    assert later.take() == SYNC
