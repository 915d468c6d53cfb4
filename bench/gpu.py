"""Training on one GPU: throughput and utilisation, against nanoGPT and the original tmrc, and where a step's time goes.

Every side is a process of its own. Sizes are those of the packaged configurations, with one micro-batch a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.cpu_training import nanogpt
from bench.gpu_profile import time_of_a_step
from bench.harness import Aim, Comparison, Figure, Given, Missing, Result, Side, compare, repeated
from bench.our_step import DOCUMENT, QUIET
from bench.serve import OUT_OF_MEMORY, Server
from tmrc.config.estimate import flops_per_token
from tmrc.config.load import load_config

CONFIGS = ("default", "gpt2-124m")
STEPS = 20  # of one measurement
MILLION = 1e6  # tokens
MFU, AGAINST_NANOGPT, ATTENTION, REAL = 0.40, 1.15, 1.15, 0.99
ORIGINAL_BATCH = 256  # sequences; halved until they fit


def run(given: Given) -> Iterator[Result]:
    """Everything that a GPU can show. Raises Missing without one."""
    import torch

    if not torch.cuda.is_available():
        raise Missing("no CUDA device")
    for config in CONFIGS:
        yield from of_config(config, given, "cuda", STEPS)


def of_config(config: str, given: Given, device: str, steps: int, extra: Sequence[str] = ()) -> Iterator[Result]:
    """The figures of one configuration; `extra` overrides make it small enough for a try on a CPU."""
    batch = micro_batch(config, device, extra)
    overrides = [f"training.batch_size={batch}", f"training.micro_batch_size={batch}", *extra]
    with ExitStack() as ends:
        ours = ends.enter_context(our_side(config, overrides, device))
        measure = ours.seconds_of(MILLION, steps)
        yield from speed(config, overrides, device, repeated(measure, given.repeats), ours)
        side = Side(f"tmrc at {batch} sequences", measure)
        yield from against_peers(config, overrides, batch, device, steps, side, given)
        yield compare_real(config, overrides, device, steps, given.repeats)
        yield compare_deterministic(config, overrides, device, steps, given.repeats, side)
    yield compare_attention(config, overrides, batch, device, given.repeats)
    yield from time_of_a_step(config, [f"training.device={device}", *overrides])


def micro_batch(config: str, device: str, extra: Sequence[str]) -> int:
    """What training.micro_batch_size: auto takes on this GPU."""
    import torch

    from tmrc.train.distributed import World
    from tmrc.train.setup import choose_micro_batch_size

    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else 0
    return choose_micro_batch_size(load_config(config, [*QUIET, *extra]), World(0, 1, torch.device(device), memory))


def our_side(config: str, overrides: list[str], device: str, **given: Any) -> Server:
    """Our training step, served."""
    return Server("bench.our_step", {"config": config, "overrides": [f"training.device={device}", *overrides], **given})


def speed(config: str, overrides: list[str], device: str, seconds: tuple[float, ...], ours: Server) -> Iterator[Result]:
    """Tokens a second, utilisation by the PaLM count, and peak memory."""
    import torch

    from tmrc.train.metrics import peak_flops

    rates = tuple(MILLION / value for value in seconds)
    yield Figure(f"{config}: tokens a second", rates, "tokens/s", note=f"{ours.tokens:,} tokens a step")
    peak, flops = peak_flops(torch.device(device)), flops_per_token(load_config(config, [*QUIET, *overrides]))
    if peak and flops:
        used = tuple(rate * flops / peak for rate in rates)
        yield Figure(f"{config}: model FLOPs utilisation", used, "of peak", Aim("at least", MFU))
    yield Figure(f"{config}: peak memory", (ours.peak_bytes / 2**30,), "GiB")


def against_peers(
    config: str, overrides: list[str], batch: int, device: str, steps: int, ours: Side, given: Given
) -> Iterator[Result]:
    """Against nanoGPT at equal sizes and batch, and the original tmrc at the largest batch that fits."""
    if "nanogpt" in given.peers:
        folder = str(given.peer("nanogpt", "model.py"))
        dtype = "bfloat16" if device == "cuda" else "float32"
        with nanogpt(folder, [*QUIET, *overrides], batch, dtype, config=config, device=device) as theirs:
            side = Side("nanoGPT, causal only", theirs.seconds_of(MILLION, steps))
            aim = Aim("at least", AGAINST_NANOGPT)
            yield compare(f"{config}: a million tokens", aim, ours, side, given.repeats)
    whole = load_config(config, [*QUIET, *overrides])
    # Its block mask has the width for a length, so it runs only where the two are equal.
    if "tmrc" in given.peers and whole.model.d_model == whole.model.context_length:
        folder = given.peer("tmrc", "src/tmrc/tmrc_core/models/gpt.py") / "src"
        with original(folder, whole, device) as theirs:
            side = Side(f"original tmrc, {theirs.tokens:,} tokens a step", theirs.seconds_of(MILLION, steps))
            yield compare(f"{config}: a million tokens", Aim("at least", 1.0), ours, side, given.repeats)


def original(folder: Path, config: Any, device: str) -> Server:
    """The original tmrc at the largest batch that fits. Raises Missing when none does."""
    batch = ORIGINAL_BATCH
    while True:
        sizes = {"config": dataclasses.asdict(config), "device": device, "batch": batch, "document": DOCUMENT}
        try:
            return Server("bench.tmrc_step", sizes, [folder])
        except Missing as missing:
            if str(missing) != OUT_OF_MEMORY or batch == 1:
                raise
        batch //= 2


def compare_real(config: str, overrides: list[str], device: str, steps: int, repeats: int) -> Figure:
    """Throughput with data that are read and copied, as a share of that with a batch which stays where it is."""
    with (
        our_side(config, overrides, device) as still,
        our_side(config, overrides, device, reads=True) as reading,
    ):
        pair = (Side("read", reading.seconds_of(MILLION, steps)), Side("made up", still.seconds_of(MILLION, steps)))
        both = compare("", Aim("at least", REAL), *pair, repeats)
    return Figure(f"{config}: throughput on real data", tuple(both.ratios), "of made-up data's", both.aim)


def compare_deterministic(
    config: str, overrides: list[str], device: str, steps: int, repeats: int, ours: Side
) -> Figure:
    """What training.deterministic costs."""
    with our_side(config, [*overrides, "training.deterministic=true"], device) as exact:
        side = Side("deterministic", exact.seconds_of(MILLION, steps))
        both = compare("", Aim("at least", 0.0), side, ours, repeats)
    return Figure(f"{config}: throughput with training.deterministic", tuple(both.ratios), "of that without")


def compare_attention(config: str, overrides: list[str], batch: int, device: str, repeats: int) -> Comparison:
    """Flex and its mask against SDPA's causal kernel."""
    sizes = {"config": config, "overrides": overrides, "batch": batch, "device": device}
    steps = STEPS if device == "cuda" else 1
    with (
        Server("bench.attention_step", {**sizes, "masked": True}) as flex,
        Server("bench.attention_step", {**sizes, "masked": False}) as plain,
    ):
        sides = (
            Side("flex with its mask", flex.seconds_of(MILLION, steps)),
            Side("SDPA, causal", plain.seconds_of(MILLION, steps)),
        )
        return compare(f"{config}: attention of a million tokens", Aim("at most", ATTENTION), *sides, repeats)
