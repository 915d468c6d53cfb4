"""Losses and gradients that are no numbers: where they were, the same on every rank."""

from __future__ import annotations

import torch.distributed as dist

from tmrc.train.distributed import all_reduce
from tmrc.train.failures import NonFiniteError
from tmrc.train.keeper import Keeper
from tmrc.train.setup import Parts
from tmrc.train.step import NEVER

LEAST_SCALE = 2.0**-14  # of float16's losses: from its beginning, 30 overflows in a row


def require_finite(parts: Parts, done: int, keeper: Keeper | None) -> None:
    """Raise NonFiniteError, the same on every rank, when a loss or gradient since the start was not finite.

    `done` optimizer steps are done. Waits for the device. The `keeper` of rank 0 leaves an event.
    """
    code = int(all_reduce(parts.stepper.first_bad.clone(), dist.ReduceOp.MIN, parts.world).item())
    if code == NEVER:
        return _require_scale(parts, done)
    step, index = parts.stepper.bad_step(code)
    samples = parts.reader.samples(step)
    size = parts.share.micro_batch_size
    suspects = (samples if index is None else samples[index * size : (index + 1) * size]).tolist()
    where = ", ".join(f"{item} ({parts.reader.locate(item)})" for item in suspects[:4])
    more = f" and {len(suspects) - 4} more, see events.jsonl" if len(suspects) > 4 else ""
    what = "gradient" if index is None else "loss"
    if keeper:
        keeper.event("non_finite", step + 1, what=what, sequences=suspects)
    raise NonFiniteError(f"the {what} of step {step + 1} is not finite; sequences {where}{more}")


def _require_scale(parts: Parts, done: int) -> None:
    """Raise NonFiniteError when float16's loss scale has fallen so far that no gradient can have been finite."""
    scaler = parts.scaler
    if scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE:
        raise NonFiniteError(
            f"the gradients have overflowed in so many steps up to {done} that float16's loss scale is "
            f"{scaler.get_scale():g}; valid: model.autocast_precision bfloat16 or float32, or a lower optimizer.lr"
        )
