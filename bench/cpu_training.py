"""Training steps on a CPU: ours against nanoGPT's model and step as its train.py takes them there, at equal sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.harness import Aim, Given, Result, Side, compare
from bench.serve import Server
from tmrc.config.load import load_config

SEQUENCES = 2  # of one step: the configuration's 256 would take minutes
# Without instructions for bfloat16 nanoGPT takes minutes a step, so there a step has 64 tokens.
NO_BFLOAT16 = "; this CPU has no bfloat16 instructions, where ours computes in float32"


def run(given: Given) -> Iterator[Result]:
    """The default configuration in our precision against float32, and both in bfloat16."""
    folder = str(given.peer("nanogpt", "model.py"))
    from tmrc.train.setup import multiplies_bfloat16

    note = "" if multiplies_bfloat16() else NO_BFLOAT16
    short = ["model.context_length=64"] if note else []
    halves = 1 if note else SEQUENCES
    yield _compare("default, nanoGPT in float32", folder, "float32", SEQUENCES, [], Aim("at least", 2.2), given, note)
    yield _compare("default, both in bfloat16", folder, "bfloat16", halves, short, Aim("at least", 1.1), given, note)


def _compare(
    what: str, folder: str, dtype: str, batch: int, sizes: list[str], aim: Aim, given: Given, note: str
) -> Result:
    overrides = ["training.device=cpu", f"training.batch_size={batch}", *sizes]
    peer = nanogpt(folder, overrides, batch, dtype)
    with Server("bench.our_step", {"config": "default", "overrides": overrides}) as ours, peer:
        sides = (Side("tmrc", ours.seconds_of(1000, 1)), Side("nanoGPT", peer.seconds_of(1000, 1)))
        length = load_config("default", overrides).model.context_length
        about = f"{what}: a thousand tokens, {batch} x {length} a step{note}"
        return compare(about, aim, *sides, given.repeats)


def nanogpt(
    folder: str, overrides: list[str], batch: int, dtype: str, *, config: str = "default", device: str = "cpu"
) -> Server:
    """nanoGPT at the sizes of our configuration, compiled on a GPU as its bench.py does. Raises Missing."""
    return Server("bench.nanogpt_step", nanogpt_given(folder, overrides, batch, dtype, config, device))


def nanogpt_given(
    folder: str, overrides: list[str], batch: int, dtype: str, config: str, device: str
) -> dict[str, Any]:
    """What bench.nanogpt_step is to build."""
    whole = load_config(config, overrides)
    sizes = {
        "n_layer": whole.model.n_layer,
        "n_head": whole.model.n_head,
        "n_embd": whole.model.d_model,
        "block_size": whole.model.context_length,
        "vocab_size": whole.tokenizer.vocab_size,
    }
    return {
        "folder": folder,
        "device": device,
        "sizes": sizes,
        "batch": batch,
        "dtype": dtype,
        "compile": device == "cuda",
    }
