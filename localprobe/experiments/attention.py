"""Attention weights of a prompt, as the model computed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from localprobe.engine.full import CLEAN
from localprobe.engine.interventions import FloatArray
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.attention import KeepWeights
from localprobe.llama.batch import Batch, sequence_rows
from localprobe.llama.hooks import NodeVisitor
from localprobe.llama.memory import check_fits
from localprobe.llama.model import Model
from localprobe.runs.display import shown_by


@dataclass(frozen=True)
class Look:
    """A head of a block that looks at a token. weight: its attention weight, 0 … 1."""

    layer: int
    head: int
    weight: float


@dataclass(frozen=True, eq=False)
class Attention:
    """weights: (n_layers, n_heads, n_tokens, n_tokens), of `layers` and all heads: how much each
    token (third axis) attends to each one before it and to itself (last axis).
    """

    prompt: str
    n_layer: int
    layers: tuple[int, ...]
    all_tokens: tuple[int, ...]
    tokens: tuple[str, ...]
    weights: FloatArray

    def __repr__(self) -> str:
        return f"<Attention {self.prompt[:40]!r}: {self.weights.shape}>"

    def mean(self, layer: int | None = None, head: int | None = None) -> FloatArray:
        """(n_tokens, n_tokens): of a layer and a head, or the mean over all of either."""
        weights = self.weights
        if layer is not None:
            if layer not in self.layers:
                raise LocalprobeError(f"the weights of layer {layer} were not kept")
            weights = weights[[self.layers.index(layer)]]
        if head is not None:
            n_head = self.weights.shape[1]
            if not 0 <= head < n_head:
                raise LocalprobeError(f"there is no head {head}: the model has 0 to {n_head - 1}")
            weights = weights[:, [head]]
        found: FloatArray = weights.mean(axis=(0, 1))
        return found

    def only(self, layer: int | None, head: int | None) -> Attention:
        """The same of one layer, one head, or both."""
        self.mean(layer, head)
        layers = self.layers if layer is None else (layer,)
        rows = [self.layers.index(each) for each in layers]
        weights = self.weights[rows] if head is None else self.weights[rows][:, [head]]
        return replace(self, layers=layers, weights=weights)

    def looks(self, positions: Sequence[int], query: int = -1, n: int = 10) -> list[Look]:
        """The n heads by which a token looks most at some tokens together, the most first."""
        shares = self.weights[:, :, query][:, :, list(positions)].sum(axis=-1)
        order = np.argsort(-shares, axis=None, kind="stable")[:n]
        places = [np.unravel_index(int(place), shares.shape) for place in order]
        return [
            Look(self.layers[int(layer)], int(head), float(shares[layer, head]))
            for layer, head in places
        ]

    def plot(self, path: Any = None) -> Any:
        """The mean over layers and heads as a figure; written to a file where a path is given."""
        return shown_by("map_figure").figure(self, path)


def attend(model: Model, prompt: str, tokens: Sequence[int], layers: Sequence[int]) -> Attention:
    """One clean pass, of which the weights of some layers are kept.

    Raises ModelError where a block has no attention whose weights could be read, LocalprobeError
    where they would not fit into memory.
    """
    n_head = model.info.n_head
    size = 4.0 * len(layers) * n_head * len(tokens) * (len(tokens) + 256)
    check_fits(size, f"the attention weights of {len(tokens)} tokens", "choose fewer --layers")
    model.check_length(len(tokens))
    model.reserve(len(tokens))
    model.clear()
    visitors: list[KeepWeights] = []

    def around(inner: NodeVisitor) -> NodeVisitor:
        visitors.append(KeepWeights(inner, layers))
        return visitors[0]

    model.decode(Batch(sequence_rows(tokens, 0)), CLEAN, around)
    kept = visitors[0].weights
    missing = [layer for layer in layers if layer not in kept]
    if missing:
        raise ModelError(f"block {missing[0]} has no attention whose weights could be read")
    return Attention(
        prompt,
        model.n_layer,
        tuple(layers),
        tuple(tokens),
        tuple(model.piece(token, control=True).decode(errors="replace") for token in tokens),
        np.stack([kept[layer] for layer in layers]),
    )
