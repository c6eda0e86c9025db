"""Scores counted by intervention and layer, and what is read off them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 0.9
"""An answer counts as surviving from the layer on where the score stays ≥ this x the baseline."""

_Z95 = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927). (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Score:
    """A mean score of n examples with its 95 % interval; relative to the baseline if it has one."""

    score: float
    n: int
    low: float
    high: float
    relative: float | None


class Tally:
    """Sums of scores. A column is an intervention and a metric: ("freeze", "exact_match")."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, int], list[float]] = defaultdict(lambda: [0.0, 0])
        self._clean_all, self._clean_used = [0.0, 0], [0.0, 0]

    def add_clean(self, score: float, *, used: bool) -> None:
        """The clean model's score on an example that was tried, and maybe used."""
        for clean in [self._clean_all, *([self._clean_used] if used else [])]:
            clean[0] += score
            clean[1] += 1

    def add(self, patch: str, metric: str, layer: int, score: float) -> None:
        cell = self._cells[patch, metric, layer]
        cell[0] += score
        cell[1] += 1

    @property
    def clean(self) -> Score:
        """The clean model on every example that was tried."""
        return self._score(self._clean_all, None)

    @property
    def baseline(self) -> Score:
        """The clean model on the examples that were used: what scores are relative to."""
        return self._score(self._clean_used, None)

    def score(self, patch: str, metric: str, layer: int) -> Score | None:
        cell = self._cells.get((patch, metric, layer))
        return None if cell is None else self._score(cell, self.baseline.score)

    def survives_from(self, patch: str, metric: str, layers: Sequence[int]) -> int | None:
        """The first of the layers from which on the score stays ≥ 90 % of the baseline.

        None where it does not, or where there is no score to keep.
        """
        wanted = KEPT * self.baseline.score
        if wanted == 0:
            return None
        found = None
        for layer in sorted(layers, reverse=True):
            score = self.score(patch, metric, layer)
            # Sums of floats: a score that is exactly 90 % must count.
            if score is None or score.score < wanted - 1e-9:
                break
            found = layer
        return found

    def overtakes_from(
        self, patch: str, metric: str, other: str, layers: Sequence[int]
    ) -> int | None:
        """The first of the layers from which on one metric stays above another."""
        found = None
        for layer in sorted(layers, reverse=True):
            one, two = self.score(patch, metric, layer), self.score(patch, other, layer)
            if one is None or two is None or one.score <= two.score:
                break
            found = layer
        return found

    @staticmethod
    def _score(cell: list[float], baseline: float | None) -> Score:
        total, n = cell[0], int(cell[1])
        mean = total / n if n else 0.0
        low, high = wilson(total, n)
        return Score(mean, n, low, high, mean / baseline if baseline else None)
