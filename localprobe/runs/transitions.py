"""95 % intervals of a transition, and of how far it moves.

The layer from which on ≥ 90 % survive is decided where the share is near 90 %, so that an interval
has to say which layers may be on either side. Resampling examples does not: of 20 examples that
all survive at a layer, every resample does, though of all examples there are it may be 86 %. So
the share at each layer is tested instead, and the interval has the layers that no test rules out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.025
"""Of the test at either end."""
RESAMPLES, _SEED = 2000, 0


@dataclass(frozen=True)
class Limits:
    """The lowest and the highest layer that a transition may be at; of None, nowhere at all."""

    low: int | None
    high: int | None

    def width(self) -> int | None:
        """How many layers the ends are apart; None where the interval has no upper end."""
        if self.low is None:
            return 0
        return None if self.high is None else self.high - self.low


def limits(
    layers: Sequence[int],
    right: Sequence[int],
    n: Sequence[int],
    kept: float,
    level: float = LEVEL,
    *,
    tails: Sequence[tuple[float, float]] | None = None,
) -> Limits:
    """The interval of the layer from which on, of all examples there are, ≥ `kept` are right.

    layers: ascending. right, n: at each of them, how many examples of how many.

    At each layer, the share is tested against `kept`, by a binomial test (mid-p), on either side.
    Where it is surely less, the transition lies above. Where it is surely more, it lies no higher,
    if at all layers above the share is ≥ `kept` as well; those need not be sure one by one: that
    an intervention does less harm at higher layers is taken to be so unless examples deny it.

    tails: of each layer, how likely so few, or fewer, were if the share were `kept`, and so many;
    as for numbers of examples that stood fixed if None.
    """
    if tails is None:
        pairs = zip(right, n, strict=True)
        tails = [(_at_most(k, among, kept), _at_least(k, among, kept)) for k, among in pairs]
    low: int | None = layers[0]
    high, is_kept = None, True
    for layer, k, among, (few, many) in sorted(
        zip(layers, right, n, tails, strict=True), reverse=True
    ):
        # Sums of floats: a share that is exactly 90 % must count.
        is_kept = is_kept and among > 0 and k >= kept * among - 1e-9
        if is_kept and many <= level:
            high = layer
        if few <= level:
            low = min((each for each in layers if each > layer), default=None)
            break
    return Limits(low, high)


def needed(kept: float, level: float = LEVEL) -> int:
    """With how many examples an interval can have an upper end: where all of them survive."""
    n = 1
    while _at_least(n, n, kept) > level:
        n += 1
    return n


@lru_cache(1 << 16)
def _at_most(k: int, n: int, share: float) -> float:
    """P(X < k) + P(X = k) / 2 of a binomial X of n."""
    terms = [math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(k + 1)]
    return math.fsum(terms) - terms[-1] / 2


def _at_least(k: int, n: int, share: float) -> float:
    """P(X > k) + P(X = k) / 2."""
    return 1 - _at_most(k, n, share)


@dataclass(frozen=True)
class Moved:
    """How much later examples' own transitions are in one run than in another, in its unit.

    by: the mean. low, high: its 95 % interval. n_moved: of n examples, how many are elsewhere. p:
    how often it would be as far or farther if either run's answers were as likely in the other.
    """

    by: float
    low: float
    high: float
    n: int
    n_moved: int
    p: float

    @property
    def is_evidence(self) -> bool:
        return self.p <= 0.05


def moved(one: Sequence[float], other: Sequence[float]) -> Moved:
    """Of the same examples in two runs, pairwise.

    The interval is by bootstrap over examples (percentiles, wider by what few examples make a mean
    seem surer than it is: Hesterberg, 2015); p by swapping the runs of single examples at random.
    """
    differences = np.subtract(other, one)
    n, by = len(differences), float(differences.mean())
    generator = np.random.Generator(np.random.PCG64(_SEED))
    # In ascending order: in which order examples came moves nothing.
    ordered = np.sort(differences)
    means = ordered[generator.integers(0, n, (RESAMPLES, n))].mean(axis=1)
    low, high = np.quantile(means, (tail(n), 1 - tail(n)))
    some = ordered[ordered != 0]
    p = _sign_flips(some, generator) if len(some) else 1.0
    return Moved(by, float(low), float(high), n, len(some), p)


def _sign_flips(differences: NDArray[np.float64], generator: np.random.Generator) -> float:
    signs = generator.integers(0, 2, (RESAMPLES, len(differences))) * 2 - 1
    sums, found = signs @ differences, abs(differences.sum())
    return float((1 + np.count_nonzero(np.abs(sums) >= found - 1e-9)) / (1 + RESAMPLES))


def tail(n: int) -> float:
    """What is cut off at either end, so that it is what a t-interval of n values would be."""
    if n < 3:
        return 0.0
    return _normal_below(-math.sqrt(n / (n - 1)) * _t975(n - 1))


def _normal_below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _t975(degrees: int) -> float:
    """The upper 2.5 % point of Student's t (Cornish-Fisher; within 0.2 % from 5 degrees on)."""
    z, v = 1.959963984540054, float(degrees)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )
