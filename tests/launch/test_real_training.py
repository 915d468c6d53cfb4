"""The whole chain with the real trainer: a run that is interrupted ends as one that never was."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.launch.helpers import REAL, Started, call, events, living, steps, wait_for, write_config
from tests.launch.test_status import tmrc


def rows(run: Path) -> list[tuple[int, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in found if "loss" in row]


@pytest.mark.campaign  # test_drill has this in every run of the tests
def test_ctrl_c_and_resume_give_the_losses_of_an_undisturbed_run(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"train_steps": 300, "log_interval": 5})
    whole = call("--local", "--json", config, module=REAL)
    assert whole.code == 0, whole.err
    undisturbed = Path(whole.json["run_dir"])
    (tmp_path / "artifacts").rename(tmp_path / "before")

    started = Started(config, module=REAL)
    started.wait_for_step(3)
    started.interrupt()
    stopped = started.end()
    assert stopped.code == 75, stopped.err
    run = started.run_dir
    assert living(run) == [] and steps(run)[-1] < 300
    resumed = call("--local", "--resume", run, module=REAL)
    assert resumed.code == 0, resumed.err
    assert [row["event"] for row in events(run) if row["event"] != "checkpoint"] == [
        "submitted", "started", "signal", "goodput", "submitted", "resumed", "finished", "goodput",
    ]  # fmt: skip
    assert rows(run) == rows(tmp_path / "before" / undisturbed.name)


@pytest.mark.slow
def test_status_tells_where_the_time_of_a_killed_and_resumed_run_went(tmp_path: Path) -> None:
    training = {"train_steps": 10**6, "epochs": 10**6, "val_interval": 500, "save_every": 4}
    started = Started(write_config(tmp_path, training=training), module=REAL)
    run = started.run_dir
    wait_for(lambda: (run / "events.jsonl").exists() and events(run, "checkpoint"), "a checkpoint")
    saved, spent = events(run, "checkpoint")[0]["spent"]["step"], run / "attempts/1/spent.json"
    wait_for(lambda: json.loads(spent.read_text())["seconds"]["step"] > saved + 0.6, "steps after it")
    os.kill(int((run / "attempts/1/rank_0.pid").read_text().split()[1]), signal.SIGKILL)
    assert started.end().code == 1
    (said,) = events(run, "goodput")
    assert said["attempt"] == 1 and said["seconds"]["lost"] > 0.5 and said["seconds"]["step"] > 0.5

    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    done = call("--local", "--resume", run, f"training.train_steps={last + 20}", module=REAL)
    assert done.code == 0, done.err
    found = tmrc("status", run, "--json").json["goodput"]
    assert found["interruptions"] == 1 and found["save_every"] > 0
    assert sum(found["seconds"].values()) == pytest.approx(found["wall"], abs=0.05)
    for one in found["attempts"]:
        on_nodes = sum(seconds for name, seconds in one["seconds"].items() if name != "queue")
        assert on_nodes == pytest.approx(one["ended"] - one["began"], abs=0.05)
        assert min(one["seconds"].values()) >= 0
        assert all(one["seconds"][name] > 0 for name in ("start", "step", "save", "idle"))
    assert found["attempts"][1]["seconds"]["lost"] == 0
    assert 0 < found["share"] < 1
    page = tmrc("status", run).out
    assert f"goodput     {found['share']:.1%} of " in page and ", lost " in page and ": step " in page
