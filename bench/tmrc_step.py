"""The original tmrc's side of a comparison of training steps, from a checkout. Served by bench.serve.

Run with its `src` before ours on the path: both packages have the same name. Nothing of ours is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import OmegaConf

from bench.serve import Served, serve


@contextlib.contextmanager
def _build(given: dict[str, Any]) -> Iterator[Served]:
    from tmrc.tmrc_core.models import gpt  # type: ignore[import-not-found]
    from tmrc.tmrc_core.utils.platform import Platform  # type: ignore[import-not-found]

    config, device = OmegaConf.create(given["config"]), given["device"]
    if device == "cuda":
        torch.cuda.set_device(0)
    torch.manual_seed(0)
    platform = Platform()
    model = gpt.GPT(config, platform).to(device)
    keys = config.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=keys.lr, betas=tuple(keys.betas), eps=keys.eps, weight_decay=keys.weight_decay
    )
    scaler = torch.amp.GradScaler(device=device)
    batch, length = given["batch"], config.model.context_length
    tokens = torch.randint(2, config.tokenizer.vocab_size, (batch, length))
    documents = (torch.rand(batch, length) < 1 / given["document"]).cumsum(1)

    def step() -> None:
        targets = torch.roll(tokens, shifts=-1, dims=1)
        targets[:, -1] = -100
        on_device = [tensor.to(device) for tensor in (tokens, targets, documents)]
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            _, loss = model(*on_device)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    model.train()
    yield Served(step, tokens.numel(), device)


if __name__ == "__main__":
    serve(_build)
