"""Doing the same small work with files many times: on threads where it waits for a file server, else without."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

MOST_THREADS = 16
_WARM, _TRIED = 1, 4  # the first one fills caches; those up to here tell how long the others wait
Item = TypeVar("Item")


def for_each(items: Sequence[Item], work: Callable[[Item], object]) -> None:
    """Call `work` with each of `items`, in any order and perhaps at once. Raises what it raises.

    Threads help as far as they wait: on a local disk, where the work is computing, they would only take turns, and
    lose more time by that than they gain.
    """
    for item in items[:_WARM]:
        work(item)
    began, computed = time.perf_counter(), time.thread_time()
    for item in items[_WARM:_TRIED]:
        work(item)
    took, computed = time.perf_counter() - began, time.thread_time() - computed
    threads = min(MOST_THREADS, int(took / max(computed, 1e-6)))
    rest = items[_TRIED:]
    if threads < 2 or len(rest) < 2:
        for item in rest:
            work(item)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, rest))
