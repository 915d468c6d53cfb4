"""`tmrc verify --against`: whether two runs are equal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from launch.compare.against import compared
from tests.faults.calls import Said, call
from tests.faults.verify.helpers import flip, reseal, restate, rewrite
from tmrc.config.rundir import RunDir


def test_two_runs_are_compared(run: RunDir, finished: Path) -> None:
    other = str(finished / "run")

    def against(*more: str) -> Said:
        return call("tmrc", "verify", str(run.path), "--no-data", "--against", other, *more)

    same = f"equal to {other}, bit for bit: 24 steps, weights, optimizer state, samples"
    said = against()
    assert (said.code, said.out.splitlines()[-1]) == (0, f"  {same}")
    assert "configuration  ok" in said.out
    (found,) = json.loads(against("--json").out)
    assert found["against"] == {"run_id": "run", "run_dir": other, "equal": True, "steps": 24, "conclusion": same}
    lines = run.metrics.read_text().splitlines(keepends=True)
    row = json.loads(lines[5])
    run.metrics.write_text("".join([*lines[:5], json.dumps(row | {"loss": 2.5}) + "\n", *lines[6:]]))
    line = f"differs from {other}: step 12: loss in metrics.jsonl is 2.5, there {row['loss']!r}"
    said = against()
    assert (said.code, said.out.splitlines()[-1]) == (1, f"  {line}")
    (found,) = json.loads(against("--json").out)
    assert found["good"] and not found["against"]["equal"] and found["against"]["conclusion"] == line


def test_where_two_runs_differ(run: RunDir, finished: Path) -> None:
    there = RunDir(finished / "run")

    def differs(one: RunDir, other: RunDir) -> str:
        return compared(one, other).conclusion.removeprefix(f"differs from {other.path}: ")

    model = run.checkpoints / "step_00000024" / "model.safetensors"
    flip(model, model.stat().st_size - 3)
    flawed = "checkpoints/step_00000024/model.safetensors{} is not what its manifest says"
    assert differs(run, there) == flawed.format("")
    assert differs(there, run) == flawed.format(" there")
    reseal(model.parent)
    assert re.fullmatch(r"step 24: \S+\[[0-9, ]+\] in checkpoints/\S+ is \S+, there \S+", differs(run, there))
    shutil.rmtree(model.parent)
    assert differs(run, there) == "its newest checkpoint is step_00000023, there step_00000024"
    shutil.rmtree(run.checkpoints)
    assert differs(run, there) == "it has no checkpoint"
    assert differs(there, run) == "there is no checkpoint there"
    rewrite(run, lambda records: records.__delitem__(-1))
    assert differs(run, there) == "it has records of 23 steps in ledger.bin, there 24"
    run.ledger.unlink()
    assert differs(run, there) == "it has no ledger.bin"
    assert differs(there, run) == "there is no ledger.bin there"
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[:-3]))
    assert differs(run, there) == "it has 8 rows in metrics.jsonl, there 11"


def test_runs_that_are_configured_otherwise_may_be_equal(run: RunDir, finished: Path) -> None:
    folder = run.checkpoints / "step_00000024"
    config = json.loads((folder / "trainer.json").read_text())["config"]
    restate(folder, config=config | {"training.micro_batch_size": 2})
    told = compared(run, RunDir(finished / "run"))
    assert told.equal
    assert told.conclusion.endswith("; configured otherwise: training.micro_batch_size is 2, there 'auto'")


def test_equal_runs_may_lack_checkpoints_and_ledgers(run: RunDir, tmp_path: Path) -> None:
    shutil.rmtree(run.checkpoints / "step_00000024")
    other = RunDir(Path(shutil.copytree(run.path, tmp_path / "other")))
    same = "equal to other, bit for bit: 24 steps"
    assert compared(run, other).conclusion == f"{same}, weights, optimizer state (both of step 23), samples"
    for one in (run, other):
        shutil.rmtree(one.checkpoints)
        one.ledger.unlink()
    none = "; neither has a checkpoint; neither has a record of its samples"
    assert compared(run, other).conclusion == f"{same}{none}"


@pytest.mark.parametrize("which", ["itself", "two", "none"])
def test_what_cannot_be_compared_is_refused(run: RunDir, finished: Path, which: str) -> None:
    other = str(finished / "run")
    targets = {"itself": [other], "two": [other, str(run.path)], "none": [str(run.path)]}[which]
    said = call("tmrc", "verify", *targets, "--against", str(finished / "data") if which == "none" else other)
    assert said.code == 2 and not said.problems() and "--against: " in said.err
