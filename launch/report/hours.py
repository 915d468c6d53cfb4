"""When a run had its devices, when it waited for them, and how many device hours had gone by at a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.facts import Row, integer, word
from tmrc.config.goodput import RunAccount

HOUR = 3600.0


@dataclass(frozen=True)
class Span:
    """A stretch of a run's life in unix seconds: an attempt on its nodes, or (attempt 0) a wait in the queue."""

    attempt: int
    began: float
    ended: float
    devices: int = 0
    device: str = ""  # cuda or cpu; empty where training did not come so far
    going_on: bool = False


def attempt_spans(found: RunAccount, events: Sequence[Row]) -> list[Span]:
    """When each attempt had its nodes, and with how many devices."""
    begun = {integer(row, "attempt"): row for row in events if row["event"] in ("started", "resumed")}
    spans = []
    for one in found.attempts:
        row = begun.get(one.attempt, {})
        devices = max(1, integer(row, "world_size") or 1)
        device = word(row, "device").partition(":")[0]
        spans.append(Span(one.attempt, one.began, one.ended, devices, device, one.going_on))
    return spans


def waits(found: RunAccount, now: float) -> list[Span]:
    """When the run was in the queue: as long before each attempt as it counts, and at last until now."""
    before = [(one.began, one.seconds["queue"]) for one in found.attempts]
    last = found.seconds["queue"] - sum(queued for _, queued in before)
    spans = [Span(0, end - queued, end) for end, queued in before]
    return [span for span in [*spans, Span(0, now - last, now, going_on=True)] if span.ended - span.began >= 1]


def device_hours(spans: Sequence[Span], times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hours that devices were held until each of `times` (unix seconds), over all attempts, times their number.

    NaN where nothing tells of attempts, as in a copy of a run with its metrics alone.
    """
    if not spans:
        return np.full(len(times), np.nan)
    hours = np.zeros(len(times))
    for span in spans:
        hours += span.devices / HOUR * np.clip(times - span.began, 0.0, span.ended - span.began)
    return hours
