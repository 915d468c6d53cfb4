"""nanoGPT's side of a comparison of training steps: its model and optimizer, from a checkout. Served by bench.serve.

On a CPU the step is that of its train.py, on a GPU that of its bench.py; both without reading data.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from bench.serve import Served, serve


@contextlib.contextmanager
def _build(given: dict[str, Any]) -> Iterator[Served]:
    sys.path.insert(0, given["folder"])
    theirs = importlib.import_module("model")
    device, sizes, batch = given["device"], given["sizes"], given["batch"]
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(1337)
    model = theirs.GPT(theirs.GPTConfig(**sizes, dropout=0.0, bias=False)).to(device)
    optimizer = model.configure_optimizers(1e-1, 6e-4, (0.9, 0.95), device)
    run = torch.compile(model) if given["compile"] else model
    tokens = torch.randint(sizes["vocab_size"], (batch, sizes["block_size"] + 1), device=device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    halves = given["dtype"] == "bfloat16"
    context: Any = torch.amp.autocast(device, torch.bfloat16) if halves else contextlib.nullcontext()

    def on_cpu() -> None:
        with context:
            _, loss = run(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def on_gpu() -> None:
        with context:
            _, loss = run(inputs, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    yield Served(on_gpu if device == "cuda" else on_cpu, inputs.numel(), device)


if __name__ == "__main__":
    serve(_build)
