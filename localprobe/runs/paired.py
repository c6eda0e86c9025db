"""The same examples in two runs: by how much means differ in many cells, and in which that is sure.

Each cell has its own interval. Of many cells some differ by chance, so that which ones surely do
is tested for all together: the runs of single examples are swapped at random, all cells of an
example at once, and a cell is as sure as its sum is beyond the largest that any cell then has
(Westfall and Young, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localprobe.runs.intervals import RESAMPLES, resamples
from localprobe.runs.transitions import tail

Values = NDArray[np.float64]

_SEED = 0
SURE = 0.05


@dataclass(frozen=True, eq=False)
class Differences:
    """Of every cell, (n_rows, n_columns) each; nan where no example has it in both runs.

    mean: how much more it is in the second run. low, high: its 95 % interval, each cell by itself.
    n: of how many examples. p: how often any cell would differ as surely if either run's values
    were as likely in the other; nan of cells with too few examples, which are not tested.
    """

    mean: Values
    low: Values
    high: Values
    n: NDArray[np.int_]
    p: Values

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Where the cells surely differ, all cells taken together."""
        beyond = (self.low > 0) | (self.high < 0)
        found: NDArray[np.bool_] = (np.nan_to_num(self.p, nan=1.0) <= SURE) & beyond
        return found


def differences(one: Values, other: Values, enough: int) -> Differences:
    """Of the same examples in two runs, (n_examples, n_rows, n_columns) each; nan where not known.

    enough: of fewer examples than this a cell is not tested.
    """
    found = np.subtract(other, one)
    n_examples, *shape = found.shape
    cells = found.reshape(n_examples, -1)
    there = np.isfinite(cells)
    n = there.sum(axis=0)
    mean, low, high = (np.full(cells.shape[1], np.nan) for _ in range(3))
    for mask in np.unique(there, axis=1).T:
        if not mask.any():
            continue
        same = np.flatnonzero((there == mask[:, None]).all(axis=0))
        # In ascending order: in which order examples came moves nothing.
        some = np.sort(cells[np.ix_(mask, same)], axis=0)
        mean[same] = some.mean(axis=0)
        low[same], high[same] = _interval(some)
    p = np.full(cells.shape[1], np.nan)
    tested = np.flatnonzero(n >= enough)
    if len(tested):
        p[tested] = _p_of_all(np.nan_to_num(cells[:, tested], nan=0.0))
    return Differences(*(each.reshape(shape) for each in (mean, low, high, n, p)))


def _interval(some: Values) -> tuple[Values, Values]:
    """Of the means of columns, (n_examples, n_cells); of one example nothing is known."""
    n = len(some)
    if n < 2:
        return np.full(some.shape[1], np.nan), np.full(some.shape[1], np.nan)
    means = resamples(n) @ some / n
    low, high = np.quantile(means, (tail(n), 1 - tail(n)), axis=0)
    return low, high


def _p_of_all(cells: Values) -> Values:
    """By cell, of (n_examples, n_cells); 0 where an example has no such cell."""
    size = np.sqrt((cells**2).sum(axis=0))
    scaled = cells / np.where(size > 0, size, 1)
    found = np.abs(scaled.sum(axis=0))
    generator = np.random.Generator(np.random.PCG64(_SEED))
    signs = generator.integers(0, 2, (RESAMPLES, len(cells))) * 2.0 - 1
    largest = np.abs(signs @ scaled).max(axis=1)
    as_large = (largest[:, None] >= found - 1e-9).sum(axis=0)
    p: Values = (1 + as_large) / (1 + RESAMPLES)
    return p
