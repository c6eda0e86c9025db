"""Where prompts that share a cache lie in it, so that company changes no bit.

llama.cpp puts a row into the first cell that is free, and attention sums over cells in steps of as
many as fit a vector. So where a prompt lies decides in which order its sums are made, and in a
quantized model the last digit of a sum can grow. Here each prompt lies as it would alone: its
region begins at a multiple of any such step, and in between are cells that it does not see, which
add zeros. A second sequence, the prompt's spare, holds the cells that the prompt does not use yet.

One row alone is multiplied by other kernels than two: it gets a companion, which is of no use.

The CPU's flash attention goes over a row's cells one by one, or, from TILE rows a decode on, over
tiles of cells. So there a region begins at a multiple of a tile, and only those share a decode
whose rows are gone over in the same way as they are alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from localprobe.llama.batch import Row
from localprobe.llama.model import FLASH, Model
from localprobe.llama.tiles import TILE

STEP = 16
"""Cells: 16 float32 numbers are what the widest vectors of CPUs hold (AVX-512)."""

MOST_PROMPTS = 127
"""Each takes two sequences, the companion one, and llama.cpp knows 256."""


def aligned(n: int, step: int = STEP) -> int:
    """The next multiple of a step."""
    return -(-n // step) * step


def alike(counts: Sequence[int]) -> Iterator[slice]:
    """Neighbours that flash attention treats in one decode as it treats each alone.

    counts: rows of each, to which a companion may come.
    """
    start = 0
    while start < len(counts):
        end, rows = start + 1, counts[start]
        while end < len(counts) and (
            min(counts[start], counts[end]) >= TILE
            or (max(counts[start], counts[end]) < TILE - 1 and rows + counts[end] < TILE)
        ):
            rows, end = rows + counts[end], end + 1
        yield slice(start, end)
        start = end


class Regions:
    """The cells of some prompts, numbered from 0 as their sequences are.

    lengths: of each prompt with all that may be generated. shared: how many tokens all begin with
    in common, a multiple of STEP; those lie in front. step: of cells, at which regions begin.
    plain: let llama.cpp choose the cells.
    """

    def __init__(
        self,
        model: Model,
        lengths: Sequence[int],
        shared: int = 0,
        *,
        step: int = STEP,
        plain: bool = False,
    ) -> None:
        self._model, self._shared = model, shared
        self._ends = [shared + aligned(length - shared, step) for length in lengths]
        self._is_plain = plain
        # The cells of a prompt alone are in order by themselves.
        self._has_spares = len(lengths) > 1 and not plain

    def reserve(self) -> None:
        """Room in the model for all of them."""
        cells = self._shared + sum(end - self._shared for end in self._ends)
        self._model.reserve(cells + 1, max(2, self._n_sequences))

    def lay(self) -> None:
        """Give every prompt its region, the shared tokens being in the cache."""
        if not self._has_spares:
            return
        self._model.forget(self._companion, 0)
        n = len(self._ends)
        rows = [
            Row(0, p, (n + i,))
            for i, end in enumerate(self._ends)
            for p in range(self._shared, end)
        ]
        self._model.occupy(rows)

    def take(self, number: int, start: int, end: int) -> None:
        """Forget a prompt's tokens from `start` on; its rows [start, end) are decoded next.

        Rows must be decoded in the order of prompts and positions.
        """
        if not self._is_plain:
            self._model.forget(self._companion, 0)
        if self._has_spares:
            spare = len(self._ends) + number
            self._model.hand_over(number, spare, start)
            self._model.forget(spare, start, end)
        else:
            self._model.forget(number, start)

    def copy(self, number: int, others: Sequence[int], end: int) -> None:
        """Give other prompts what the cache holds of one from the shared tokens on, up to `end`."""
        if not others:
            return
        model = self._model
        # What it shares with them lies in front of all and is not copied.
        model.forget(number, 0, self._shared)
        saved = model.saved(number)
        model.also(others[0], number, self._shared)
        for other in others:
            self.take(other, self._shared, end)
            model.restore(saved, other)
            model.also(number, other, self._shared)

    def in_company(self, rows: list[Row], *, want_logits: bool = True) -> list[Row]:
        """The rows, and a companion where one row or one output would be alone."""
        outputs = sum(row.output for row in rows)
        if self._is_plain or (len(rows) > 1 and (outputs > 1 or not want_logits)):
            return rows
        return [*rows, Row(rows[-1].token, 0, (self._companion,), True)]

    @property
    def _n_sequences(self) -> int:
        return len(self._ends) * (2 if self._has_spares else 1) + (not self._is_plain)

    @property
    def _companion(self) -> int:
        return self._n_sequences - 1


@dataclass(frozen=True)
class Placing:
    """In which way prompts lie in the cache of a model.

    attention: the model's. keeps_bits: whether they may change no bit of each other. lets_choose:
    whether llama.cpp chooses the cells in any case.
    """

    attention: str
    keeps_bits: bool = False
    lets_choose: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether llama.cpp chooses the cells: as few as can be, which is what flash attention
        wants where bits do not matter.
        """
        return self.lets_choose or (not self.keeps_bits and self.attention == FLASH)

    @property
    def is_tiled(self) -> bool:
        """Whether no bit may change, and flash attention takes other steps from some rows on."""
        return self.keeps_bits and self.attention == FLASH

    def alike(self, counts: Sequence[int]) -> Iterable[slice]:
        """Neighbours with so many rows each that may share a decode in which rows attend."""
        return alike(counts) if self.is_tiled else [slice(0, len(counts))]

    def regions(self, model: Model, lengths: Sequence[int], shared: int = 0) -> Regions:
        """Those of prompts with all that may be generated, of which so many tokens are shared."""
        step = 1 if self.is_plain else self._step_of(lengths)
        return Regions(model, lengths, shared, step=step, plain=self.is_plain)

    def room(self, length: int) -> int:
        """How many cells a prompt of such a length takes, its answer included."""
        return length if self.is_plain else aligned(length, self._step_of([length]))

    def in_front(self, shared: int, lengths: Sequence[int]) -> int:
        """How many of the tokens that prompts have in common lie in front of all regions."""
        if self._step_of(lengths) == TILE:
            return 0  # in two decodes, a prompt's rows could be too few for tiles
        return shared if self.is_plain else shared - shared % STEP

    def _step_of(self, lengths: Sequence[int]) -> int:
        return TILE if self.is_tiled and max(lengths) >= TILE - 1 else STEP


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with in common; at least the last one is left to each."""
    if len(prompts) < 2:
        return 0
    shared = 0
    for tokens in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared
