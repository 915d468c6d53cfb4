"""Checkpoints: whole or not there, and every damage found."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tmrc.config.errors import CheckpointError
from tmrc.config.rundir import RunDir
from tmrc.config.schema import OptimizerConfig
from tmrc.train import durable
from tmrc.train.checkpoint import (
    Checkpoint,
    TrainerState,
    files_of,
    find_checkpoint,
    load_model,
    load_optimizer,
    load_state,
    newest_checkpoint,
    prune,
    save_checkpoint,
)
from tmrc.train.fence import Fence, take_over
from tmrc.train.optim import build_optimizer

STATE = TrainerState(
    step=1, sequences=8, micro_batch_size=4, world_size=1, threads=1, torch_version="2", data_fingerprint="abc"
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def trained(seed: int, precision: str = "float32") -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
    config = dataclasses.replace(OptimizerConfig(), precision=precision)
    optimizer = build_optimizer(model.named_parameters(), config)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(run: RunDir, step: int = 1, seed: int = 0) -> Path:
    return save_checkpoint(fence_of(run), files_of(*trained(seed)), dataclasses.replace(STATE, step=step))


def fence_of(run: RunDir) -> Fence:
    return Fence(run, 1) if Fence(run, 1).folder.is_dir() else take_over(run, 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_saved_comes_back_bit_for_bit(run: RunDir, precision: str) -> None:
    model, optimizer = trained(0, precision)
    path = save_checkpoint(fence_of(run), files_of(model, optimizer), STATE)
    found = newest_checkpoint(run)
    assert found == Checkpoint(path, 1)
    assert path.name == "step_00000001"
    other_model, other_optimizer = trained(1, precision)
    load_model(found, other_model)
    load_optimizer(found, other_model, other_optimizer)
    assert load_state(found) == STATE
    for mine, theirs in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
        for name, value in optimizer.state[mine].items():
            loaded = other_optimizer.state[theirs][name]
            assert loaded.dtype == value.dtype
            assert torch.equal(loaded, value)


FILES = ["model.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "bit flip": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    run: RunDir, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = save(run, 1)
    DAMAGES[damage](save(run, 2) / name)
    assert newest_checkpoint(run) == Checkpoint(good, 1)
    said = capsys.readouterr().err
    assert "step_00000002" in said
    assert name in said
    assert len(said.splitlines()) == 1


def test_all_damaged_refuses_to_start_again_from_zero(run: RunDir) -> None:
    for step in (1, 2):
        (save(run, step) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        newest_checkpoint(run)


def test_no_checkpoint_is_none(run: RunDir) -> None:
    assert newest_checkpoint(run) is None


def test_a_manifest_cannot_point_outside(run: RunDir) -> None:
    path = save(run)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = {"../../etc/passwd": {"bytes": 1, "sha256": "0"}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert durable.problem(path) == "../../etc/passwd is missing"


@pytest.mark.parametrize("operation", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_checkpoint(run: RunDir, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save(run, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"write": (durable, "write_json"), "fsync": (os, "fsync"), "rename": (Path, "rename")}[operation]
    monkeypatch.setattr(*target, full)
    with pytest.raises(OSError, match="No space left"):
        save(run, 2)
    monkeypatch.undo()
    assert find_checkpoint(run) == (Checkpoint(old, 1), [])
    assert [path.name for path in run.checkpoints.glob("**/*step*")] == [old.name]


def test_saving_a_step_again_keeps_a_good_one_and_replaces_a_damaged_one(run: RunDir) -> None:
    path = save(run, 1, seed=0)
    before = (path / "manifest.json").read_bytes()
    save(run, 1, seed=1)
    assert (path / "manifest.json").read_bytes() == before
    flip(path / "model.safetensors")
    save(run, 1, seed=1)
    assert durable.problem(path) is None
    assert (path / "manifest.json").read_bytes() != before


def test_pruning_keeps_the_newest(run: RunDir) -> None:
    for step in (1, 2, 10, 3):
        save(run, step)
    prune(fence_of(run), keep=2)
    assert sorted(path.name for path in run.checkpoints.glob("**/*step*")) == ["step_00000003", "step_00000010"]


def test_a_seal_over_the_wrong_contents_does_not_count(run: RunDir) -> None:
    good = save(run, 1)
    save(run, 2).rename(run.checkpoints / "step_00000009")  # whole, but of another step
    short = save(run, 10)
    (short / "model.safetensors").unlink()
    (short / "manifest.json").unlink()
    durable.seal(short)
    found, damaged = find_checkpoint(run)
    assert found == Checkpoint(good, 1)
    assert "does not list model.safetensors" in damaged[0]
    assert "of step 2" in damaged[1]


def test_another_models_checkpoint_is_refused(run: RunDir) -> None:
    save(run)
    checkpoint = newest_checkpoint(run)
    assert checkpoint is not None
    for other, part in [
        (nn.Sequential(nn.Linear(4, 9), nn.LayerNorm(9)), "0.weight is"),
        (nn.Sequential(nn.Linear(4, 8)), "holds 1.bias"),
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8)), "holds no 2.bias"),
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)).double(), "float64"),
    ]:
        with pytest.raises(CheckpointError, match=part):
            load_model(checkpoint, other)


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"step": 1}', "null"])
def test_a_trainer_state_of_another_form_is_refused(run: RunDir, text: str) -> None:
    path = save(run)
    (path / "trainer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"trainer\.json"):
        load_state(Checkpoint(path, 1))


def test_nothing_in_a_checkpoint_is_a_pickle(run: RunDir) -> None:
    assert sorted(path.name for path in save(run).iterdir()) == sorted(FILES)


def test_a_parameter_that_has_never_had_a_gradient_has_no_state_after_a_resume_either(run: RunDir) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.ModuleDict({"used": nn.Linear(4, 8), "frozen": nn.Linear(2, 2), "unused": nn.Linear(3, 3)})
        model["frozen"].requires_grad_(False)
        return model, build_optimizer(model.named_parameters(), OptimizerConfig())

    model, optimizer = made()
    model["used"](torch.randn(3, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(fence_of(run), files_of(model, optimizer), STATE)
    found = newest_checkpoint(run)
    assert found is not None
    other, resumed = made()
    load_model(found, other)
    load_optimizer(found, other, resumed)
    names = {id(parameter): name for name, parameter in other.named_parameters()}
    assert sorted(names[id(parameter)] for parameter in resumed.state if resumed.state[parameter]) == [
        "used.bias", "used.weight",
    ]  # fmt: skip
