"""Checkpoints: `checkpoints/step_<8 digits>/` with the model, the optimizer state and the trainer's state.

Tensors are safetensors and the rest is JSON, so that nothing in a checkpoint can run code when it is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tmrc.config.errors import CheckpointError
from tmrc.config.rundir import RunDir, checkpoint_name, checkpoint_steps
from tmrc.train import durable
from tmrc.train.failures import DiskError, warn
from tmrc.train.fence import Fence
from tmrc.train.late import Patience, expected_step
from tmrc.train.saved import FILES, TrainerState

Tensors = dict[str, Tensor]
Files = Mapping[str, Tensors]  # name of a file of a checkpoint -> what is in it


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose every byte has been verified. `passed_over` tells of newer ones that are not good."""

    path: Path
    step: int
    passed_over: tuple[str, ...] = dataclasses.field(default=(), compare=False)


def find_checkpoint(run: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint, and one line for each newer one that is damaged."""
    found, flaws = _search(run)
    return found, [f"{path}: {flaw.text}" for path, flaw in flaws]


def _search(run: RunDir) -> tuple[Checkpoint | None, list[tuple[Path, durable.Flaw]]]:
    flaws: list[tuple[Path, durable.Flaw]] = []
    for step, path in checkpoint_steps(run).items():
        flaw = _examine(path, step)
        if flaw and flaw.unread:  # a handle that has gone stale works when it is opened again
            flaw = _examine(path, step)
        if flaw is None:
            return Checkpoint(path, step), flaws
        flaws.append((path, flaw))
    return None, flaws


def _examine(path: Path, step: int) -> durable.Flaw | None:
    """What is wrong with the checkpoint of `step`."""
    if flaw := durable.examine(path, FILES):
        return flaw
    try:
        state = load_state(Checkpoint(path, step))
    except CheckpointError as error:
        return durable.Flaw(str(error))
    return None if state.step == step else durable.Flaw(f"its trainer state is of step {state.step}")


def set_aside(fence: Fence, after: int) -> None:
    """Rename the checkpoints after step `after`, which are damaged, so that they neither count nor are deleted."""
    for step, path in checkpoint_steps(fence.run).items():
        if step > after:
            fence.set_aside(path)


def newest_checkpoint(run: RunDir) -> Checkpoint | None:
    """The newest good checkpoint or None when the run has made none yet; what is damaged or gone is named on stderr.

    Waits for what another node may have written and is not to be seen yet. Raises CheckpointError when every
    checkpoint is damaged, or gone, and DiskError when they cannot be read.
    """
    expected = expected_step(run)
    patience = Patience(run.path)
    while (missing := _missing(run, expected)) and patience.lasts(missing):
        pass
    checkpoint, flaws = _search(run)
    lines = [f"damaged checkpoint passed over: {path}: {flaw.text}" for path, flaw in flaws]
    if checkpoint and expected is not None and expected > max(checkpoint_steps(run)):
        name = checkpoint_name(expected)
        lines.append(f"{run.checkpoints}: {name}, that events.jsonl names, is gone; goes on from {checkpoint.step:,}")
    for line in lines:
        warn(line)
    if checkpoint is None:
        _refuse_to_start_again(run, flaws, expected)
        return None
    return dataclasses.replace(checkpoint, passed_over=tuple(lines))


def _missing(run: RunDir, expected: int | None) -> str | None:
    """What of the newest checkpoint is not to be seen."""
    steps = checkpoint_steps(run)
    newest = max(steps, default=-1)
    if expected is not None and newest < expected:
        return f"{run.checkpoints / checkpoint_name(expected)} is missing"
    flaw = durable.examine(steps[newest], FILES, sizes_only=True) if steps else None
    return f"{steps[newest]}: {flaw.text}" if flaw and flaw.may_pass else None


def _refuse_to_start_again(run: RunDir, flaws: list[tuple[Path, durable.Flaw]], expected: int | None) -> None:
    """Raise unless there has never been a checkpoint: what the run has done must not be thrown away by accident."""
    for path, flaw in flaws:
        if flaw.unread:
            raise DiskError(f"{path}: {flaw.text}; no checkpoint can be read: resume the run when that is mended")
    if not flaws and expected is None:
        return
    what = (
        f"every checkpoint is damaged ({flaws[0][0].name}: {flaws[0][1].text})"
        if flaws
        else f"{checkpoint_name(expected or 0)}, which events.jsonl names, is gone, and there is no other checkpoint"
    )
    raise CheckpointError(
        f"{run.checkpoints}: {what}; nothing was changed: put a whole one there, or begin again at step 0, in a new "
        f"run (tmrc-submit ... {run.config}) or in this one (move {run.checkpoints} and {run.events} away)"
    )


def files_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Files:
    """The tensors of a checkpoint by file, not copied."""
    return dict(zip(FILES, (model_tensors(model), optimizer_tensors(model, optimizer)), strict=False))


def save_checkpoint(fence: Fence, files: Files, state: TrainerState) -> Path:
    """Write a checkpoint; it is durable when this returns. Raises OSError; earlier checkpoints are not touched."""
    final = fence.run.checkpoints / checkpoint_name(state.step)
    if os.path.lexists(final):
        if durable.problem(final, FILES) is None:
            return final
        fence.set_aside(final)
    draft = fence.draft(final.name)
    try:
        durable.write_json(draft / "trainer.json", dataclasses.asdict(state))
        for name, tensors in files.items():
            save_file(tensors, draft / name)
            with contextlib.suppress(OSError):  # safetensors lets nobody else read it, whatever the umask says
                (draft / name).chmod((draft / "trainer.json").stat().st_mode)
        durable.seal(draft)
        durable.commit(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # the disk may be full
        raise
    return final


def prune(fence: Fence, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; only after a new one is durable."""
    for path in list(checkpoint_steps(fence.run).values())[keep:]:
        fence.discard(path)


def load_state(checkpoint: Checkpoint) -> TrainerState:
    """The trainer's state. Raises CheckpointError when a field is missing or of the wrong type."""
    file = checkpoint.path / "trainer.json"
    try:
        state = TrainerState(**durable.read_json(file))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: not a trainer state: {error}") from None
    kinds = {field.name: field.type for field in dataclasses.fields(TrainerState)}
    if any(not isinstance(getattr(state, name), int) for name, kind in kinds.items() if kind in ("int", "bool")):
        raise CheckpointError(f"{file}: not a trainer state: a number is missing")
    if not (isinstance(state.scaler, dict) and isinstance(state.config, dict)):
        raise CheckpointError(f"{file}: not a trainer state: a mapping is missing")
    if not isinstance(state.ledger, str):
        raise CheckpointError(f"{file}: not a trainer state: the ledger's value is no text")
    return state


def load_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Load the weights into `model`. Raises CheckpointError unless names, shapes and types are exactly the model's."""
    file = checkpoint.path / "model.safetensors"
    own = model_tensors(model)
    loaded = _load(file)
    _require_equal_names(file, set(own), set(loaded))
    with torch.no_grad():
        for name, tensor in own.items():
            _require_same_kind(file, name, tensor, loaded[name])
            tensor.copy_(loaded[name])


def load_optimizer(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer state. Raises CheckpointError when it is not that of `model`'s parameters."""
    file = checkpoint.path / "optimizer.safetensors"
    loaded = _load(file)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    there = {name.rpartition("/")[0] for name in loaded}
    if checkpoint.step > 0 and not there:  # before the first step there is no state yet
        _require_equal_names(file, set(names.values()), there)
    _require_equal_names(file, set(names.values()) & there, there)  # one without a gradient has none, now as then
    for group in optimizer.param_groups:
        on_device = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            own = _fields_of(names[id(parameter)], parameter, loaded, file)
            optimizer.state[parameter] = {
                field: value.to(parameter.device) if value.dim() or on_device else value for field, value in own.items()
            }


def _fields_of(name: str, parameter: Tensor, loaded: Tensors, file: Path) -> Tensors:
    """The loaded optimizer state of one parameter."""
    own = {entry.removeprefix(f"{name}/"): value for entry, value in loaded.items() if entry.startswith(f"{name}/")}
    for field, value in own.items():
        if value.dim() and value.shape != parameter.shape:
            raise CheckpointError(
                f"{file}: {name}/{field} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}"
            )
    return own


def model_tensors(model: nn.Module) -> Tensors:
    """The model's parameters and buffers by name, not copied."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer state as `<parameter>/<field>`. Fields are tensors in every optimizer registered here."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: Tensors = {}
    for parameter, state in optimizer.state.items():
        for field, value in state.items():
            tensors[f"{names[id(parameter)]}/{field}"] = value
    return tensors


def _load(file: Path) -> Tensors:
    try:
        tensors: Tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    return tensors


def _require_equal_names(file: Path, own: set[str], loaded: set[str]) -> None:
    if missing := sorted(own - loaded):
        raise CheckpointError(f"{file}: holds no {missing[0]} ({len(missing)} missing); is it of another model?")
    if extra := sorted(loaded - own):
        raise CheckpointError(f"{file}: holds {extra[0]}, which the model has not ({len(extra)} such)")


def _require_same_kind(file: Path, name: str, own: Tensor, loaded: Tensor) -> None:
    if own.shape != loaded.shape or own.dtype != loaded.dtype:
        kinds: Mapping[str, Any] = {"model": (tuple(own.shape), own.dtype), "file": (tuple(loaded.shape), loaded.dtype)}
        raise CheckpointError(f"{file}: {name} is {kinds['file']}, the model's is {kinds['model']}")
