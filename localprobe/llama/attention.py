"""What rows attend to: the masks and the weights of each block's attention in a graph.

A mask is an input of the graph: (rows, cells) of float32, 0 where a row attends to a cell and -inf
where it does not. All blocks of a kind share one (two where some have a sliding window), and it
is filled anew for every decode. So it may be written to while a graph is computed, between one
block's attention and the next's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from localprobe.errors import ModelError
from localprobe.llama import ggml
from localprobe.llama.hooks import NodeVisitor
from localprobe.llama.residual import FloatArray

if TYPE_CHECKING:
    from localprobe.llama.graph import Graph

Cells = Sequence[NDArray[np.intp]]
"""For each block, the cell of its cache that holds each position of a prompt, (n_tokens,)."""


class Attention(NamedTuple):
    """Where a block turns scores into weights: the numbers of both nodes."""

    scores: int
    weights: int


def attention_of(addresses: Sequence[int], block: range) -> list[Attention]:
    """The attention of a block, whose nodes have these numbers; empty where it has none."""
    number = {addresses[i]: i for i in block}
    found = []
    for i in block:
        node = ggml.at(addresses[i])
        if not _is_masked(node):
            continue
        scores = number.get(node.src[0])
        if scores is not None:
            found.append(Attention(scores, i))
    return found


def _is_masked(node: ggml.Tensor) -> bool:
    """Whether a node turns an attention's scores into weights, and not those of experts, say."""
    return bool(node.op == ggml.OP_SOFT_MAX and node.src[1])


def hidden(
    graph: Graph, cells: Cells, at: Sequence[Sequence[int]], first: int, end: int
) -> dict[int, Callable[[int], None]]:
    """What to write into a graph so that in blocks first … end-1 row i attends to no at[i].

    at: positions. As `Part` has it: node -> what is called when it was computed.
    """
    done: dict[int, Callable[[int], None]] = {}
    for block in range(first, end):
        if not graph.attention[block]:
            raise ModelError(f"no attention was found in block {block}, so none can be hidden")
        for each in graph.attention[block]:
            hide = _Hide(graph.addresses[each.weights], cells[block], at)
            done[each.scores], done[each.weights] = hide.before, hide.after
    return done


class _Hide:
    """Writes to a mask right before it is used, and puts it back right behind that: other devices
    copy it when their turn comes, and other blocks use the same. weights: the node that uses it.
    """

    def __init__(self, weights: int, cells: NDArray[np.intp], at: Sequence[Sequence[int]]) -> None:
        self._weights, self._cells, self._at = weights, cells, at

    def before(self, _scores: int) -> None:
        # Which one it is, is known only now: copies between devices lie elsewhere every time.
        self._mask = ggml.at(self._weights).src[1]
        self._original = ggml.read(self._mask)
        written = self._original.copy()
        for row, positions in enumerate(self._at):
            written[row, self._cells[list(positions)]] = -np.inf
        ggml.write(self._mask, written)

    def after(self, _weights: int) -> None:
        ggml.write(self._mask, self._original)


class FindCells:
    """A visitor around another: in which cells of each block's cache the rows lie.

    The rows must be those of one sequence from its first token on, in an empty cache.
    """

    def __init__(self, inner: NodeVisitor, n_layer: int) -> None:
        self._inner = inner
        self._block_ends = {b"l_out-%d" % block: block + 1 for block in range(n_layer)}
        self._block = 0
        self._masks: dict[int, NDArray[np.intp]] = {}
        self.found: list[NDArray[np.intp] | None] = [None] * n_layer

    def wants(self, address: int) -> bool:
        node = ggml.at(address)
        self._block = self._block_ends.get(node.name, self._block)
        if _is_masked(node) and self._block < len(self.found):
            mask = node.src[1]
            if mask not in self._masks:
                self._masks[mask] = newest_cells(ggml.read(mask))
            self.found[self._block] = self._masks[mask]
        return self._inner.wants(address)

    def computed(self, address: int) -> None:
        self._inner.computed(address)

    def cells(self) -> Cells:
        """Raises ModelError where a block has no attention that could be seen."""
        cells = [each for each in self.found if each is not None]
        if len(cells) < len(self.found):
            raise ModelError(f"no attention was found in block {self.found.index(None)}")
        return cells


def newest_cells(mask: FloatArray) -> NDArray[np.intp]:
    """For each row of a causal mask (n_rows, n_cells), the cell that only it and later ones see.

    Raises ModelError where that is not exactly one.
    """
    is_seen = np.isfinite(mask)
    before = np.zeros_like(is_seen)
    before[1:] = np.logical_or.accumulate(is_seen, axis=0)[:-1]
    new = is_seen & ~before
    if (new.sum(axis=1) != 1).any():
        raise ModelError("the mask of its attention does not show one new cell for every token")
    cells: NDArray[np.intp] = new.argmax(axis=1)
    return cells


class HideFromLast:
    """A visitor around another: in blocks first … end-1 the last row attends to no `at`.

    It looks at every node one by one, so that a mask is written to right before it is used. The
    rows must be those of one sequence from its first token on, in an empty cache.
    """

    def __init__(self, inner: NodeVisitor, at: Sequence[int], first: int, end: int) -> None:
        self._inner, self._at, self._first, self._end = inner, list(at), first, end
        self._block = 0
        self._inner_wants = False
        self._original: FloatArray | None = None
        self.blocks: set[int] = set()

    def wants(self, address: int) -> bool:
        node = ggml.at(address)
        if node.name.startswith(b"l_out-"):
            self._block = int(node.name[len(b"l_out-") :]) + 1
        elif _is_masked(node) and self._first <= self._block < self._end:
            self._hide(node.src[1])
        self._inner_wants = self._inner.wants(address)
        return True

    def computed(self, address: int) -> None:
        if self._original is not None:
            # Right behind its use, since other devices copy it when their turn comes.
            ggml.write(ggml.at(address).src[1], self._original)
            self._original = None
        if self._inner_wants:
            self._inner.computed(address)

    def _hide(self, mask: int) -> None:
        self._original = ggml.read(mask)
        written = self._original.copy()
        written[-1, newest_cells(written)[self._at]] = -np.inf
        ggml.write(mask, written)
        self.blocks.add(self._block)

    def finish(self) -> None:
        """Raise ModelError where a block has no attention that could be hidden."""
        missing = set(range(self._first, self._end)) - self.blocks
        if missing:
            raise ModelError(
                f"no attention was found in block {min(missing)}, so none can be hidden"
            )


class KeepWeights:
    """A visitor around another that keeps the attention weights of some blocks.

    weights: block -> (n_head, n_rows, n_tokens), by the positions of the tokens. The rows must be
    those of one sequence from its first token on, in an empty cache.
    """

    def __init__(self, inner: NodeVisitor, blocks: Sequence[int]) -> None:
        self._inner, self._blocks = inner, frozenset(blocks)
        self._block = 0
        self._inner_wants = False
        self.weights: dict[int, FloatArray] = {}

    def wants(self, address: int) -> bool:
        node = ggml.at(address)
        if node.name.startswith(b"l_out-"):
            self._block = int(node.name[len(b"l_out-") :]) + 1
        self._inner_wants = self._inner.wants(address)
        return self._inner_wants or self._keeps(node)

    def computed(self, address: int) -> None:
        node = ggml.at(address)
        if self._keeps(node):
            n_cells, n_rows, n_head, _ = node.ne
            weights = ggml.read(address).reshape(n_head, n_rows, n_cells)
            self.weights[self._block] = weights[:, :, newest_cells(ggml.read(node.src[1]))]
        if self._inner_wants:
            self._inner.computed(address)

    def _keeps(self, node: ggml.Tensor) -> bool:
        return _is_masked(node) and self._block in self._blocks
