"""Nodes of a graph computed on the CPU by tiles of rows, without what comes to nothing.

llama.cpp's flash attention goes over the rows of a decode and the cells of its cache in tiles. To
know which it may pass over it reads the whole mask, once for every head; of two prompts of 200
tokens it passes over two thirds, and takes a quarter of its time for that. Here the same operator
is given the rows tile by tile, each with the cells from the first tile that one of them sees to the
last cell. And in the last block only those tiles are computed in which a row has an output. What
is left out is what would have been passed over, so no bit changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from localprobe.llama import ggml
from localprobe.llama.computing import Computing, Nodes

TILE = 64
"""Rows, and cells. With fewer rows than that the kernel of attention is another one."""

_FLOAT16, _UNSEEN = 1, 0xFC00
"""ggml's number of the type, and its -inf, as masks have it."""

_WORD = ctypes.sizeof(ctypes.c_int64)
_WORDS = ctypes.sizeof(ggml.Tensor) // _WORD
_DATA, _SOURCES = ggml.Tensor.data.offset // _WORD, ggml.Tensor.src.offset // _WORD
_SHAPE, _STRIDES = ggml.Tensor.ne.offset // _WORD, ggml.Tensor.nb.offset // _WORD
_FLAGS = ggml.Tensor.flags.offset // 4

_QUERIES, _KEYS, _VALUES, _MASK = range(4)
_TOKENS = 1
_RESULT = -1

_Rows = tuple[int, int]
"""Rows [row, row + n)."""
_Cut = tuple[int, int, NDArray[np.int64], NDArray[np.int64]]
"""Of an operand, or the result, along an axis: from where on, and how many."""


class Seen(NamedTuple):
    """Rows [row, row + n_rows) see cells [cell, cell + n_cells), and no other ones."""

    row: int
    n_rows: int
    cell: int
    n_cells: int


def tiles_of(n_rows: int) -> list[_Rows]:
    """The last one has what is left over, too."""
    starts = range(0, max(1, n_rows // TILE) * TILE, TILE)
    return [(row, TILE) for row in starts[:-1]] + [(starts[-1], n_rows - starts[-1])]


def seen_by(mask: NDArray[np.uint16], tiles: Sequence[_Rows]) -> list[Seen]:
    """Of some tiles of rows; the cells begin at a tile.

    mask: (n_rows, n_cells), float16 bit by bit.
    """
    found = []
    for row, n_rows in tiles:
        cells = np.flatnonzero((mask[row : row + n_rows] != _UNSEEN).any(axis=0))
        first = int(cells[0]) // TILE * TILE
        found.append(Seen(row, n_rows, first, int(cells[-1]) + 1 - first))
    return found


def is_tiled(node: ggml.Tensor) -> bool:
    """Whether it is an attention of which this can be had: all heads have one mask in float16."""
    if node.op != ggml.OP_FLASH_ATTN_EXT or not node.src[_MASK]:
        return False
    mask = ggml.at(node.src[_MASK])
    is_one = mask.ne[2] == mask.ne[3] == node.ne[3] == 1
    return bool(mask.type == _FLOAT16 and is_one and mask.nb[1] == 2 * mask.ne[0])


class Tiles:
    """Of a context's graphs."""

    def __init__(self, computing: Computing) -> None:
        self.computing = computing
        self._views: dict[tuple[int, int], _Views] = {}

    def of(self, n_rows: int, outputs: Sequence[int]) -> Tiled:
        """Those of one decode. outputs: the rows that have one."""
        return Tiled(self, n_rows, outputs)

    def compute(self, node: int, n: int, operands: Sequence[int], cuts: Sequence[_Cut]) -> None:
        """A node in n parts. operands: those of which each part has one of its own."""
        key = (ggml.at(node).op, n)
        if key not in self._views:
            self._views[key] = _Views(ggml.at(node).op, n, operands)
        nodes = self._views[key].into(node, cuts)
        self.computing.compute(nodes, self.computing.plan(nodes))


class Tiled:
    """To be called with a node in the place of which it is computed."""

    def __init__(self, tiles: Tiles, n_rows: int, outputs: Sequence[int]) -> None:
        self._tiles = tiles
        self._n_rows, self._all = n_rows, tiles_of(n_rows)
        last = len(self._all) - 1
        self._wanted = [self._all[i] for i in sorted({min(row // TILE, last) for row in outputs})]
        self._seen: dict[tuple[int, bool], NDArray[np.int64]] = {}

    def attend(self, node: int) -> None:
        self._attend(node, is_last=False)

    def attend_for_outputs(self, node: int) -> None:
        """Only where a tile has an output."""
        self._attend(node, is_last=True)

    def multiply_for_outputs(self, node: int) -> None:
        """With weights, only where a tile has an output."""
        if not self._wanted:
            return
        row, n_rows = np.array(self._wanted, np.int64).T
        # Some kernels take rows two by two, but only where their number is even: ARM's, for one.
        n_rows += (self._n_rows - n_rows) % 2
        cuts = [(_TOKENS, 1, row, n_rows), (_RESULT, 1, row, n_rows)]
        self._tiles.compute(node, len(row), [_TOKENS], cuts)

    def _attend(self, node: int, *, is_last: bool) -> None:
        mask, tiles = ggml.at(node).src[_MASK], self._wanted if is_last else self._all
        if not tiles:
            return
        if (mask, is_last) not in self._seen:
            seen = seen_by(_read(mask), tiles)
            self._seen[mask, is_last] = np.array(seen, np.int64).T
        row, n_rows, cell, n_cells = self._seen[mask, is_last]
        cuts = [
            (_QUERIES, 1, row, n_rows),
            (_KEYS, 1, cell, n_cells),
            (_VALUES, 1, cell, n_cells),
            (_MASK, 0, cell, n_cells),
            (_MASK, 1, row, n_rows),
            (_RESULT, 2, row, n_rows),
        ]
        self._tiles.compute(node, len(row), [_QUERIES, _KEYS, _VALUES, _MASK], cuts)


class _Views:
    """So many nodes of an op, and their operands."""

    def __init__(self, op: int, n: int, operands: Sequence[int]) -> None:
        self._operands = operands
        self._tensors = np.zeros((n, len(operands) + 1, _WORDS), np.int64)
        at = self._tensors.ctypes.data + _WORD * _WORDS * np.arange(n * (len(operands) + 1))
        self._addresses = at.reshape(n, -1)
        for *own, result in self._addresses.tolist():
            tensor = ggml.at(result)
            tensor.op = op
            for number, address in zip(operands, own, strict=True):
                tensor.src[number] = address
        self._nodes = Nodes(self._addresses[:, _RESULT].tolist())

    def into(self, node: int, cuts: Sequence[_Cut]) -> Nodes:
        """Made views into a node and what it is computed from."""
        originals = [ggml.at(node).src[number] for number in self._operands]
        for place, address in enumerate([*originals, node]):
            self._tensors[:, place] = (ctypes.c_int64 * _WORDS).from_address(address)
        for place, number in enumerate(self._operands):
            self._tensors[:, _RESULT, _SOURCES + number] = self._addresses[:, place]
        self._tensors.view(np.int32)[:, _RESULT, _FLAGS] |= ggml.FLAG_COMPUTE
        for number, axis, start, n in cuts:
            place = number if number == _RESULT else self._operands.index(number)
            tensor = self._tensors[:, place]
            tensor[:, _SHAPE + axis] = n
            tensor[:, _DATA] += start * tensor[:, _STRIDES + axis]
        return self._nodes


def _read(mask: int) -> NDArray[np.uint16]:
    """A mask in the memory of the CPU, not a copy."""
    tensor = ggml.at(mask)
    shape = (tensor.ne[1], tensor.ne[0])
    numbers = (ctypes.c_uint16 * (shape[0] * shape[1])).from_address(tensor.data)
    return np.frombuffer(numbers, np.uint16).reshape(shape)
