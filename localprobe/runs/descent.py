"""Layers tried from the last one down, until the answer is lost: which they are, and what it says.

An answer counts as lost for good, and at every lower layer, once it was lost at `patience` layers
in a row. That is a rule, not a finding: some answers come back further down. A share of the cells
below is tried all the same, at random, so that it can be said how many do.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from localprobe.runs.rows import CLEAN, Row

PATIENCE = 3
Cell = tuple[str, int]


@dataclass(frozen=True)
class Descent:
    """Where layers going down come to their end. check: the share of the others tried anyway."""

    patience: int = PATIENCE
    check: float = 0.0
    seed: int = 0

    def checks(self, example: int, patch: str, layer: int) -> bool:
        """Whether a cell below the end is tried: drawn by these alone, whoever else is there."""
        if not self.check:
            return False
        key = [self.seed, example, layer, zlib.crc32(patch.encode())]
        return bool(np.random.Generator(np.random.PCG64(key)).random() < self.check)


class Walk:
    """One example under one intervention, told the layers one after another, going down.

    own: the example's own transition, the lowest layer that held before the answer was lost for
    good; None if none did. has_gap: whether layers above it were lost.
    """

    def __init__(self, descent: Descent, example: int, patch: str) -> None:
        self._descent, self._example, self._patch = descent, example, patch
        self._in_a_row = 0
        self.own: int | None = None
        self.has_gap = False

    @property
    def is_over(self) -> bool:
        """Whether the answer is lost for good."""
        return self._in_a_row == self._descent.patience

    def wants(self, layer: int) -> bool:
        """Whether the next layer is to be tried."""
        return not self.is_over or self._descent.checks(self._example, self._patch, layer)

    @property
    def certain(self) -> int:
        """For how many layers from the next one on it is known by now whether each is wanted."""
        left = self._descent.patience - self._in_a_row
        return left if left else sys.maxsize

    def saw(self, layer: int, held: bool) -> None:
        """Note whether the answer held at a layer that was tried."""
        if self.is_over:
            return
        if held:
            self.has_gap |= self._in_a_row > 0
            self.own, self._in_a_row = layer, 0
        else:
            self._in_a_row += 1


def held(row: Row, metric: str) -> bool:
    """Whether an answer is right; what is not finite is none."""
    return not row.not_finite and row.scores[metric] > 0


def next_cell(
    cells: Sequence[Cell],
    rows: Mapping[Cell, Row],
    descent: Descent,
    example: int,
    metric: str,
) -> Cell | None:
    """The first of the cells that an example lacks a row for; None once it has all that it needs.

    cells: by intervention, layers descending.
    """
    walks: dict[str, Walk] = {}
    for patch, layer in cells:
        walk = walks.setdefault(patch, Walk(descent, example, patch))
        if walk.wants(layer):
            if (patch, layer) not in rows:
                return patch, layer
            walk.saw(layer, held(rows[patch, layer], metric))
    return None


@dataclass(frozen=True)
class Own:
    """An example's own transition under an intervention, see `Walk`.

    checked, back: of the cells below the end, how many were tried, and how many held.
    """

    layer: int | None
    has_gap: bool
    checked: int
    back: int


def walked(
    layers: Sequence[int], holds: Mapping[int, bool], descent: Descent, patch: str = ""
) -> Own:
    """What the layers that were tried say of an example. layers: of the intervention.

    A whole sweep tried every layer: those below the end are then all checked.
    """
    walk, checked, back = Walk(descent, 0, patch), 0, 0
    for layer in sorted(layers, reverse=True):
        if layer not in holds:
            continue
        if walk.is_over:
            checked, back = checked + 1, back + holds[layer]
        else:
            walk.saw(layer, holds[layer])
    return Own(walk.own, walk.has_gap, checked, back)


def own_transitions(
    rows: Iterable[Row],
    patch: str,
    layers: Sequence[int],
    metric: str,
    descent: Descent,
    *,
    of_all: bool = False,
) -> dict[int, Own]:
    """By example, of those that the clean model answers right. rows: of a whole run.

    of_all: only of examples that have all of the layers.
    """
    right: set[int] = set()
    holds: dict[int, dict[int, bool]] = {}
    for row in rows:
        if row.patch == CLEAN and row.used and held(row, metric):
            right.add(row.example)
        elif row.patch == patch and row.layer is not None:
            holds.setdefault(row.example, {})[row.layer] = held(row, metric)
    return {
        example: walked(layers, each, descent, patch)
        for example, each in sorted(holds.items())
        if example in right and not (of_all and each.keys() < set(layers))
    }


@dataclass(frozen=True)
class Counted:
    """A cell of a walk: its score, what near ties could have made of it, whether it was tried."""

    layer: int
    score: float
    could: tuple[float, float]
    is_assumed: bool


def counted(
    layers: Sequence[int], rows: Mapping[int, Row], metric: str, descent: Descent
) -> Iterator[Counted]:
    """The scores of an example at all layers that it has come to, 0 where it is lost for good.

    However near ties fall, an answer may be lost for good earlier, or later, or not at all; what
    would have been tried then may have been anything.
    """
    walks = [Walk(descent, 0, "") for _ in range(3)]
    for layer in sorted(layers, reverse=True):
        row = rows.get(layer)
        lowest, found, highest = walks
        if found.is_over:
            could_be = 0.0 if highest.is_over else 1.0
            if row is not None and not highest.is_over and not row.not_finite:
                could_be = row.could_score(metric)[1]
            highest.saw(layer, could_be > 0)
            yield Counted(layer, 0.0, (0.0, could_be), is_assumed=True)
            continue
        if row is None:
            return
        low, high = (0.0, 0.0) if row.not_finite else row.could_score(metric)
        low = 0.0 if lowest.is_over else low
        for walk, score in zip(walks, (low, float(held(row, metric)), high), strict=True):
            walk.saw(layer, score > 0)
        if not row.not_finite:
            yield Counted(layer, row.scores[metric], (low, high), is_assumed=False)
