"""`tmrc verify` on the files of checkpoints."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.verify.helpers import faults, flip, notes, reseal, restate
from tmrc.config.rundir import RunDir


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"])
def test_a_flipped_bit_in_a_checkpoint(run: RunDir, name: str) -> None:
    path = run.checkpoints / "step_00000023" / name
    flip(path, path.stat().st_size // 2)
    found = faults(run)
    assert list(found) == ["checkpoints"]
    assert found["checkpoints"][0].startswith(f"step_00000023: {name} is damaged")


def test_a_trainer_state_that_lies(run: RunDir) -> None:
    restate(run.checkpoints / "step_00000023", step=22, sequences=1, ledger="00" * 8)
    found = faults(run)
    assert found["trainer state"] == (
        "step_00000023: its trainer.json is of step 22",
        "step_00000023: its trainer.json counts 1 sequences instead of 184 (23 x 8)",
    )
    assert found["ledger"][0].startswith("it does not lead to step_00000023")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"step": 23.0}, "step of its trainer.json is of type float"),
        ({"validation_due": 1}, "validation_due of its trainer.json is of type int"),
        ({"threads": None}, "has no threads"),
        ({"validation_due": None}, "has no validation_due"),
        ({"config": None}, "has no config"),
        ({"config": {}}, "does not note 'datasets.allow_mismatch', 'datasets.eos_token', "),
        ({"other": 1}, "'other', which is none of its fields"),
        ({"ledger": ""}, "does not name the ledger"),
        ({"data_fingerprint": "0" * 16}, "its data_fingerprint is"),
        ({"validation_due": True}, "no validation belongs to its step"),
        ({"world_size": 3}, "its world_size, 3, does not divide"),
        ({"world_size": 2, "micro_batch_size": 8}, "its micro_batch_size, 8, does not divide"),
    ],
)
def test_a_state_without_its_form(run: RunDir, fields: dict[str, Any], words: str) -> None:
    restate(run.checkpoints / "step_00000023", **fields)
    found = faults(run, read_data=False)
    assert list(found) == ["trainer state"] and words in found["trainer state"][0]


def test_tensors_and_files_of_a_checkpoint(run: RunDir) -> None:
    folder = run.checkpoints / "step_00000024"
    (folder / "more.txt").write_text("x")
    reseal(folder)
    assert faults(run, read_data=False) == {}
    assert notes(run)["checkpoints"] == "step_00000024: 'more.txt' is none of its files"
    model, content = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    for rubbish in (
        b"",
        b"\xff" * 40,
        content[:-4],
        content + b"1",
        content.replace(b"F32", b"F16", 1),
        b"\2" + bytes(7) + b"{}",
    ):
        model.write_bytes(rubbish)
        reseal(folder)
        assert faults(run, read_data=False)["checkpoints"][0].startswith("step_00000024: model.safetensors ")
