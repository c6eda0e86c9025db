"""Sweeps that spend examples where scores are not sure: which cells get how many.

Examples come in their order, and every cell, an intervention at a layer, has the first so many of
them. After 15 examples, 31, 63 and so on it is looked which cells are known well enough; those get
no more. So what a cell gets hangs on its own answers to the examples before, and on nothing else:
neither on how many there will be, nor on when a run was killed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from localprobe.runs.rows import Row
from localprobe.runs.stages import is_narrow

WIDTH = 0.2
FIRST = 15
Cell = tuple[str, int]


def is_look(n: int) -> bool:
    """Whether it is looked after so many examples which cells have enough.

    Twice as many and one: as prompts share decodes, there is a decode's end.
    """
    return n >= FIRST and n & (n + 1) == 0


def next_look(n: int) -> int:
    """The first look after n examples."""
    found = FIRST
    while found <= n:
        found = 2 * found + 1
    return found


def looks_within(n: int) -> int:
    """At how many numbers of examples a cell may have ended, of a run that has n."""
    found, look = 0, FIRST
    while look < n:
        found, look = found + 1, next_look(look)
    return found + (n > 0)


@dataclass(frozen=True)
class Adaptive:
    """Up to which width a 95 % interval is narrow enough, of scores 0 … 1."""

    width: float = WIDTH


class Spending:
    """Which cells get further examples. It is told the rows of every example that is used.

    cells: those that do, in the order in which they were named. n: of so many examples.
    """

    def __init__(self, rule: Adaptive, cells: Sequence[Cell], metric: str) -> None:
        self.cells, self.n = list(cells), 0
        self._rule, self._metric = rule, metric
        self._counts: dict[Cell, Counter[float]] = defaultdict(Counter)
        self._likely: dict[tuple[Cell, int], int] = {}

    def took(self, rows: Iterable[Row]) -> None:
        """All rows of the next example. What is not finite has no score, and says nothing."""
        for row in rows:
            if row.layer is not None and not row.not_finite:
                self._counts[row.patch, row.layer][row.scores[self._metric]] += 1
        self.n += 1
        self._likely.clear()
        if is_look(self.n):
            width = self._rule.width
            self.cells = [each for each in self.cells if not is_narrow(self._counts[each], width)]

    def layers(self, patch: str) -> list[int]:
        """Of an intervention, where it goes on."""
        return [layer for each, layer in self.cells if each == patch]

    def likely(self, cell: Cell, most: int) -> int:
        """How many examples a cell will have, if its answers go on as they are; at most so many."""
        if (cell, most) not in self._likely:
            n = next_look(self.n)
            while n < most and not is_narrow(_as_before(self._counts[cell], n), self._rule.width):
                n = 2 * n + 1
            self._likely[cell, most] = max(self.n, min(n, most))
        return self._likely[cell, most]


def _as_before(counts: Mapping[float, int], n: int) -> Counter[float]:
    """So many scores, in the proportions of those that there are; of none, half are right."""
    some = counts or {0.0: 1, 1.0: 1}
    total = sum(some.values())
    return Counter({score: round(times / total * n) for score, times in some.items()})
