"""The graph of a model, learned once: where each state is made, and what can be left out.

llama.cpp has no call "start at block k". But every node carries flags, and every backend passes
over a node whose COMPUTE flag is off. A `Rerun` switches nodes off before anything is computed,
writes states in the place of those that are not computed, and puts every flag back.

What may be switched off is read off the graph itself: a node stays on if something that is wanted
depends on it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from localprobe.errors import ModelError
from localprobe.llama import ggml
from localprobe.llama.aside import Guard, find_aside
from localprobe.llama.attention import attention_of
from localprobe.llama.computing import Computing, Nodes
from localprobe.llama.last import Last, find_last
from localprobe.llama.residual import FloatArray, ForwardPass, read_states, write_states
from localprobe.llama.states import Links, find_states, original_name, tokens_of
from localprobe.llama.tiles import Tiled, is_tiled

Indices = NDArray[np.intp]

Later = Mapping[int, tuple[Sequence[int], FloatArray]]
"""Layer -> the rows that are written to there, and their states (n_rows, n_embd)."""

_NAME_WORDS = 3
"""How much of each name is compared: 24 bytes tell all nodes of a graph apart in practice, and
the op and the place in memory are compared too."""


class Recorder:
    """A visitor that notes the nodes of a graph in compute order."""

    def __init__(self) -> None:
        self.addresses: list[int] = []

    def wants(self, address: int) -> bool:
        self.addresses.append(address)
        return False

    def computed(self, address: int) -> None: ...

    def restore(self) -> None: ...


class Idle(Recorder):
    """Which switches all of them off, so that nothing is computed, until they are restored."""

    def wants(self, address: int) -> bool:
        ggml.at(address).flags &= ~ggml.FLAG_COMPUTE
        return super().wants(address)

    def restore(self) -> None:
        for address in self.addresses:
            ggml.at(address).flags |= ggml.FLAG_COMPUTE


class Graph:
    """The nodes of a graph by their number in compute order, and what they are.

    state[k]: the state at layer k. contribution[j]: what the attention of block j (anything that
    mixes tokens) gives to the residual stream; None of a block that has none. stores[j]: where
    block j writes its keys and values into the cache. attention[j]: where it turns scores into
    weights, and its mask.

    apart: whether the streams of a token, of models with several, lie apart from one another.
    Make it right after the decode that was recorded, while the graph is in memory.
    Raises ModelError when something is not found.
    """

    def __init__(
        self, addresses: list[int], n_layer: int, n_embd: int, apart: bool = False
    ) -> None:
        self.addresses = addresses
        self._apart = apart
        self._links = links = Links(addresses)
        nodes, self._sources = links.nodes, links.sources
        self.state = list(find_states(links, n_layer, n_embd).nodes)
        self._aside = find_aside(links, self.state)
        mixing = _Mixing(self, links)
        self.contribution = [mixing.contribution(block) for block in range(n_layer)]
        self.stores = [
            [i for i in self.block(block) if nodes[i].op == ggml.OP_SET_ROWS]
            for block in range(n_layer)
        ]
        self.attention = [attention_of(addresses, self.block(b)) for b in range(n_layer)]
        self._flash = [i for i, node in enumerate(nodes) if is_tiled(node)]
        self._embedded = self._find_tokens()
        self._n_layer = n_layer
        self._last = self._find_last()
        self._multiplied = np.array([_weights(node) for node in nodes], np.int64)
        self._base = min(addresses)
        size = max(addresses) + ctypes.sizeof(ggml.Tensor) - self._base
        if self._base % 8 or any(address % 8 for address in addresses) or size > 1 << 28:
            raise ModelError("the graph's nodes do not lie together")
        self._offsets = np.array(addresses, np.int64) - self._base
        memory = (ctypes.c_int32 * (size // 4)).from_address(self._base)
        self._words: NDArray[np.int32] = np.ctypeslib.as_array(memory)
        self._seen = self._fingerprint()

    def contributions_from(self, block: int) -> dict[int, int]:
        """By block, from this one on, the address of what its attention contributes."""
        return {
            number: self.addresses[node]
            for number, node in enumerate(self.contribution)
            if number >= block and node is not None
        }

    # What to leave out

    def from_layer(self, layer: int, states: FloatArray, later: Later | None = None) -> Part:
        """Go on from these states at a layer; at layer L, only the norm and the output matrix.

        later: what is written above it, once it was computed.
        """
        return Part(self._before[layer], self._entry(layer, states) | self._written(later))

    def keys_and_values(self, layer: int, states: Callable[[int], FloatArray]) -> Part:
        """Only fill the cache from block `layer` on, with the states given at each of them."""
        written = {
            self.state[block]: self._write(states(block)) for block in range(layer, self._n_layer)
        }
        return Part(self._all_but_stores[layer], written)

    def nothing(self) -> Part:
        """Only take cells of the cache."""
        return Part(np.arange(len(self.addresses)), {})

    def below(self, layer: int) -> Part:
        """Only fill the cache below block `layer`, from the tokens themselves."""
        return Part(self._all_but_stores_below[layer], {})

    def without_attention(self, layer: int, states: FloatArray, later: Later | None = None) -> Part:
        """As `from_layer`, with no attention. Every row must be an output."""
        written = {self.state[layer]: self._write(states)} | self._written(later)
        # Each at its own turn: until then its place in memory may be that of others.
        written |= {node: ggml.zero for node in self.contribution[layer:] if node is not None}
        return Part(self._all_but_mlp[layer], written)

    def in_tiles(self, part: Part, tiled: Tiled) -> Part:
        """A part of which attention is computed tile by tile, and in the last block only where
        there are outputs.
        """
        acts = dict.fromkeys(self._flash, tiled.attend)
        if self._last is not None:
            acts[self._last.attention] = tiled.attend_for_outputs
            acts |= dict.fromkeys(self._last.products, tiled.multiply_for_outputs)
        for node in [*part.off.tolist(), *part.written]:
            acts.pop(node, None)
        off = np.concatenate([part.off, np.array([*acts], np.intp)])
        return Part(off, {**part.written, **acts})

    # By layer. Not @cache, which would keep a graph when its context is gone.

    @cached_property
    def _all_but_stores(self) -> list[Indices]:
        found = []
        for layer in range(len(self.state)):
            roots = [i for stores in self.stores[layer:] for i in stores]
            written = set(self.state[layer:])
            found.append(self._not_needed([*roots, *self._shared(layer)], written))
        return found

    @cached_property
    def _all_but_stores_below(self) -> list[Indices]:
        found = []
        for layer in range(len(self.state)):
            roots = [i for stores in self.stores[:layer] for i in stores]
            found.append(self._not_needed(roots, set()))
        return found

    @cached_property
    def _all_but_mlp(self) -> list[Indices]:
        found = []
        roots = range(self.state[-1] + 1, len(self.addresses))
        for layer in range(len(self.state)):
            no_attention = (i for i in self.contribution[layer:] if i is not None)
            found.append(self._not_needed(roots, {self.state[layer], *no_attention}))
        return found

    @cached_property
    def _before(self) -> list[Indices]:
        found = []
        for layer, state in enumerate(self.state):
            roots = [*self._shared(layer), *range(state + 1, len(self.addresses))]
            is_guarded = layer == 0 and self._aside.looks
            found.append(self._not_needed(roots, set() if is_guarded else {state}))
        return found

    def _shared(self, layer: int) -> list[int]:
        """Where blocks below a layer store, if blocks from it on attend to some of that, too."""
        is_shared = self._aside.shared <= layer < self._n_layer
        return [i for stores in self.stores[:layer] for i in stores] if is_shared else []

    def _entry(self, layer: int, states: FloatArray) -> dict[int, Callable[[int], None]]:
        """The states at a layer are written, and nothing else."""
        write = self._write(states)
        if layer or not self._aside.looks:
            return {self.state[layer]: write}
        guard = Guard()
        written: dict[int, Callable[[int], None]] = {}
        for look in self._aside.looks:
            written[look] = _both(written.get(look), guard.after)
            written[look - 1] = _both(written.get(look - 1), guard.before)
        then = written.get(self.state[0])
        written[self.state[0]] = _both(lambda address: guard.write(address, write), then)
        return written

    def _not_needed(self, roots: Iterable[int], written: set[int]) -> Indices:
        """What can be left out where only the roots are wanted, and these nodes are written."""
        needed = self._links.made_of(roots, written)
        return np.array([i for i in range(len(self.addresses)) if i not in needed], np.intp)

    def read_states(self, address: int) -> FloatArray:
        """The states in a node of this graph, (n_tokens, n_embd * n_streams)."""
        return read_states(address, len(self.tokens()), self._apart)

    def write_states(self, address: int, states: FloatArray) -> None:
        write_states(address, states, self._apart)

    def _write(self, states: FloatArray) -> Callable[[int], None]:
        return lambda address: self.write_states(address, states)

    def _written(self, later: Later | None) -> dict[int, Callable[[int], None]]:
        return {
            self.state[layer]: self._write_rows(rows, states)
            for layer, (rows, states) in (later or {}).items()
        }

    def _write_rows(self, rows: Sequence[int], states: FloatArray) -> Callable[[int], None]:
        at = list(rows)

        def write(address: int) -> None:
            written = self.read_states(address)
            written[at] = states
            self.write_states(address, written)

        return write

    def tokens(self) -> NDArray[np.int32]:
        """The token ids that the graph in memory was given, row by row."""
        ids: NDArray[np.int32] = ggml.read(ggml.at(self.addresses[self._embedded]).src[1])
        return ids

    @cached_property
    def nodes(self) -> Nodes:
        """For who computes it in the place of llama.cpp."""
        return Nodes(self.addresses)

    def everything(self) -> Part:
        """All of it."""
        return Part(np.array([], np.intp), {})

    def work(self, part: Part, rows: int, outputs: int) -> int:
        """Multiplications with weights that a part takes, for so many rows and outputs."""
        on = np.ones(len(self.addresses), bool)
        on[part.off] = False
        # Behind the output matrix there may be a bias or a cap.
        last = int(np.flatnonzero(self._multiplied)[-1])
        blocks = int(self._multiplied[:last][on[:last]].sum())
        return rows * blocks + outputs * int(self._multiplied[last])

    # Flags

    def check_in_memory(self, first: int) -> None:
        """Raise StaleGraphError where the nodes that lie in memory now are not those learned.

        first: the address of the first node that is computed.
        """
        if first != self.addresses[0] or not np.array_equal(self._fingerprint(), self._seen):
            raise StaleGraphError

    def switch(self, nodes: Indices, *, on: bool) -> None:
        """Set or clear the COMPUTE flag."""
        places = (self._offsets[nodes] + ggml.Tensor.flags.offset) // 4
        if on:
            self._words[places] |= ggml.FLAG_COMPUTE
        else:
            self._words[places] &= ~ggml.FLAG_COMPUTE

    def _fingerprint(self) -> NDArray[np.int32]:
        places = [(self._offsets + ggml.Tensor.op.offset) // 4]
        name = self._offsets + ggml.Tensor.name.offset
        places += [(name + 4 * word) // 4 for word in range(2 * _NAME_WORDS)]
        return self._words[np.stack(places)]

    # Learning

    def block(self, block: int) -> range:
        """The nodes of a block, its state at the end included."""
        return range(self.state[block] + 1, self.state[block + 1] + 1)

    def sources(self, node: int) -> list[int]:
        """The nodes that a node is computed from."""
        return self._sources[node]

    def _find_last(self) -> Last | None:
        own = [i for i in self._flash if i in self.block(self._n_layer - 1)]
        if len(own) != 1:
            return None
        n_rows = len(self.tokens())

        def is_product(number: int) -> bool:
            node = self._links.nodes[number]
            is_of_rows = node.op == ggml.OP_MUL_MAT and list(node.ne[1:]) == [n_rows, 1, 1]
            return is_of_rows and _weights(node) > 0

        return find_last(self._links, own[0], self.stores[-1], is_product)

    def _find_tokens(self) -> int:
        for number, node in enumerate(self._links.nodes):
            if tokens_of(node):
                return number
        raise ModelError("the graph does not say which token each row belongs to")


class _Mixing:
    """Where the tokens of a sequence see each other: all that depends on a cache."""

    def __init__(self, graph: Graph, links: Links) -> None:
        self._graph, self._links, self._nodes = graph, links, links.nodes
        stores = {
            node.view_src for node in links.nodes if node.op in (ggml.OP_SET_ROWS, ggml.OP_CPY)
        }
        self._of_cache = [
            any(leaf in stores for leaf in each) or any(n.startswith(b"cache_") for n in names)
            for each, names in zip(links.leaves, links.leaf_names, strict=True)
        ]
        of_tokens = [b"inp_tokens" in names for names in links.leaf_names]
        self._cache_alone = self._reached(self._of_cache) - self._reached(of_tokens)

    def _reached(self, starts: list[bool]) -> set[int]:
        reached = set[int]()
        for i, start in enumerate(starts):
            if start or reached.intersection(self._graph.sources(i)):
                reached.add(i)
        return reached

    def contribution(self, block: int) -> int | None:
        """What is mixed and then, for the first time in the block, added to what is not.

        Covers norms, biases and scales behind the attention, and blocks that add attention and
        feed-forward to the residual stream at once.
        """
        graph, nodes = self._graph, self._nodes
        state = graph.state[block]
        mixed, from_state = set(self._cache_alone), {state}
        for i in graph.block(block):
            if nodes[i].op == ggml.OP_ADD and nodes[i].ne[0] == nodes[state].ne[0]:
                # The latest, where a copy may be of several.
                added = [
                    max(self._links.numbers_of(each, i), default=-1) for each in nodes[i].src[:2]
                ]
                found = mixed.intersection(added)
                if found and from_state.difference(mixed).intersection(added):
                    return found.pop()
            sources = graph.sources(i)
            if self._of_cache[i] or mixed.intersection(sources):
                mixed.add(i)
            if from_state.intersection(sources):
                from_state.add(i)
        return None


def _weights(node: ggml.Tensor) -> int:
    """How many weights a node multiplies every row with."""
    if node.op not in (ggml.OP_MUL_MAT, ggml.OP_MUL_MAT_ID) or not node.src[0]:
        return 0
    weights = ggml.at(node.src[0])
    size = int(weights.ne[0] * weights.ne[1])
    if node.op == ggml.OP_MUL_MAT_ID:
        return size * int(node.ne[1])  # by as many experts as are chosen for a row
    is_weight = not original_name(weights.name).startswith(b"cache_")
    return size if is_weight and weights.ne[2] == 1 else 0


class StaleGraphError(Exception):
    """The graph in memory is not the one that was learned."""


@dataclass(frozen=True)
class Part:
    """A part of a graph to compute.

    off: the nodes that are not computed. written: node -> called with its address at the moment
    at which it would have been computed.
    """

    off: Indices
    written: Mapping[int, Callable[[int], None]]


class InGraph:
    """A visitor that lets another one look, once the graph is known to be the one learned."""

    def __init__(self, graph: Graph, visitor: ForwardPass) -> None:
        self._graph, self._visitor = graph, visitor
        self._started = False

    def wants(self, address: int) -> bool:
        if not self._started:
            self._graph.check_in_memory(address)
            self._started = True
        return self._visitor.wants(address)

    def computed(self, address: int) -> None:
        self._visitor.computed(address)

    def finish(self) -> None:
        self._visitor.finish()

    def restore(self) -> None: ...


class Rerun:
    """A visitor that computes a part of a graph, with states written in.

    Everything is put back by `restore`, which must be called whatever happens.
    """

    def __init__(
        self,
        graph: Graph,
        tokens: NDArray[np.int32],
        part: Part,
    ) -> None:
        self._graph, self._tokens, self._off = graph, tokens, part.off
        self._at = {graph.addresses[node]: act for node, act in part.written.items()}
        self.wanted = frozenset(self._at)
        self._started = False

    def wants(self, address: int) -> bool:
        if not self._started:
            self._start(address)
        return address in self.wanted

    def computed(self, address: int) -> None:
        self._at[address](address)

    def finish(self) -> None: ...

    def restore(self) -> None:
        if self._started:
            self._graph.switch(self._off, on=True)
            self._started = False

    def _start(self, address: int) -> None:
        self._graph.check_in_memory(address)
        if not np.array_equal(self._graph.tokens(), self._tokens):
            raise ModelError("llama.cpp split or reordered the batch; its rows are not ours")
        self._started = True
        self._graph.switch(self._off, on=False)


class Computed(Rerun):
    """A rerun of which llama.cpp computes nothing: see `computing`."""

    def __init__(
        self, graph: Graph, tokens: NDArray[np.int32], part: Part, computing: Computing
    ) -> None:
        numbers = np.arange(len(graph.addresses))
        super().__init__(graph, tokens, Part(numbers, part.written))
        self._computing = computing
        self._todo = np.setdiff1d(numbers, part.off)
        # Every now and then it may be told to stop: at what is written, or else at every block.
        stops = {*(part.written if len(part.written) > 1 else graph.state), int(numbers[-1])}
        self._stops = {graph.addresses[node]: node for node in (*stops, *part.written)}
        self.wanted = frozenset(self._stops)

    def computed(self, address: int) -> None:
        n = np.searchsorted(self._todo, self._stops[address], side="right")
        now, self._todo = self._todo[:n], self._todo[n:]
        if len(now):
            self._graph.switch(now, on=True)
            self._computing.compute(self._graph.nodes, self._plan)
            self._graph.switch(now, on=False)
        if address in self._at:
            super().computed(address)

    def _start(self, address: int) -> None:
        super()._start(address)
        self._plan = self._computing.plan(self._graph.nodes)


def _both(
    one: Callable[[int], None] | None, other: Callable[[int], None] | None
) -> Callable[[int], None]:
    def act(address: int) -> None:
        for each in (one, other):
            if each is not None:
                each(address)

    return act
