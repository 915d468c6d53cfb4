"""Long curves made short: nothing that stands out may be lost."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.report.thin import SMALLEST, smooth, thin

VALUES = st.lists(st.floats(allow_infinity=False, width=32), max_size=400)


@given(VALUES, st.integers(0, 120))
def test_the_budget_is_kept_and_so_are_order_ends_and_extremes(values: list[float], budget: int) -> None:
    array = np.array(values, np.float64)
    kept = thin(array, budget)
    assert len(kept) <= max(budget, SMALLEST) and (np.diff(kept) > 0).all()
    if len(array) <= max(budget, SMALLEST):
        assert kept.tolist() == list(range(len(array)))
        return
    assert kept[0] == 0 and kept[-1] == len(array) - 1
    if np.isfinite(array).any():
        assert np.nanmin(array[kept]) == np.nanmin(array) and np.nanmax(array[kept]) == np.nanmax(array)
    assert np.isnan(array[kept]).any() == np.isnan(array).any()


@given(st.integers(0, 99_999), st.integers(8, 500))
def test_a_single_spike_is_never_hidden(place: int, budget: int) -> None:
    values = np.zeros(100_000)
    values[place] = 9.0
    assert place in thin(values, budget)


def test_smoothing_shifts_nothing() -> None:
    line = np.linspace(10.0, 2.0, 501)
    assert smooth(line)[:-5] == pytest.approx(line[:-5])
    assert smooth(np.full(100, 2.0)) == pytest.approx(np.full(100, 2.0))
    noisy = line + np.where(np.arange(501) % 2, 0.5, -0.5)
    assert np.abs(smooth(noisy)[20:] - line[20:]).max() < 0.2  # up to the end, that does not follow the last rows


def test_smoothing_leaves_out_what_is_no_number() -> None:
    values = np.array([1.0] * 50 + [math.nan] + [1.0] * 50)
    assert np.isnan(smooth(values)).sum() == 1 and np.nanmax(smooth(values)) == pytest.approx(1.0)
    assert len(smooth(np.zeros(0))) == 0
