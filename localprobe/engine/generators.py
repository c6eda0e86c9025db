"""numpy's generators for many positions at once.

Each is np.random.Generator(np.random.PCG64([*key, position])), bit for bit. To make one so takes
as long as all the noise of a row. What takes that long is to hash the key (O'Neill's seed_seq, as
in numpy's SeedSequence, whose results are promised not to change: NEP 19), and that is done here
for all positions together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

_POOL, _SHIFT = 4, np.uint32(16)
_LEFT, _RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_MANY = 6
"""From so many on it pays."""
_OTHERS = [[other for other in range(_POOL) if other != source] for source in range(_POOL)]


def _constants(first: int, times: int, n: int) -> NDArray[np.uint32]:
    """What the n-th word is hashed with, and the n-th but one, as a column."""
    return np.array([[first * times**i % (1 << 32)] for i in range(n + 1)], np.uint32)


_MIXING = _constants(0x43B0D7E5, 0x931E8875, _POOL * _POOL)
_DRAWING = _constants(0x8B51F9DD, 0x58F38DED, 2 * _POOL)


def generators(key: Sequence[int], start: int, n: int) -> list[np.random.Generator]:
    """Those of [*key, start], [*key, start + 1], … up to n. Raises ValueError for what is < 0."""
    fits = len(key) == _POOL - 1 and all(0 <= each < 1 << 32 for each in (*key, start + n))
    seeds: Iterable[ISeedSequence | list[int]]
    if fits and n >= _MANY:
        seeds = map(_Hashed, _states(key, start, n))
    else:
        seeds = ([*key, position] for position in range(start, start + n))
    # numpy's type stubs know only of its own kind of ISeedSequence.
    return [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]  # type: ignore[arg-type]


class _Hashed(ISeedSequence):
    """Of four words, all that a PCG64 asks for."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> NDArray[np.uint64]:
        return self._words


def _states(key: Sequence[int], start: int, n: int) -> NDArray[np.uint64]:
    """(n, 4)."""
    pool = np.empty((_POOL, n), np.uint32)
    pool[:-1] = np.array(key, np.uint32)[:, None]
    pool[-1] = np.arange(start, start + n)
    pool = _hashed(pool, _MIXING[: _POOL + 1])
    at = _POOL
    for source, others in enumerate(_OTHERS):
        hashed = _hashed(pool[source], _MIXING[at : at + _POOL])
        mixed = _LEFT * pool[others] - _RIGHT * hashed
        pool[others] = mixed ^ (mixed >> _SHIFT)
        at += _POOL - 1
    words = _hashed(np.concatenate([pool, pool]), _DRAWING)
    # As on a little-endian machine, wherever this is.
    return np.ascontiguousarray(words.T).astype("<u4").view("<u8").astype(np.uint64)


def _hashed(words: NDArray[np.uint32], constants: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Each row by its constant and the next one."""
    found: NDArray[np.uint32] = (words ^ constants[:-1]) * constants[1:]
    return found ^ (found >> _SHIFT)
