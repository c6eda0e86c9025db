"""95 % intervals of scores that got examples for as long as they were not sure.

Where the answers themselves decided after how many of them it was enough, an interval for a number
that stood fixed holds the truth too rarely: what ended early did so since it looked sure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.025
"""Of the test at either end."""
STAGES, SPREAD, SHARED = "stages", "spread", "shared"

_DOUBT = 0.05
"""A spread is taken of the scores and so much of an answer more at 0 and at 1: of few that are
alike, it is not known that all others are."""
_FINEST = 0.02
_STEPS = 24


def interval(
    counts: Mapping[float, int], earlier: Sequence[int], width: float
) -> tuple[float, float, str]:
    """The interval of a mean, and by which method; counts: score -> how often it was given.

    earlier: how many scores there were each time that it was looked whether they were enough, and
    they were not. width: up to which an interval is narrow enough.

    Where all scores are 0 or 1 it is exact, see `staged`. What ends others is their spread more
    than their mean, so that the interval is that of a fixed number, see `by_spread`.
    """
    n = sum(counts.values())
    if n == 0:
        return 0.0, 1.0, STAGES
    if counts.keys() <= {0, 1}:
        return *staged(tuple(earlier), n, counts.get(1, 0), width), STAGES
    return *by_spread(counts), SPREAD


def shared(counts: Mapping[float, int], n_looks: int) -> tuple[float, float, str]:
    """That of a score which ended with another one, at any of so many looks (Bonferroni)."""
    n, level = sum(counts.values()), LEVEL / max(1, n_looks)
    if n == 0:
        return 0.0, 1.0, SHARED
    if counts.keys() <= {0, 1}:
        return *fixed(n, counts.get(1, 0), level), SHARED
    return *by_spread(counts, level), SHARED


def is_narrow(counts: Mapping[float, int], width: float) -> bool:
    """Whether scores are enough: their interval, if so many had been asked for, is so wide."""
    n = sum(counts.values())
    if n == 0:
        return False
    if counts.keys() <= {0, 1}:
        low, high = fixed(n, counts.get(1, 0))
    else:
        low, high = by_spread(counts)
    return high - low <= width


@lru_cache(1 << 16)
def fixed(n: int, right: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share, of n answers; by binomial tests (mid-p)."""
    return _inverted(lambda share: _course((), 0.0, n, share), right, level)


@lru_cache(1 << 16)
def staged(earlier: tuple[int, ...], n: int, right: int, width: float) -> tuple[float, float]:
    """The interval of a share, of n answers where it went on after `earlier`; by exact tests.

    Outcomes are ordered as usual of sequential trials (Tsiatis, Rosner & Mehta, 1984): what ended
    earlier is farther out, at its end. That one has ended later is so no reason to doubt it.
    """
    return _inverted(lambda share: _course(earlier, width, n, share), right, LEVEL)


@lru_cache(1 << 16)
def tails(
    earlier: tuple[int, ...], n: int, right: int, width: float, share: float
) -> tuple[float, float]:
    """P(an outcome as low as this one, or lower), and as high or higher, if the share were so.

    Mid-p: this very outcome counts half.
    """
    below, at, above = _course(earlier, width, n, share)
    half = at[right] / 2
    return float(below + at[:right].sum() + half), float(above + at[right + 1 :].sum() + half)


def by_spread(counts: Mapping[float, int], level: float = LEVEL) -> tuple[float, float]:
    """The interval of a mean of scores 0 … 1.

    n scores that are spread less than shares are tell as much as more of those would, in
    proportion (Korn & Graubard, 1998); between two counts of such, in proportion as well.
    """
    scores, times = (np.array(each, float) for each in zip(*sorted(counts.items()), strict=True))
    n, total, squares = times.sum(), times @ scores, times @ scores**2
    middle = (total + _DOUBT) / (n + 2 * _DOUBT)
    spread = (squares + _DOUBT) / (n + 2 * _DOUBT) - middle**2
    share_of = spread / (middle * (1 - middle)) * n / max(1.0, n - 1)
    n_like = round(n / min(1.0, max(_FINEST, share_of)))
    right = min(float(n_like), float(total / n * n_like))
    under = math.floor(right)
    ends = fixed(n_like, under, level), fixed(n_like, min(n_like, under + 1), level)
    low, high = (a + (right - under) * (b - a) for a, b in zip(*ends, strict=True))
    return low, high


@lru_cache(1 << 12)
def going_on(n: int, width: float) -> range:
    """Of n answers 0 or 1, how many may be right where they are not enough; from few to many."""

    def is_wide(right: int) -> bool:
        low, high = fixed(n, right)
        return high - low > width

    # Towards 0 and towards n, intervals are narrower.
    narrow, wide = -1, n // 2
    if not is_wide(wide):
        return range(0)
    while wide - narrow > 1:
        middle = (narrow + wide) // 2
        narrow, wide = (narrow, middle) if is_wide(middle) else (middle, wide)
    return range(wide, n - wide + 1)


_Course = tuple[float, NDArray[np.float64], float]


def _course(earlier: tuple[int, ...], width: float, n: int, share: float) -> _Course:
    """How likely it is to end before n answers with few right; with n, with 0 … n of them right;
    to end before with many right.
    """
    at, done, below, above = np.ones(1), 0, 0.0, 0.0
    for look in earlier:
        at = np.convolve(at, _binomial(look - done, share))
        goes_on = going_on(look, width)
        below += at[: goes_on.start].sum()
        above += at[goes_on.stop :].sum()
        at[: goes_on.start] = at[goes_on.stop :] = 0
        done = look
    return below, np.convolve(at, _binomial(n - done, share)), above


def _binomial(n: int, share: float) -> NDArray[np.float64]:
    """P of 0 … n of n."""
    k = np.arange(n + 1)
    if share in (0.0, 1.0):
        return np.array(k == n * share, np.float64)
    logs = _log_factorials(1 << n.bit_length())
    ways = logs[n] - logs[k] - logs[n - k]
    found: NDArray[np.float64] = np.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))
    return found


@lru_cache(32)
def _log_factorials(n: int) -> NDArray[np.float64]:
    """Of 0 … n."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _inverted(course: Callable[[float], _Course], right: int, level: float) -> tuple[float, float]:
    """The shares between those at which so many right, or more, are too unlikely, and so few."""

    def is_too_many(share: float) -> bool:
        _, at, above = course(share)
        return bool(above + at[right + 1 :].sum() + at[right] / 2 <= level)

    def is_too_few(share: float) -> bool:
        below, at, _ = course(share)
        return bool(below + at[:right].sum() + at[right] / 2 <= level)

    low = _border(is_too_many) if is_too_many(0.0) else 0.0
    high = _border(lambda share: not is_too_few(share)) if is_too_few(1.0) else 1.0
    return low, high


def _border(holds: Callable[[float], bool]) -> float:
    """Up to which share something holds, from 0 on."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2
