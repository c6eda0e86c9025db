"""95 % intervals of a mean score: of shares by Wilson, of other scores by bootstrap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

WILSON, BOOTSTRAP = "wilson", "bootstrap"
RESAMPLES, _SEED = 2000, 0
_Z95 = 1.959963984540054
_KEPT_AT_MOST = 2000


def interval(counts: Mapping[float, int]) -> tuple[float, float, str]:
    """The interval of a mean, and by which method; counts: score -> how often it was given.

    A mean of scores that are all 0 or 1 is a share: Wilson's. Others: bootstrap over examples,
    from two examples on; of one, nothing is known of the others.
    """
    n = sum(counts.values())
    if counts.keys() <= {0, 1}:
        return *wilson(counts.get(1, 0), n), WILSON
    return *(bootstrap(counts) if n > 1 else (0.0, 1.0)), BOOTSTRAP


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927). (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Where all or none succeed, the formula gives the end itself, but for the last digit.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def bootstrap(counts: Mapping[float, int]) -> tuple[float, float]:
    """95 % percentile interval of a mean (Efron, 1979), of 2,000 resamples with a fixed seed.

    Scores are taken in ascending order: the order in which examples came moves nothing.
    """
    scores = np.repeat(*map(np.array, zip(*sorted(counts.items()), strict=True)))
    means = resamples(len(scores)) @ scores.astype(np.float64) / len(scores)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def resamples(n: int) -> NDArray[np.float32]:
    """(RESAMPLES, n): how often each of n examples is drawn, n times with replacement."""
    return _kept_resamples(n) if n <= _KEPT_AT_MOST else _drawn_resamples(n)


def _drawn_resamples(n: int) -> NDArray[np.float32]:
    generator = np.random.Generator(np.random.PCG64(_SEED))
    counts = np.empty((RESAMPLES, n), np.float32)
    for row in counts:
        row[:] = np.bincount(generator.integers(0, n, n), minlength=n)
    return counts


_kept_resamples = lru_cache(4)(_drawn_resamples)
