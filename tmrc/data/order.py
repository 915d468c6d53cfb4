"""The order of samples: a keyed bijection that costs no memory and can be asked for any position at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, as in SplitMix64
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Permutation:
    """A permutation of range(n), a function of (n, seed, epoch) alone.

    A Feistel network on pairs (x, y) with x < a, y < b and n <= a * b < n + a, near a square: in turn x moves by a
    keyed hash of y, and y by one of x. The few results outside range(n) are walked on until they fall inside (Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). The hash is SplitMix64's finaliser (Steele et al., 2014).
    Written out here, not taken from numpy's generators, so that no version of numpy can change the order of a run.
    """

    def __init__(self, n: int, seed: int, epoch: int) -> None:
        if not 1 <= n < 1 << 62:
            raise ValueError(f"n: got {n}, valid: 1 to 2**62 - 1")
        self.n = n
        self._a = math.isqrt(n - 1) + 1
        self._b = -(-n // self._a)
        key = _mix(_mix(seed & _MASK) ^ (epoch & _MASK))
        rounds = 6 if n >= 256 else 16  # each round has few choices when a and b are small
        self._keys = [np.uint64(_mix(key + r * _GAMMA)) for r in range(rounds)]

    def __call__(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Which sample stands at each of `positions` (int64, any shape, each in range(n)). Raises IndexError."""
        where = np.asarray(positions, np.int64)
        if where.size and not (where.min() >= 0 and where.max() < self.n):
            raise IndexError(f"positions must be in range({self.n})")
        samples = self._encrypt(where.astype(np.uint64).ravel())
        outside = np.flatnonzero(samples >= self.n)
        while outside.size:
            samples[outside] = self._encrypt(samples[outside])
            outside = outside[samples[outside] >= self.n]
        return samples.astype(np.int64).reshape(where.shape)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        a, b = np.uint64(self._a), np.uint64(self._b)
        x, y = values // b, values % b
        for x_key, y_key in zip(self._keys[::2], self._keys[1::2], strict=True):
            x = (x + _hash_below(y, x_key, a)) % a
            y = (y + _hash_below(x, y_key, b)) % b
        return x * b + y


def _hash_below(values: NDArray[np.uint64], key: np.uint64, bound: np.uint64) -> NDArray[np.uint64]:
    """A keyed hash of each value in range(bound), bound <= 2**32."""
    h = (values ^ key) * np.uint64(_GAMMA)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(_MIX_1)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(_MIX_2)
    return ((h >> np.uint64(32)) * bound) >> np.uint64(32)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash of each value: SplitMix64's step, of arrays."""
    z = values + np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def _mix(value: int) -> int:
    """SplitMix64 on a Python integer: a 64-bit hash."""
    z = (value + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)
