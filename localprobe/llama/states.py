"""Where a graph has the state at each layer: by what it is, not by what it is called.

Before block k of most models there is a node through which everything has to pass that later
nodes know of the tokens: no node after it uses an earlier one that depends on them, nor what an
earlier one has stored. Such a *waist* is a state; of several before the first weight of block k
it is the last one, as that of layer 0 is the embedding after what is done to all embeddings.

Where there is none, the usual name decides (`l_out`, and `embd` or what is made of it); what it is
worth is then found out by trying (see `check`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from localprobe.errors import ModelError
from localprobe.llama import ggml

Place = tuple[bytes, int]
"""The name of a node, and how many before it are called so: names are not unique."""

_EMBEDDINGS = (b"token_embd.weight", b"per_layer_token_embd.weight")
_WEIGHT_OF_BLOCK = re.compile(rb"blk\.(\d+)\.")


class Links:
    """What each node of a graph uses. Make it while the graph is in memory.

    sources[i]: the nodes that node i is computed from, by number. leaves[i]: addresses of what else
    it uses: weights, inputs, caches.
    """

    def __init__(self, addresses: Sequence[int]) -> None:
        self._number = {address: i for i, address in enumerate(addresses)}
        self.nodes = [ggml.at(address) for address in addresses]
        self.names = [node.name for node in self.nodes]
        self._by_name: dict[bytes, list[int]] = {}
        for i, name in enumerate(self.names):
            self._by_name.setdefault(name, []).append(i)
        self.sources: list[list[int]] = []
        self.leaves: list[list[int]] = []
        for i, node in enumerate(self.nodes):
            operands = [address for address in (*node.src, node.view_src) if address]
            found = [self.numbers_of(address, i) for address in operands]
            self.sources.append([number for each in found for number in each])
            self.leaves.append(
                [address for address, each in zip(operands, found, strict=True) if not each]
            )
        self.leaf_names = [
            [original_name(ggml.at(leaf).name) for leaf in each] for each in self.leaves
        ]

    def numbers_of(self, address: int, before: int) -> list[int]:
        """The nodes that an address stands for, as an operand of node `before`; none for a leaf.

        Between devices that is a copy, known by its name alone. Names are not unique: it may be of
        any earlier node that is called so.
        """
        number = self._number.get(address)
        if number is not None:
            return [number]
        copied = self._by_name.get(original_name(ggml.at(address).name), ())
        return [earlier for earlier in copied if earlier < before]

    def place(self, number: int) -> Place:
        """What a node is found by in other graphs of the same model."""
        name = self.names[number]
        return name, self._by_name[name].index(number)

    def made_of(self, nodes: Iterable[int], but: Collection[int] = ()) -> set[int]:
        """All that some nodes are computed from, and they themselves.

        but: nodes that are left out, and behind which nobody looks.
        """
        found = set[int]()
        todo = [node for node in nodes if node not in but]
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo += [source for source in self.sources[node] if source not in but]
        return found

    def named(self, name: bytes) -> list[int]:
        return self._by_name.get(name, [])


@dataclass(frozen=True)
class States:
    """nodes[k]: the number of the node with the state at layer k; the last one ends the last block.

    besides: layers below which something else is made that later blocks look at, too.
    """

    nodes: tuple[int, ...]
    besides: tuple[int, ...]


def find_states(links: Links, n_layer: int, n_embd: int) -> States:
    """The states of a graph. Raises ModelError where one is not found."""
    n_tokens = _n_tokens(links)
    waists = _waists(links, n_embd, n_tokens)
    first_use, last_use = _uses(links.leaf_names, n_layer)
    found: list[int] = []
    besides: list[int] = []
    for layer in range(n_layer):
        after = last_use[layer - 1] if layer else -1
        here = [waist for waist in waists if after < waist < first_use[layer]]
        if not here:
            here = _by_name(links, layer, n_embd, n_tokens)
            besides.append(layer)
        found.append(here[-1])
    # Behind the last block norms are waists, too; and often only some rows are left.
    named = links.named(b"l_out-%d" % (n_layer - 1))[-1:]
    after = min(last_use[-1], len(links.nodes) - 1)
    found.append([*named, *(waist for waist in waists if waist > after), after][0])
    return States(tuple(found), tuple(besides))


def _waists(links: Links, n_embd: int, n_tokens: int) -> list[int]:
    """The nodes of the state's width through which all that is known of the tokens passes."""
    n = len(links.nodes)
    last_use, of_tokens = [0] * n, [False] * n
    stored_by: dict[int, int] = {}
    last_look_at_tokens = 0
    for i, node in enumerate(links.nodes):
        used = [
            *links.sources[i],
            *(stored_by[leaf] for leaf in links.leaves[i] if leaf in stored_by),
        ]
        for source in used:
            last_use[source] = i
        of_tokens[i] = any(of_tokens[source] for source in used)
        if b"inp_tokens" in links.leaf_names[i] or tokens_of(node):
            of_tokens[i], last_look_at_tokens = True, i
        if node.op in (ggml.OP_SET_ROWS, ggml.OP_CPY) and of_tokens[i] and node.view_src:
            stored_by[node.view_src] = i
    found, latest = [], last_look_at_tokens
    for i, node in enumerate(links.nodes):
        if latest <= i and of_tokens[i] and not node.view_src and _is_state(node, n_embd, n_tokens):
            found.append(i)
        if of_tokens[i]:
            latest = max(latest, last_use[i])
    return found


def _is_state(node: ggml.Tensor, n_embd: int, n_tokens: int) -> bool:
    """Whether a node holds one vector a token; or several, of models with more than one stream."""
    is_rows = list(node.ne[1:]) == [n_tokens, 1, 1]
    is_streams = node.ne[1] > 1 and list(node.ne[2:]) == [n_tokens, 1]
    return _is_of_width(node, n_embd) and bool(is_rows or is_streams)


def _is_of_width(node: ggml.Tensor, n_embd: int) -> bool:
    return bool(node.ne[0] == n_embd and node.type == ggml.GGML_TYPE_F32)


def _is_stack(node: ggml.Tensor, n_embd: int, n_tokens: int) -> bool:
    return _is_of_width(node, n_embd) and is_apart(node, n_tokens) and not node.view_src


def is_apart(node: ggml.Tensor, n_tokens: int) -> bool:
    """Whether a node holds several streams, one of all tokens after another (as of AltUp)."""
    return bool(node.ne[1] == n_tokens and node.ne[2] > 1 and node.ne[3] == 1)


def _uses(names: Sequence[Sequence[bytes]], n_layer: int) -> tuple[list[int], list[int]]:
    """By block, the first and the last node that uses a weight of it."""
    first, last = [len(names)] * n_layer, [len(names)] * n_layer
    for i, each in enumerate(names):
        for name in each:
            match = _WEIGHT_OF_BLOCK.match(name)
            if match and int(match[1]) < n_layer:
                block = int(match[1])
                first[block], last[block] = min(first[block], i), i
    return first, last


def _by_name(links: Links, layer: int, n_embd: int, n_tokens: int) -> list[int]:
    if layer == 0:
        block_0 = next((i for i, name in enumerate(links.names) if name.endswith(b"-0")), 0)
        before = range(block_0)
        found = [i for i in before if _is_state(links.nodes[i], n_embd, n_tokens)]
        # Several streams that are made of it are the state; the first of them may be looked at.
        stacks = [i for i in before if _is_stack(links.nodes[i], n_embd, n_tokens)]
        found = stacks or found
        if not found:
            raise ModelError("no residual stream was found before the first block")
        return found
    name = b"l_out-%d" % (layer - 1)
    found = links.named(name)
    if not found:
        raise ModelError(
            f"no state was found at layer {layer}: blocks hand on more than one vector a token, "
            f"and no node is called {name.decode()}"
        )
    return found


def _n_tokens(links: Links) -> int:
    for node in links.nodes:
        tokens = tokens_of(node)
        if tokens:
            return int(ggml.at(tokens).ne[0])
    raise ModelError("the graph does not say which token each row belongs to")


def tokens_of(node: ggml.Tensor) -> int | None:
    """The address of the token ids by which a node looks up embeddings; None where it does not."""
    if node.op != ggml.OP_GET_ROWS or not node.src[1]:
        return None
    address: int = node.src[1]
    if original_name(ggml.at(address).name) == b"inp_tokens":
        return address
    return address if original_name(ggml.at(node.src[0]).name) in _EMBEDDINGS else None


def original_name(name: bytes) -> bytes:
    # Between devices the scheduler works on copies named BACKEND#name#number.
    parts = name.split(b"#")
    return parts[1] if len(parts) == 3 else name
