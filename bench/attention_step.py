"""Attention alone, forward and backward on the same tensors: flex with its mask, or SDPA's causal one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bench.our_step import DOCUMENT, QUIET
from bench.serve import Served, serve
from tmrc.config.load import load_config
from tmrc.model.attention import attend, attention_backend, build_mask


@contextmanager
def _build(given: dict[str, Any]) -> Iterator[Served]:
    """All layers of one micro-batch: for flex the mask is built once, and every layer uses it."""
    model = load_config(given["config"], [*QUIET, *given["overrides"]]).model
    device, batch, length = given["device"], given["batch"], model.context_length
    torch.manual_seed(0)
    shape = (batch, model.n_head, length, model.d_model // model.n_head)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
    document_ids = (torch.rand(batch, length, device=device) < 1 / DOCUMENT).cumsum(1)
    error = torch.randn(shape, device=device, dtype=dtype)
    backend = attention_backend(model, device) if given["masked"] else "flash"

    def step() -> None:
        mask = build_mask(model, backend, document_ids)
        for _ in range(model.n_layer):
            torch.autograd.grad(attend(q, k, v, mask), (q, k, v), error)

    yield Served(step, batch * length, device)


if __name__ == "__main__":
    serve(_build)
