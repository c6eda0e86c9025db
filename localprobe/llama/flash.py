"""Flash attention on the CPU without the tiles of which nobody sees anything.

llama.cpp's kernel goes over the rows of a decode and the cells of its cache in tiles. To know which
it may pass over it reads the whole mask, once for every head; of two prompts of 200 tokens it
passes over two thirds, and takes a quarter of its time for that. Here the same operator is given
the rows tile by tile, each with the cells from the first tile that one of them sees to the last
cell. What is left out is what would have been passed over, so no bit changes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from localprobe.llama import ggml
from localprobe.llama.computing import Computing, Nodes

TILE = 64
"""Rows, and cells. With fewer rows than that the kernel is another one."""

_FLOAT16, _UNSEEN = 1, 0xFC00
"""ggml's number of the type, and its -inf, as masks have it."""

_WORD = ctypes.sizeof(ctypes.c_int64)
_WORDS = ctypes.sizeof(ggml.Tensor) // _WORD
_DATA, _SOURCES = ggml.Tensor.data.offset // _WORD, ggml.Tensor.src.offset // _WORD
_SHAPE, _STRIDES = ggml.Tensor.ne.offset // _WORD, ggml.Tensor.nb.offset // _WORD
_FLAGS = ggml.Tensor.flags.offset // 4

_OPERANDS = 4
_QUERIES, _KEYS, _VALUES, _MASK, _RESULT = range(_OPERANDS + 1)


class Seen(NamedTuple):
    """Rows [row, row + n_rows) see cells [cell, cell + n_cells), and no other ones."""

    row: int
    n_rows: int
    cell: int
    n_cells: int


def seen_by(mask: NDArray[np.uint16]) -> list[Seen]:
    """By tiles of rows, the last one with what is left over; they begin at tiles of cells.

    mask: (n_rows, n_cells), float16 bit by bit.
    """
    n_rows, n_cells = mask.shape
    starts = np.arange(max(1, n_rows // TILE)) * TILE
    is_seen = np.logical_or.reduceat(mask != _UNSEEN, starts)
    first = is_seen.argmax(axis=1) // TILE * TILE
    end = n_cells - is_seen[:, ::-1].argmax(axis=1)
    n_each = np.diff(starts, append=n_rows)
    columns = (each.tolist() for each in (starts, n_each, first, end - first))
    return [Seen(*each) for each in zip(*columns, strict=True)]


def is_tiled(node: ggml.Tensor) -> bool:
    """Whether it is an attention of which this can be had: all heads have one mask in float16."""
    if node.op != ggml.OP_FLASH_ATTN_EXT or not node.src[_MASK]:
        return False
    mask = ggml.at(node.src[_MASK])
    return bool(mask.type == _FLOAT16 and mask.ne[2] == mask.ne[3] == 1)


class Flash:
    """Computes attention nodes of a context's graphs."""

    def __init__(self, computing: Computing) -> None:
        self.computing = computing
        self._tiled: dict[int, _Tiled] = {}

    def of_a_decode(self) -> Callable[[int], None]:
        """To be called with a node in the place of which it is computed."""
        known: dict[int, NDArray[np.int64]] = {}

        def attend(node: int) -> None:
            mask = ggml.at(node).src[_MASK]
            if mask not in known:
                known[mask] = np.array(seen_by(_read(mask)), np.int64)
            self._attend(node, known[mask])

        return attend

    def _attend(self, node: int, seen: NDArray[np.int64]) -> None:
        n = len(seen)
        if n not in self._tiled:
            self._tiled[n] = _Tiled(n)
        nodes = self._tiled[n].views(node, seen)
        self.computing.compute(nodes, self.computing.plan(nodes))


class _Tiled:
    """So many attention nodes with operands of their own."""

    def __init__(self, n: int) -> None:
        self._tensors = np.zeros((n, _OPERANDS + 1, _WORDS), np.int64)
        size = ctypes.sizeof(ggml.Tensor)
        at = self._tensors.ctypes.data + size * np.arange(n * (_OPERANDS + 1))
        self._addresses = at.reshape(n, -1)
        for *operands, result in self._addresses.tolist():
            tensor = ggml.at(result)
            tensor.op, tensor.src[:_OPERANDS] = ggml.OP_FLASH_ATTN_EXT, operands
        self._nodes = Nodes(self._addresses[:, _RESULT].tolist())

    def views(self, node: int, seen: NDArray[np.int64]) -> Nodes:
        """Made views into a node and what it is computed from."""
        tensors = self._tensors
        row, n_rows, cell, n_cells = seen.T
        for number, address in enumerate([*ggml.at(node).src[:_OPERANDS], node]):
            tensors[:, number] = (ctypes.c_int64 * _WORDS).from_address(address)
        tensors[:, _RESULT, _SOURCES : _SOURCES + _OPERANDS] = self._addresses[:, :_OPERANDS]
        tensors.view(np.int32)[:, _RESULT, _FLAGS] |= ggml.FLAG_COMPUTE
        for number, axis, start, n in (
            (_QUERIES, 1, row, n_rows),
            (_KEYS, 1, cell, n_cells),
            (_VALUES, 1, cell, n_cells),
            (_MASK, 0, cell, n_cells),
            (_MASK, 1, row, n_rows),
            (_RESULT, 2, row, n_rows),
        ):
            tensors[:, number, _SHAPE + axis] = n
            tensors[:, number, _DATA] += start * tensors[:, number, _STRIDES + axis]
        return self._nodes


def _read(mask: int) -> NDArray[np.uint16]:
    """A mask in the memory of the CPU, not a copy."""
    tensor = ggml.at(mask)
    shape = (tensor.ne[1], tensor.ne[0])
    numbers = (ctypes.c_uint16 * (shape[0] * shape[1])).from_address(tensor.data)
    return np.frombuffer(numbers, np.uint16).reshape(shape)
