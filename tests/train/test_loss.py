"""The loss in pieces against the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tmrc.train.batch import IGNORED
from tmrc.train.loss import PIECE, chunked_loss

N, D, V = PIECE + 44, 8, 33


def made(bias: bool) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    hidden, head = torch.randn(N, D, requires_grad=True), nn.Linear(D, V, bias=bias)
    targets = torch.randint(V, (N,))
    targets[::3] = IGNORED
    return hidden, head, targets


def results(loss: Tensor, hidden: Tensor, head: nn.Linear) -> list[Tensor]:
    (loss * 0.25).backward()
    gradients = [tensor.grad for tensor in (hidden, *head.parameters())]
    return [loss.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_pieces_have_the_loss_and_gradients_of_the_whole(bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    sides = []
    for in_pieces in (True, False):
        hidden, head, targets = made(bias)
        if in_pieces:
            loss = chunked_loss(hidden, head.weight, head.bias, targets, dtype)
        else:
            loss = nn.functional.cross_entropy(head(hidden), targets, ignore_index=IGNORED, reduction="sum")
        sides.append(results(loss, hidden, head))
    assert len(sides[0]) == 3 + bias
    for own, plain in zip(*sides, strict=True):
        torch.testing.assert_close(own, plain, rtol=tolerance, atol=tolerance)


def test_without_gradients_it_is_the_same_loss() -> None:
    hidden, head, targets = made(True)
    trained = chunked_loss(hidden, head.weight, head.bias, targets, torch.float32)
    with torch.no_grad():
        assert torch.equal(chunked_loss(hidden, head.weight, head.bias, targets, torch.float32), trained)


def test_nothing_to_predict_is_a_loss_of_zero() -> None:
    hidden, head, targets = made(True)
    loss, *gradients = results(
        chunked_loss(hidden, head.weight, head.bias, torch.full_like(targets, IGNORED), torch.float32), hidden, head
    )
    assert loss == 0 and not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_what_is_not_finite_shows(spoilt: float) -> None:
    hidden, head, targets = made(True)
    with torch.no_grad():
        hidden[1] = spoilt
    assert not chunked_loss(hidden, head.weight, head.bias, targets, torch.float32).isfinite()
