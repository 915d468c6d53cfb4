"""The output layer and its cross-entropy a few positions at a time, for CPUs.

Logits are the largest thing that a step makes: 8,192 positions by 32,128 tokens are 1 GB in float32, and the plain loss
has three of them. Memory that has just been taken from the system costs more to touch first than the sums do. Here each
piece of logits gives its loss and its gradient at once and is gone. A compiled step has no use for it.
Shapes: N positions, D width, V vocabulary, R positions of a piece.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from tmrc.train.batch import IGNORED

PIECE = 256  # positions; a constant, since sums depend on it


def chunked_loss(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum of the cross-entropies of `linear(hidden, weight, bias)`, multiplied in `dtype`, in nats and float32.

    Where gradients are wanted they are computed here, and only scaled in the backward pass.
    """
    loss: Tensor = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, dtype, torch.is_grad_enabled()
    )
    return loss


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        dtype: torch.dtype,
        wants_gradients: bool,
    ) -> Tensor:
        pieces = list(zip(torch.split(hidden_ND.to(dtype), PIECE), torch.split(targets_N, PIECE), strict=True))
        weight, bias = weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        gradients = _Gradients(hidden_ND, weight_VD, bias_V) if wants_gradients else None
        for number, (hidden_RD, targets_R) in enumerate(pieces):
            logits_RV = linear(hidden_RD, weight, bias).float()
            kept_R, target_R1 = targets_R != IGNORED, targets_R.clamp_min(0).unsqueeze(1)
            normalizer_R = logits_RV.logsumexp(1)
            losses_R = normalizer_R - logits_RV.gather(1, target_R1).squeeze(1)
            loss += losses_R.masked_fill(~kept_R, 0).sum()
            if gradients is None:
                continue
            # d loss / d logits = softmax - one-hot, in place; an infinite normalizer makes the softmax 0.
            error_RV = logits_RV.sub_(normalizer_R.masked_fill(~kept_R, torch.inf).unsqueeze(1)).exp_()
            error_RV.scatter_add_(1, target_R1, -kept_R.float().unsqueeze(1))
            gradients.add(number * PIECE, error_RV, hidden_RD, weight)
        ctx.gradients = gradients
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        gradients: _Gradients | None = ctx.gradients
        if gradients is None:
            raise RuntimeError("the backward pass of the loss can be run once")
        ctx.gradients = None  # freed as soon as they are handed on
        bias_V = None if gradients.bias_V is None else gradients.bias_V.mul_(scale)
        return gradients.hidden_ND.mul_(scale), gradients.weight_VD.mul_(scale), bias_V, None, None, None


class _Gradients:
    """Gradients of the loss sum, added up over pieces in the parameters' own precision."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> None:
        self.hidden_ND = torch.empty_like(hidden_ND)
        self.weight_VD = torch.zeros_like(weight_VD)
        self.bias_V = None if bias_V is None else torch.zeros_like(bias_V)

    def add(self, first: int, error_RV: Tensor, hidden_RD: Tensor, weight_VD: Tensor) -> None:
        """Add a piece that begins at position `first`."""
        if self.bias_V is not None:
            self.bias_V += error_RV.sum(0)
        error_RV = error_RV.to(weight_VD.dtype)
        self.hidden_ND[first : first + len(hidden_RD)] = error_RV @ weight_VD
        if error_RV.dtype == self.weight_VD.dtype:
            self.weight_VD.addmm_(error_RV.t(), hidden_RD)
        else:
            self.weight_VD += error_RV.t() @ hidden_RD
