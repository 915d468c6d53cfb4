"""`tmrc verify` on the files that a run must have."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.faults.verify.helpers import faults, notes
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.verify.run import verify_run


def test_what_a_finished_run_must_have(run: RunDir) -> None:
    """The same without checkpoints, which would tell."""
    write_config(load_config(run.config, ["training.save_model=false"]), run.config)
    shutil.rmtree(run.checkpoints)
    events = [line for line in run.events.read_text().splitlines(keepends=True) if '"checkpoint"' not in line]
    run.events.write_text("".join(events))
    whole, rows, data = run.ledger.read_bytes(), run.metrics.read_bytes(), run.data.read_bytes()
    assert faults(run) == {}
    run.ledger.write_bytes(whole[: -32 * 2])
    assert faults(run) == {"ledger": ("it ends at step 22, but the run has finished at step 24: it was cut off",)}
    run.ledger.write_bytes(whole + b"junk")
    assert faults(run) == {"ledger": ("after its last record there are 4 bytes that are none",)}
    with run.ledger.open("r+b") as file:
        file.truncate(3 << 30)
    assert "more than the" in faults(run)["ledger"][0]
    run.ledger.unlink()
    assert list(faults(run)) == ["ledger"]
    run.data.unlink()
    assert list(faults(run)) == ["ledger"]
    run.ledger.write_bytes(whole)
    assert faults(run) == {"shards": ("data.json is missing, though there is a ledger",)}
    run.data.write_bytes(data)
    with run.metrics.open("r+b") as file:
        file.truncate(20 << 30)
    assert "it was not read" in faults(run)["metrics"][0]
    run.metrics.unlink()
    assert faults(run) == {"metrics": ("metrics.jsonl is missing, though the run has finished at step 24",)}
    run.metrics.write_bytes(rows)
    run.events.write_text(events[0] + "{rubbish}\n" + events[1])
    assert faults(run) == {"events": ("line 2 is no row",)}
    run.events.write_text(events[0] + events[1][:30] + "\n" + events[1] + events[1][:20])
    assert faults(run) == {} and notes(run)["events"] == (
        "line 2 of events.jsonl was cut off; the last line of events.jsonl is cut off"
    )
    run.events.write_text(events[0] + events[1].replace('"step": 24', '"step": 20'))
    assert any("finished at step 20, but its last step is 24" in line for line in faults(run)["events"])
    run.events.unlink()
    assert "events.jsonl is missing or empty" in faults(run)["events"][0]


def test_without_its_configuration_a_run_has_that_one_fault(run: RunDir) -> None:
    run.config.unlink()
    assert faults(run) == {"configuration": (f"{run.config}: is missing",)}
    told = {check.name: (check.verdict, check.summary) for check in verify_run(run).checks}
    without = ("-", "cannot be checked without the configuration")
    assert told["order"] == told["tokens"] == told["shards"] == without
    assert "no gap" not in told["metrics"][1]


def test_attempts_that_left_no_event_are_counted(run: RunDir) -> None:
    for number in (2, 3):
        run.attempt(number).mkdir()
    summary = {check.name: check.summary for check in verify_run(run, read_data=False).checks}["events"]
    assert summary == "3 attempts, of which 1 began to train; the newest checkpoint is there"


@pytest.mark.parametrize("name", ["ledger.bin", "data.json", "checkpoints/step_00000023"])
def test_what_has_another_kind_is_not_taken_for_missing(run: RunDir, name: str) -> None:
    path = run.path / name
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        os.mkfifo(path)
    ((fault,),) = faults(run, read_data=False).values()
    assert "is not a file" in fault or "this is not a directory" in fault


def test_the_end_of_a_finished_run_that_was_set_aside(run: RunDir) -> None:
    (run.checkpoints / "step_00000024").rename(run.checkpoints / "damaged_step_00000024")
    assert "was set aside as damaged" in faults(run)["events"][0]
