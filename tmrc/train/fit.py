"""The micro-batch size that fits into memory: `training.micro_batch_size: auto`, tried before the first step.

GPUs of one partition can differ, and a run can come back on a smaller one. So a size that was chosen by an estimate is
tried where it is to be used. A process that runs out of memory makes all of them go down to the largest divisor of
their share of the global batch that is no more than half as large; the global batch stays what it is.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tmrc.config.estimate import moment_bytes
from tmrc.config.schema import Config
from tmrc.train.distributed import World, gather
from tmrc.train.failures import NoMemoryError, kind_of
from tmrc.train.setup import Parts, warm_up_batch, with_micro_batch_size

SPARE = 0.05  # of the memory, left free in the trial: fragments, workspaces, batches on their way
SPARE_ON_CPU = 64 * 2**20  # bytes, of a limited process: stacks of threads and what malloc keeps
CAUSE_LENGTH = 200  # characters of PyTorch's own words


@dataclass(frozen=True)
class Shortage:
    """What ran out of memory, and where."""

    rank: int
    cause: str
    device: str
    memory_bytes: int | None  # that the process may use, None where that is not known

    @property
    def place(self) -> str:
        """Words for a line: which process on what."""
        memory = f", {self.memory_bytes / 2**30:.1f} GiB" if self.memory_bytes else ""
        return f"rank {self.rank} ({self.device}{memory})"


@dataclass(frozen=True)
class Halving:
    """A step down to a smaller micro-batch size."""

    before: int
    after: int
    shortage: Shortage

    def fields(self) -> dict[str, Any]:
        """What the event tells."""
        short = self.shortage
        where = {"rank": short.rank, "device": short.device, "memory_bytes": short.memory_bytes}
        return {"from": self.before, "to": self.after, **where, "cause": short.cause}

    def __str__(self) -> str:
        return f"micro_batch_size {self.before} does not fit into the memory of {self.shortage.place}: {self.after} now"


def needs_trial(parts: Parts) -> bool:
    """Whether the size was left to be found, and an allocation can fail. All ranks get the same answer.

    On a CPU memory is promised before it is there: what does not fit is killed and raises nothing, unless the process
    has a limit of its own.
    """
    if parts.config.training.micro_batch_size != "auto" or parts.probe is not None:
        return False
    return any(gather(parts.world.device.type == "cuda" or _limit() is not None, parts.world))


def fit(parts: Parts, attempt: Callable[[Parts], Shortage | None], tell: Callable[[Halving], None]) -> Parts:
    """The run with a size that fits on every rank. Raises NoMemoryError when a single sequence does not.

    `attempt` is `try_size`, wrapped in whatever a long phase needs.
    """
    while (shortage := _first(attempt(parts), parts.world)) is not None:
        size = parts.share.micro_batch_size
        smaller = next_smaller(size, parts.share.count * size)
        if smaller is None:
            raise NoMemoryError(
                f"training.micro_batch_size: even 1 does not fit into the memory of {shortage.place}; {_help(parts)} "
                f"({shortage.cause})"
            )
        tell(Halving(size, smaller, shortage))
        parts = with_micro_batch_size(parts, smaller)
        if parts.compiled:
            torch.compiler.reset()  # code for sizes that were given up counts towards the most that is kept
    return parts


def next_smaller(size: int, share: int) -> int | None:
    """The largest divisor of `share` that is at most half of `size`; None below 1."""
    return max((divisor for divisor in range(1, size // 2 + 1) if share % divisor == 0), default=None)


def try_size(parts: Parts) -> Shortage | None:
    """Forward and backward as in a step at the size that `parts` have; needs no other rank, and changes nothing.

    The optimizer's moments, which come with the first update or from a checkpoint, are held as ballast. Where a step
    has several micro-batches a second pass finds the gradients of the first in memory, as it will in training.
    """
    device = parts.world.device
    cause = None
    try:
        _pass_through(parts)
    except (RuntimeError, MemoryError) as error:
        if kind_of(error) != "out_of_memory":
            raise
        cause = _in_short(error)
    if cause is not None:
        gc.collect()  # the exception held on to the tensors of the failed pass, and is gone only now
    if device.type == "cuda":  # what the allocator keeps is of no use to another size, or to a step without ballast
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return None if cause is None else _shortage(parts.world, cause)


def explained(error: Exception, config: Config, world: World) -> Exception:
    """`error`, or what it means where memory has run out with a size that somebody has chosen."""
    size = config.training.micro_batch_size
    ours = isinstance(error, RuntimeError) and kind_of(error) == "out_of_memory"  # a MemoryError is not of a tensor
    if not ours or size == "auto":
        return error
    place = _shortage(world, "").place
    valid = "auto, which finds one that fits"
    if size > 1:
        valid += f", or a smaller divisor of {config.training.batch_size // world.size}"
    return NoMemoryError(
        f"training.micro_batch_size: got {size}, which does not fit into the memory of {place}, valid: {valid} "
        f"({_in_short(error)})"
    )


def _pass_through(parts: Parts) -> None:
    device = parts.world.device
    ballast = torch.empty(_ballast_bytes(parts), dtype=torch.uint8, device=device)
    parts.stepper.warm_up(warm_up_batch(parts), reduces=False, passes=min(2, parts.share.count))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    del ballast


def _first(own: Shortage | None, world: World) -> Shortage | None:
    """The shortage of the lowest rank that has one, on every rank."""
    return next((one for one in gather(own, world) if one is not None), None)


def _ballast_bytes(parts: Parts) -> int:
    trainable = sum(parameter.numel() for parameter in parts.model.parameters() if parameter.requires_grad)
    on_gpu = parts.world.device.type == "cuda"
    memory = parts.world.device_bytes if on_gpu else _limit() or 0
    spare = int(SPARE * memory) + (0 if on_gpu or not memory else SPARE_ON_CPU)
    return trainable * moment_bytes(parts.config) + spare


def _shortage(world: World, cause: str) -> Shortage:
    if world.device.type != "cuda":
        return Shortage(world.rank, cause, "cpu", _limit())
    properties = torch.cuda.get_device_properties(world.device)
    return Shortage(world.rank, cause, properties.name, properties.total_memory)


def _limit() -> int | None:
    """The bytes of memory that this process may ask for; None without a limit."""
    soft = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return min((limit for limit in soft if limit != resource.RLIM_INFINITY), default=None)


def _help(parts: Parts) -> str:
    """What would make a single sequence fit."""
    config = parts.config
    helps = ["a device with more memory", "a smaller model.context_length, model.d_model or model.n_layer"]
    if config.optimizer.precision == "float32":
        helps.append("optimizer.precision: bfloat16")
    if config.model.autocast_precision == "float32":
        helps.append("model.autocast_precision: bfloat16")
    return f"what would help: {', '.join(helps)}"


def _in_short(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= CAUSE_LENGTH else text[: CAUSE_LENGTH - 3] + "..."
