"""The whole chain with the real trainer: a run that is interrupted ends as one that never was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.helpers import REAL, Started, call, events, living, steps, write_config


def rows(run: Path) -> list[tuple[int, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in found if "loss" in row]


@pytest.mark.slow
def test_ctrl_c_and_resume_give_the_losses_of_an_undisturbed_run(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"train_steps": 300, "log_interval": 5}, launch={"processes_per_node": 2})
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
        "submitted", "started", "signal", "submitted", "resumed", "finished",
    ]  # fmt: skip
    assert rows(run) == rows(tmp_path / "before" / undisturbed.name)
