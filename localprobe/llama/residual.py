"""The residual stream in the graph of one decode: find its states, read and overwrite them.

Indices are the paper's: the state at layer k is the input of block k. Which node that is, `states`
finds out. Rows follow the order of the batch; that is checked in every pass, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localprobe.errors import ModelError
from localprobe.llama import ggml
from localprobe.llama.aside import Guard
from localprobe.llama.batch import Batch
from localprobe.llama.states import Place, tokens_of

FloatArray = NDArray[np.float32]


class Edit(Protocol):
    """What a forward pass is to look at and to change."""

    @property
    def layers(self) -> frozenset[int]:
        """The states that `apply` has to see."""

    @property
    def attention_off_from(self) -> int | None:
        """The first block whose attention contributes nothing; None where all contribute."""

    def apply(self, layer: int, states: FloatArray) -> FloatArray | None:
        """The state at `layer`, (n_tokens, n_embd), replaced; None leaves it as it is.

        In models with several streams a state is all of them, (n_tokens, n_streams * n_embd).
        """


def read_states(address: int, n_tokens: int, apart: bool) -> FloatArray:
    """The states in a node, (n_tokens, n_embd * n_streams).

    apart: whether it holds one stream of all tokens after another, not one token after another.
    """
    states: FloatArray = ggml.read(address)
    if apart:
        n_embd = states.shape[1]
        states = states.reshape(-1, n_tokens, n_embd).transpose(1, 0, 2)
    return states.reshape(n_tokens, -1)


def write_states(address: int, states: FloatArray, apart: bool) -> None:
    """Overwrite all states of a node, of the shape that they are read in."""
    if apart:
        n_embd = ggml.at(address).ne[0]
        streams = states.reshape(len(states), -1, n_embd).transpose(1, 0, 2)
        states = streams.reshape(-1, n_embd)
    ggml.write(address, states)


class NoEdit:
    """A clean forward pass."""

    layers: frozenset[int] = frozenset()
    attention_off_from: int | None = None

    def apply(self, layer: int, states: FloatArray) -> FloatArray | None:
        return None


class Keep:
    """An edit that writes nothing and keeps the states of some layers."""

    def __init__(self, layers: Iterable[int], attention_off_from: int | None = None) -> None:
        self.layers = frozenset(layers)
        self.attention_off_from = attention_off_from
        self.states: dict[int, FloatArray] = {}

    def apply(self, layer: int, states: FloatArray) -> None:
        self.states[layer] = states


@dataclass(frozen=True)
class Places:
    """Where what is written lies in a model's graphs.

    states: by layer. inputs: the node with the inputs of each block beside the state, if there is
    one. looks: pairs of nodes, the first right before the second, which makes those inputs of the
    state at layer 0. apart: whether the streams of a token lie apart from one another.
    """

    states: tuple[Place, ...]
    inputs: Place | None = None
    looks: tuple[tuple[Place, Place], ...] = ()
    apart: bool = False


class ForwardPass:
    """A visitor that carries out an edit in the graph of one decode.

    contributions: where the attention is off, the nodes with what it contributes, by block.
    Call `finish` after the decode: it raises ModelError when something that the edit needs did
    not turn up in the graph.
    """

    def __init__(
        self,
        places: Places,
        n_embd: int,
        rows: Batch,
        edit: Edit,
        contributions: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._layer_of = {place: layer for layer, place in enumerate(places.states)}
        self._guard = Guard() if places.looks and 0 in edit.layers else None
        self._before = {before for before, _ in places.looks if self._guard}
        self._after = {after for _, after in places.looks if self._guard}
        self._at: Place | None = None
        self._apart = places.apart
        known = {*self._layer_of, *self._before, *self._after}
        self._seen = dict.fromkeys((name for name, _ in known), 0)
        self._width = n_embd
        self._rows = rows
        self._edit = edit
        self._missing_states = set(edit.layers)
        self._off = {address: block for block, address in contributions.items()}
        self._order_seen = False

    def wants(self, address: int) -> bool:
        tensor = ggml.at(address)
        if tensor.op == ggml.OP_GET_ROWS:
            self._look_at_rows(tensor)
        name = tensor.name
        number = self._seen.get(name)
        if number is not None:
            self._seen[name] = number + 1
            self._at = at = name, number
            if self._layer_of.get(at, -1) in self._missing_states:
                return True
            if at in self._after or at in self._before:
                return True
        else:
            self._at = None
        return address in self._off

    def computed(self, address: int) -> None:
        layer = -1 if self._at is None else self._layer_of.get(self._at, -1)
        if layer in self._missing_states:
            self._edit_state(layer, address)
        elif address in self._off:
            self._drop_attention(address)
        if self._guard is not None and self._at in self._after:
            self._guard.after(address)
        if self._guard is not None and self._at in self._before:
            self._guard.before(address)

    def finish(self) -> None:
        if not self._order_seen:
            raise ModelError("the graph does not say which token each row belongs to")
        if self._missing_states:
            raise ModelError(f"the graph has no state at layer {min(self._missing_states)}")
        if self._off:
            raise ModelError(f"block {min(self._off.values())} contributes no attention")

    def _look_at_rows(self, tensor: ggml.Tensor) -> None:
        index = tokens_of(tensor)
        if index:
            if not np.array_equal(ggml.read(index), self._rows.tokens):
                raise ModelError("llama.cpp split or reordered the batch; its rows are not ours")
            self._order_seen = True

    def _edit_state(self, layer: int, address: int) -> None:
        n = len(self._rows)
        width, *shape = ggml.at(address).ne
        # Of models with several streams, those of a token lie one after another, or apart.
        streams = shape[0] == n and shape[2] == 1 if self._apart else shape[1:] == [n, 1]
        if width != self._width or not (shape == [n, 1, 1] or streams):
            raise ModelError(f"the state at layer {layer} has shape {[width, *shape]}")
        edited = self._edit.apply(layer, read_states(address, n, self._apart))
        if edited is not None:
            written = edited
            if layer == 0 and self._guard is not None:
                self._guard.write(address, lambda at: write_states(at, written, self._apart))
            else:
                write_states(address, written, self._apart)
        self._missing_states.discard(layer)

    def _drop_attention(self, address: int) -> None:
        ggml.zero(address)
        del self._off[address]
