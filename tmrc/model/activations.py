"""Activations of the MLP. A new one is a decorated function in this file; `model.activation` names it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from tmrc.config.registry import Registry

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: Registry[Activation] = Registry("activation")


@ACTIVATIONS.register("relu")
def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return F.relu(x)


@ACTIVATIONS.register("gelu")
def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x, computed exactly (GPT-2 used a tanh approximation of it)."""
    return F.gelu(x)


@ACTIVATIONS.register("relu_squared")
def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0) squared (Primer, arXiv:2109.08668)."""
    return F.relu(x).square()
