"""The residual stream in the graph of one decode: find its states, read and overwrite them.

Indices are the paper's: the state at layer k is the input of block k. Which node that is, `states`
finds out. Rows follow the order of the batch; that is checked in every pass, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from localprobe.errors import ModelError
from localprobe.llama import ggml
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


class ForwardPass:
    """A visitor that carries out an edit in the graph of one decode.

    places: where the states at each layer are. contributions: where the attention is off, the nodes
    with what it contributes, by block.
    Call `finish` after the decode: it raises ModelError when something that the edit needs did
    not turn up in the graph.
    """

    def __init__(
        self,
        places: Sequence[Place],
        n_embd: int,
        rows: Batch,
        edit: Edit,
        contributions: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._layer_of = {place: layer for layer, place in enumerate(places)}
        self._seen = dict.fromkeys((name for name, _ in places), 0)
        self._shape = [n_embd, len(rows), 1, 1]
        self._rows = rows
        self._edit = edit
        self._missing_states = set(edit.layers)
        self._off = {address: block for block, address in contributions.items()}
        self._order_seen = False
        self._layer = -1

    def wants(self, address: int) -> bool:
        tensor = ggml.at(address)
        if tensor.op == ggml.OP_GET_ROWS:
            self._look_at_rows(tensor)
        name = tensor.name
        number = self._seen.get(name)
        if number is not None:
            self._seen[name] = number + 1
            layer = self._layer_of.get((name, number))
            if layer is not None:
                self._layer = layer
                return layer in self._missing_states
        return address in self._off

    def computed(self, address: int) -> None:
        if address in self._off:
            self._drop_attention(address)
        else:
            self._edit_state(self._layer, address)

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
        shape = list(ggml.at(address).ne)
        is_streams = shape[0] == self._shape[0] and shape[2:] == [len(self._rows), 1]
        if shape != self._shape and not is_streams:
            raise ModelError(f"the state at layer {layer} has shape {shape}")
        # Of models with several streams, those of a token lie one after another.
        states = ggml.read(address).reshape(len(self._rows), -1)
        edited = self._edit.apply(layer, states)
        if edited is not None:
            ggml.write(address, edited)
        self._missing_states.discard(layer)

    def _drop_attention(self, address: int) -> None:
        ggml.zero(address)
        del self._off[address]
