"""The logit lens (nostalgebraist, 2020): the final norm and the output matrix on any state.

    for part, logits in by_head(model, states): ...      # or by_whole_passes: the slow obvious way

By the head alone, everything that comes before it in the graph is switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from localprobe.engine.full import CLEAN
from localprobe.engine.interventions import FloatArray
from localprobe.errors import ModelError
from localprobe.llama.batch import Batch, Row
from localprobe.llama.head import KeepLast, WriteLast
from localprobe.llama.hooks import NodeVisitor
from localprobe.llama.model import Model

_MOST_ROWS = 64
_MOST_LOGITS = 1 << 24
_NOT_FOUND = "what its last block makes is not found, so there is no logit lens"
_SHARE_OF_SPREAD = 0.01
"""Quantized activations are rounded otherwise among other rows; another state is off by far more.
"""

Logits = Iterator[tuple[slice, FloatArray]]


def rows_together(model: Model) -> int:
    """Of how many states the logits are in memory at once."""
    return min(_MOST_ROWS, max(8, _MOST_LOGITS // model.info.n_vocab))


def by_head(model: Model, states: FloatArray) -> Logits:
    """Logits of states (n, n_embd), part by part: (which, (n_part, n_vocab))."""
    _check_width(model, states)
    most = min(rows_together(model), len(states))
    model.reserve(most, most)
    batch = _outputs([0] * most)
    for start in range(0, len(states), most):
        part = states[start : start + most]
        filled = np.concatenate([part, np.zeros((most - len(part), model.n_embd), np.float32)])
        model.clear()
        logits = model.decode_part(
            batch,
            lambda graph: graph.from_layer(model.n_layer, filled),  # noqa: B023
        )
        yield slice(start, start + len(part)), logits[: len(part)]


def by_whole_passes(model: Model, states: FloatArray) -> Logits:
    """The same by passes through all blocks, what the last one made being written over."""
    _check_width(model, states)
    most = min(rows_together(model), len(states))
    model.reserve(most, most)
    for start in range(0, len(states), most):
        part = states[start : start + most]
        model.clear()
        rows = _outputs([0] * len(part))
        writing: list[WriteLast] = []

        def around(inner: NodeVisitor) -> WriteLast:
            writing.append(WriteLast(inner, model.n_layer, part))  # noqa: B023
            return writing[-1]  # noqa: B023

        logits = model.decode(rows, CLEAN, around)
        if not writing[-1].is_written:
            raise ModelError(_NOT_FOUND)
        yield slice(start, start + len(part)), logits


def check_head(model: Model, by: Callable[[Model, FloatArray], Logits]) -> None:
    """Raise ModelError where what the last block made of a prompt does not give its logits."""
    model.reserve(2, 2)
    model.clear()
    keepers: list[KeepLast] = []

    def around(inner: NodeVisitor) -> NodeVisitor:
        keepers.append(KeepLast(inner, model.n_layer))
        return keepers[0]

    step = model.info.n_vocab // 3
    expected = model.decode(_outputs([step, 2 * step]), CLEAN, around)
    states = keepers[0].states
    if states is None or states.shape != (2, model.n_embd):
        raise ModelError(_NOT_FOUND)
    found = np.concatenate([logits for _, logits in by(model, states)])
    if not np.abs(found - expected).max() <= _SHARE_OF_SPREAD * np.ptp(expected):
        raise ModelError("its logits are not those of the last state alone: there is no logit lens")


def _check_width(model: Model, states: FloatArray) -> None:
    if states.shape[1] != model.n_embd:
        raise ModelError(
            "its blocks hand on several vectors a token, and the final norm takes but one"
        )


def _outputs(tokens: Sequence[int]) -> Batch:
    return Batch([Row(token, position, (0,), True) for position, token in enumerate(tokens)])
