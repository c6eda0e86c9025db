"""What blocks are given beside the state.

Per-layer inputs (Gemma 3n, small Gemma 4): one node, made of the tokens before the first block,
of which each block takes its part. And keys and values that later blocks share with earlier ones:
from some layer on, what past tokens hold is looked at by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from localprobe.llama import ggml
from localprobe.llama.hooks import NodeVisitor
from localprobe.llama.states import Links, Place


@dataclass(frozen=True)
class Aside:
    """inputs: the node with the inputs of all blocks, (n_layer, n_tokens, width); None without.

    looks: the nodes that make it out of the state at layer 0. shared: the first layer at which
    blocks from it on attend to keys and values that a block below it stores, unread: the first from
    which on blocks store nothing of the tokens; n_layer where there is none.
    """

    inputs: int | None
    looks: tuple[int, ...]
    shared: int
    unread: int


def find_aside(links: Links, states: Sequence[int]) -> Aside:
    """Of a graph whose states at layers 0 … L are these nodes."""
    n_layer = len(states) - 1
    inputs = _find_inputs(links, n_layer, states[1])
    looks: tuple[int, ...] = ()
    if inputs is not None:
        makers = links.made_of([inputs])
        looks = tuple(i for i in sorted(makers) if states[0] in links.sources[i])
    block_of = {
        i: block
        for block in range(n_layer)
        for i in range(states[block] + 1, states[block + 1] + 1)
    }
    stores: dict[int, int] = {}
    kept: dict[int, int] = {}
    for i, block in block_of.items():
        node = links.nodes[i]
        if node.op in (ggml.OP_SET_ROWS, ggml.OP_CPY) and node.view_src:
            stores[i] = block
            if node.op == ggml.OP_SET_ROWS:  # keys and values; memories of a recurrence are copied
                kept.setdefault(node.view_src, block)
    shared = n_layer
    for i, block in block_of.items():
        first = min((kept.get(leaf, block) for leaf in links.leaves[i]), default=block)
        if first < block and i not in stores:
            shared = min(shared, first + 1)
    unread = max((block + 1 for block in stores.values()), default=n_layer)
    return Aside(inputs, looks, shared, unread)


def _find_inputs(links: Links, n_layer: int, end: int) -> int | None:
    """The node of which every block views a part of its own."""
    parts: dict[int, set[int]] = {}
    number = {id(node): i for i, node in enumerate(links.nodes)}
    for node in links.nodes:
        if node.view_src:
            found = links.numbers_of(node.view_src, number[id(node)])
            for viewed in found:
                parts.setdefault(viewed, set()).add(node.view_offs)
    for i, offsets in parts.items():
        node = links.nodes[i]
        is_stack = node.type == ggml.GGML_TYPE_F32 and node.ne[2] == n_layer and node.ne[3] == 1
        if is_stack and i < end and len(offsets) == n_layer > 1:
            return i
    return None


class AtNode:
    """A visitor around another that does something with a node right after it was computed."""

    def __init__(self, inner: NodeVisitor, place: Place, act: Callable[[int], None]) -> None:
        self._inner, self._act = inner, act
        self._name, self._left = place
        self._is_here = self._inner_wants = False

    def wants(self, address: int) -> bool:
        self._is_here = False
        if ggml.at(address).name == self._name:
            self._is_here = self._left == 0
            self._left -= 1
        self._inner_wants = self._inner.wants(address)
        return self._inner_wants or self._is_here

    def computed(self, address: int) -> None:
        if self._inner_wants:
            self._inner.computed(address)
        if self._is_here:
            self._act(address)


class Guard:
    """The state at layer 0 is written, but what is made of it for later blocks is not changed.

    Right before a node looks at it, it is put back, and right behind that written again.
    """

    def __init__(self) -> None:
        self._address: int | None = None

    def write(self, address: int, write: Callable[[int], None]) -> None:
        self._clean = ggml.read(address)
        write(address)
        self._written, self._address = ggml.read(address), address

    def before(self, _address: int) -> None:
        if self._address is not None:
            ggml.write(self._address, self._clean)

    def after(self, _address: int) -> None:
        if self._address is not None:
            ggml.write(self._address, self._written)
