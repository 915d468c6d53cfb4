"""Long curves made short without hiding anything: of each stretch its lowest and its highest value stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SMALLEST = 8  # points that a curve is never thinned below


def thin(values: NDArray[np.floating], budget: int) -> NDArray[np.intp]:
    """Indices of at most max(budget, 8) of `values`, in order: the first, the last, the extremes of equal stretches.

    Of a stretch with values that are no numbers one of these stays as well, so that a drawn line breaks there.
    """
    budget = max(budget, SMALLEST)
    if len(values) <= budget:
        return np.arange(len(values))
    gaps = ~np.isfinite(values)
    stretches = (budget - 2) // (3 if gaps.any() else 2)
    bounds = np.linspace(0, len(values), stretches + 1).astype(np.intp)
    starts, ends = bounds[:-1], bounds[1:]
    lowest = _first_where(np.where(gaps, np.inf, values), np.minimum, starts, ends)
    highest = _first_where(np.where(gaps, -np.inf, values), np.maximum, starts, ends)
    broken = _first_where(gaps, np.maximum, starts, ends)
    kept = [[0, len(values) - 1], lowest, highest, broken[gaps[broken]]]
    return np.unique(np.concatenate([np.asarray(part, np.intp) for part in kept]))


def smooth(values: NDArray[np.floating], share: float = 0.02) -> NDArray[np.float64]:
    """Mean over the `share` of all values that lies around each, so that nothing is shifted.

    Near the beginning, where losses fall steeply, it is over as few on either side as there are on the left; near the
    end, where they hardly do, over those that there are. Values that are no numbers stay what they are and change none.
    """
    places = np.arange(len(values))
    before = np.minimum(places, round(share * len(values) / 2))
    after = np.minimum(before, places[::-1])
    usable = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(usable, values, 0.0), dtype=np.float64)])
    counts = np.concatenate([[0], np.cumsum(usable)])
    starts, ends = places - before, places + after + 1
    means = (sums[ends] - sums[starts]) / np.maximum(counts[ends] - counts[starts], 1)
    return np.asarray(np.where(usable, means, values), np.float64)


def _first_where(
    values: NDArray[np.generic], extreme: np.ufunc, starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> NDArray[np.intp]:
    """In each stretch, the index of the first value that equals the stretch's extreme."""
    wanted = np.repeat(extreme.reduceat(values, starts), ends - starts)
    hits = np.flatnonzero(values == wanted)
    return hits[np.searchsorted(hits, starts)]
