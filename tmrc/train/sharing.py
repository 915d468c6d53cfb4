"""The optimizer state that rank 0 has read, on every rank.

Only rank 0 reads a checkpoint. The others make room for a state of the same layout, and then receive its tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tmrc.train.checkpoint import optimizer_tensors


@dataclass(frozen=True)
class Slot:
    """One tensor of the optimizer state. `value` is there for a number that stays on the CPU: it is sent as it is."""

    parameter: str
    field: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    value: float | None


Layout = tuple[Slot, ...]


def layout_of(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Layout:
    """The layout of the optimizer's state, in the order of `shared_tensors`."""
    slots = []
    for name, tensor in optimizer_tensors(model, optimizer).items():
        parameter, _, field = name.rpartition("/")
        value = tensor.item() if tensor.device != device else None
        slots.append(Slot(parameter, field, tuple(tensor.shape), tensor.dtype, value))
    return tuple(slots)


def lay_out(model: nn.Module, optimizer: torch.optim.Optimizer, layout: Layout) -> None:
    """Make room for a state of this layout; what is on the model's device is still to be received."""
    parameters = dict(model.named_parameters())
    for slot in layout:
        parameter = parameters[slot.parameter]
        if slot.value is None:
            tensor = torch.empty(slot.shape, dtype=slot.dtype, device=parameter.device)
        else:
            tensor = torch.tensor(slot.value, dtype=slot.dtype)
        optimizer.state[parameter][slot.field] = tensor


def shared_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> list[Tensor]:
    """The tensors of the optimizer's state that are on `device`, in the same order on every rank."""
    return [tensor for tensor in optimizer_tensors(model, optimizer).values() if tensor.device == device]
