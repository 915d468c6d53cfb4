from __future__ import annotations

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmrc.data.order import Permutation

seeds = st.integers(0, 2**63 - 1)


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 5000), seed=seeds, epoch=st.integers(0, 10**6))
def test_bijection(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(Permutation(n, seed, epoch)(np.arange(n))), np.arange(n))


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 2**62 - 1), seed=seeds, data=st.data())
def test_any_position_by_itself_gives_the_same(n: int, seed: int, data: st.DataObject) -> None:
    positions = np.asarray(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20, unique=True)))
    order = Permutation(n, seed, 3)
    together = order(positions)
    assert together.dtype == np.int64 and together.min() >= 0 and together.max() < n
    assert len(set(together.tolist())) == len(positions)
    assert [int(order(position)) for position in positions] == together.tolist()


def test_frozen_values() -> None:
    """A resumed run must see the order it was started with, so these never change."""
    assert Permutation(10, 0, 0)(np.arange(10)).tolist() == FROZEN_10
    assert Permutation(10**9, 7, 3)(np.arange(4)).tolist() == FROZEN_BILLION


FROZEN_10 = [9, 3, 8, 0, 6, 7, 1, 4, 2, 5]
FROZEN_BILLION = [538980252, 104394200, 362083327, 530241493]


@pytest.mark.parametrize("n", [3, 4, 5])
def test_every_order_of_a_few_is_equally_likely(n: int) -> None:
    seen = Counter(tuple(Permutation(n, seed, 0)(np.arange(n)).tolist()) for seed in range(6_000))
    orders = {3: 6, 4: 24, 5: 120}[n]
    expected = 6_000 / orders
    chi_square = sum((seen[order] - expected) ** 2 / expected for order in seen) + (orders - len(seen)) * expected
    # Mean orders - 1, standard deviation sqrt(2 (orders - 1)): five of them above is one in millions.
    assert chi_square < orders - 1 + 5 * (2 * (orders - 1)) ** 0.5


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (1, 0), (2**62, 5)])
@pytest.mark.parametrize("n", [10_007, 65_536, 99_999])
def test_looks_random(n: int, seed: int, epoch: int) -> None:
    order = Permutation(n, seed, epoch)(np.arange(n))
    bound = 5 / n**0.5
    for lag in (1, 2, 7, int(n**0.5), int(n**0.5) + 1):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < bound
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < bound
    assert np.count_nonzero(order == np.arange(n)) < 12  # fixed points: Poisson with mean 1
    assert np.count_nonzero(np.diff(order) == 1) < 12
    # Where the first 1 % of positions go, in 50 equal bins.
    counts = np.histogram(Permutation(n, seed, epoch)(np.arange(n // 10)), bins=50, range=(0, n))[0]
    expected = (n // 10) / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 5 * 98**0.5


def test_seeds_and_epochs_differ() -> None:
    n = 10_000
    orders = {key: Permutation(n, *key)(np.arange(n)) for key in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]}
    for a in orders:
        for b in orders:
            if a != b:
                assert np.count_nonzero(orders[a] == orders[b]) < 12
                assert abs(np.corrcoef(orders[a], orders[b])[0, 1]) < 5 / n**0.5


def test_a_batch_out_of_a_billion_needs_neither_the_others_nor_a_megabyte() -> None:
    positions = np.arange(256) + 700_000_000
    few = np.arange(256)
    Permutation(10, 0, 0)(np.arange(10))
    tracemalloc.start()
    times: tuple[list[float], list[float]] = ([], [])
    for epoch in range(20):
        for n, where, found in ((10**9, positions, times[0]), (1000, few, times[1])):
            start = time.perf_counter()
            Permutation(n, 0, epoch)(where)
            found.append(time.perf_counter() - start)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min(times[0]) < 10 * min(times[1])  # as fast as out of a thousand
    assert peak < 1e6


@pytest.mark.parametrize("position", [-1, 10])
def test_position_outside(position: int) -> None:
    with pytest.raises(IndexError, match=r"range\(10\)"):
        Permutation(10, 0, 0)(np.asarray([0, position]))


def test_size_outside() -> None:
    with pytest.raises(ValueError, match="n: got 0"):
        Permutation(0, 0, 0)
    assert Permutation(1, 5, 5)(np.zeros(3, int)).tolist() == [0, 0, 0]
    assert Permutation(5, 5, 5)(np.zeros((2, 0), int)).shape == (2, 0)
