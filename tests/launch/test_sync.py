"""`tmrc sync`, in processes of its own, at a stand-in for wandb's server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch.helpers import ROOT, Done, call
from tests.wandb_server import WandbServer, wandb_server
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir, append_event

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with wandb_server() as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        yield running


def sync(*targets: object, cwd: Path = ROOT) -> Done:
    return call("sync", *targets, module="launch.cli.main", cwd=cwd)


class HandMade:
    """A run that was tracked where no server is, as far as `tmrc sync` looks at it: by its metrics."""

    def __init__(self, path: Path, *overrides: str, total: int = 6, **run_json: Any) -> None:
        self.run = RunDir(path)
        path.mkdir(parents=True)
        write_config(load_config("default", ["training.val_interval=3", *overrides]), self.run.config)
        self.run.run_json.write_text(json.dumps(run_json))
        append_event(self.run, "started", attempt=1, total_steps=total)
        self.logs({"step": 0, "val_loss": 5.0})

    def logs(self, *rows: dict[str, float]) -> HandMade:
        with self.run.metrics.open("a") as file:
            file.writelines(json.dumps({"time": 1000.0 + row["step"], **row}) + "\n" for row in rows)
        return self

    def trains(self, first: int, last: int) -> HandMade:
        return self.logs(*({"step": step, "loss": 1 / step} for step in range(first, last + 1)))

    def ends(self) -> HandMade:
        self.trains(4, 6).logs({"step": 6, "val_loss": 3.0})
        append_event(self.run, "finished", attempt=1, step=6)
        return self


def whole(path: Path, *overrides: str, **run_json: Any) -> HandMade:
    return HandMade(path, *overrides, **run_json).trains(1, 3).logs({"step": 3, "val_loss": 4.0}).ends()


def test_a_run_is_sent_as_far_as_it_is_and_the_rest_next_time(tmp_path: Path, server: WandbServer) -> None:
    run = HandMade(tmp_path / "artifacts" / "run-1").trains(1, 3)  # the validation of step 3 is still to come
    done = sync(run.run.path)
    sent = server.runs["run-1"]
    assert (done.code, sent.steps) == (0, [0, 1, 2]), done.err
    url = f"{server.url}/somebody/tmrc_log/runs/run-1"
    assert done.out == f"run-1: 3 points sent, up to step 2: {url}\n"
    assert set(sent.endings) == {75} and sent.preempting, "a run that goes on is not shown as finished"
    run.logs({"step": 3, "val_loss": 4.0}).ends()
    done = sync(run.run.path)
    assert done.out == f"run-1: 4 points sent, up to step 6: {url}\n"
    assert [(row["_step"], row.get("loss"), row.get("val_loss")) for row in sent.rows] == [
        (0, None, 5.0), (1, 1.0, None), (2, 0.5, None), (3, 1 / 3, 4.0), (4, 0.25, None), (5, 0.2, None),
        (6, 1 / 6, 3.0),
    ]  # fmt: skip
    assert [row["_timestamp"] for row in sent.rows] == [1000.0 + step for step in range(7)]
    assert sent.endings[-1] == 0
    assert not (run.run.path / "wandb").exists() or not any((run.run.path / "wandb").iterdir())


def test_twice_sends_nothing_again(tmp_path: Path, server: WandbServer) -> None:
    run = whole(tmp_path / "run-1")
    assert sync(run.run.path).code == 0
    done = sync(run.run.path)
    assert (done.code, server.runs["run-1"].steps) == (0, list(range(7)))
    assert "run-1: nothing to do: all of it is there: http" in done.out


def test_the_points_of_a_sweep_are_grouped(tmp_path: Path, server: WandbServer) -> None:
    sweep = tmp_path / "artifacts" / "lr-0a1b2c3d"
    for number in (0, 1):
        point = {"id": sweep.name, "overrides": [f"optimizer.lr=1e-{number}"]}
        whole(sweep / f"{sweep.name}-00{number}-ffff", f"wandb_log.group={sweep.name}", sweep=point)
    (sweep / "sweep.json").write_text(json.dumps({"id": sweep.name}))
    done = sync("lr-0a1b", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert {row["run_id"]: (row["state"], row["steps"], row["last"]) for row in json.loads(done.out)} == {
        f"{sweep.name}-00{number}-ffff": ("sent", 7, 6) for number in (0, 1)
    }
    assert {run.said("groupName") for run in server.runs.values()} == {sweep.name}
    varied = [run.config["sweep"]["value"]["overrides"] for _, run in sorted(server.runs.items())]
    assert varied == ["optimizer.lr=1e-0", "optimizer.lr=1e-1"]


def test_an_error_with_one_run_keeps_no_other(tmp_path: Path, server: WandbServer) -> None:
    for name in ("run-1", "run-2", "run-3", "run-4"):
        whole(tmp_path / name)
    server.refused.add("run-2")
    (tmp_path / "run-3" / "config.yaml").write_text("training: {log_intervall: 3}\n")
    done = sync(tmp_path)
    assert done.code == 1
    assert sorted(line.split(":")[0] for line in done.out.splitlines()) == ["run-1", "run-4"]
    errors = sorted(line for line in done.err.splitlines() if line.startswith("error: "))  # not its progress
    assert len(errors) == 2, done.err
    assert errors[0].startswith("error: run-2: ") and "permission denied" in errors[0]
    assert errors[1].startswith("error: run-3: ") and "log_intervall" in errors[1]
    assert server.runs["run-1"].steps == server.runs["run-4"].steps == list(range(7))


def test_an_upload_that_the_server_has_lost_is_an_error(tmp_path: Path, server: WandbServer) -> None:
    run = whole(tmp_path / "run-1")
    server.forgets = True
    done = sync(run.run.path)
    assert done.code == 1
    assert "error: run-1: the server has steps up to -1 of 6 only" in done.err
    server.forgets = False
    assert sync(run.run.path).code == 0
    assert server.runs["run-1"].steps == list(range(7))


def test_runs_with_nothing_to_send_say_why(tmp_path: Path, server: WandbServer) -> None:
    HandMade(tmp_path / "early", total=6).run.metrics.unlink()
    whole(tmp_path / "private", "wandb_log.mode=disabled")
    going_on = whole(tmp_path / "going-on")
    going_on.run.wandb.mkdir()
    tracker = {"attempt": 3, "host": "a-node", "pid": 1, "token": "x"}
    (going_on.run.wandb / "sender.json").write_text(json.dumps(tracker))
    done = sync(tmp_path)
    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == [
        "early: nothing to do: no step yet",
        "going-on: nothing to do: attempt 3 is tracked online now",
        "private: nothing to do: wandb_log.mode is disabled",
    ]
    assert not server.runs


def test_without_a_login_or_a_run_it_is_one_line(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole(tmp_path / "run-1")
    monkeypatch.delenv("WANDB_API_KEY")
    done = sync(run.run.path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: no login to Weights & Biases: call `wandb login`, or set WANDB_API_KEY\n"
    done = sync(tmp_path / "nothing")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert not server.runs


def test_it_does_not_take_the_modes_of_the_node_for_its_own(
    tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole(tmp_path / "run-1", "wandb_log.mode=offline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert sync(run.run.path).code == 0
    assert list(server.runs) == ["run-1"]
