"""Checkpoints: `checkpoints/step_<8 digits>/` with the model, the optimizer state and the trainer's state.

Tensors are safetensors and the rest is JSON, so that nothing in a checkpoint can run code when it is read.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tmrc.config.errors import CheckpointError
from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.train.fence import Fence

_STEP_NAME = re.compile(r"^step_(\d{8,15})$")
FILES = ("model.safetensors", "optimizer.safetensors", "trainer.json")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class TrainerState:
    """What a run knows beside its tensors. Randomness and data order are functions of (seed, step): not stored."""

    step: int  # optimizer steps done
    sequences: int  # sequences consumed
    micro_batch_size: int
    world_size: int
    threads: int  # CPU threads a process: sums depend on it
    torch_version: str
    data_fingerprint: str
    validation_due: bool = False  # the validation that belongs to this step has not been run
    scaler: dict[str, float] = dataclasses.field(default_factory=dict)  # of float16's loss scaler


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose every byte has been verified."""

    path: Path
    step: int


def checkpoint_steps(run: RunDir) -> dict[int, Path]:
    """Step -> directory of all checkpoints of the run, newest first, not verified."""
    if not run.checkpoints.is_dir():
        return {}
    found = {int(match[1]): path for path in run.checkpoints.iterdir() if (match := _STEP_NAME.match(path.name))}
    return dict(sorted(found.items(), reverse=True))


def find_checkpoint(run: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint, and one line for each newer one that is damaged."""
    damaged: list[str] = []
    for step, path in checkpoint_steps(run).items():
        problem = durable.problem(path, FILES) or _wrong_step(path, step)
        if problem is None:
            return Checkpoint(path, step), damaged
        damaged.append(f"{path}: {problem}")
    return None, damaged


def _wrong_step(path: Path, step: int) -> str | None:
    try:
        state = load_state(Checkpoint(path, step))
    except CheckpointError as error:
        return str(error)
    return None if state.step == step else f"its trainer state is of step {state.step}"


def set_aside(fence: Fence, after: int) -> None:
    """Rename the checkpoints after step `after`, which are damaged, so that they neither count nor are deleted."""
    for step, path in checkpoint_steps(fence.run).items():
        if step > after:
            fence.set_aside(path)


def newest_checkpoint(run: RunDir) -> Checkpoint | None:
    """The newest good checkpoint or None when the run has none yet; damaged ones are named on stderr.

    Raises CheckpointError when there are checkpoints and every one is damaged.
    """
    checkpoint, damaged = find_checkpoint(run)
    for line in damaged:
        print(f"warning: damaged checkpoint passed over: {line}", file=sys.stderr, flush=True)
    if checkpoint is None and damaged:
        raise CheckpointError(
            f"{run.checkpoints}: every checkpoint is damaged ({damaged[0]}); move them away to start from step 0"
        )
    return checkpoint


def save_checkpoint(fence: Fence, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState) -> Path:
    """Write a checkpoint; it is durable when this returns. Raises OSError; earlier checkpoints are not touched."""
    final = fence.run.checkpoints / f"step_{state.step:08d}"
    if final.exists():
        if durable.problem(final, FILES) is None:
            return final
        fence.set_aside(final)
    draft = fence.draft(final.name)
    try:
        save_file(model_tensors(model), draft / "model.safetensors")
        save_file(optimizer_tensors(model, optimizer), draft / "optimizer.safetensors")
        durable.write_json(draft / "trainer.json", dataclasses.asdict(state))
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
        values = json.loads(file.read_bytes())
        state = TrainerState(**values)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: not a trainer state: {error}") from None
    kinds = {field.name: field.type for field in dataclasses.fields(TrainerState)}
    if any(not isinstance(getattr(state, name), int) for name, kind in kinds.items() if kind in ("int", "bool")):
        raise CheckpointError(f"{file}: not a trainer state: a number is missing")
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
    if checkpoint.step > 0:  # before the first step there is no state yet
        _require_equal_names(file, set(names.values()), {name.rpartition("/")[0] for name in loaded})
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
