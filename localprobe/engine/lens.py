"""The logit lens (nostalgebraist, 2020): the final norm and the output matrix on any state.

    for part, logits in by_head(model, states): ...      # or by_whole_passes: the slow obvious way

By the head alone, everything that comes before it in the graph is switched off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from localprobe.engine.full import CLEAN
from localprobe.engine.interventions import FloatArray
from localprobe.llama.batch import Batch, Row
from localprobe.llama.head import WriteLast
from localprobe.llama.model import Model

_MOST_ROWS = 64
_MOST_LOGITS = 1 << 24

Logits = Iterator[tuple[slice, FloatArray]]


def rows_together(model: Model) -> int:
    """Of how many states the logits are in memory at once."""
    return min(_MOST_ROWS, max(8, _MOST_LOGITS // model.info.n_vocab))


def by_head(model: Model, states: FloatArray) -> Logits:
    """Logits of states (n, n_embd), part by part: (which, (n_part, n_vocab))."""
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
    most = min(rows_together(model), len(states))
    model.reserve(most, most)
    for start in range(0, len(states), most):
        part = states[start : start + most]
        model.clear()
        rows = _outputs([0] * len(part))
        logits = model.decode(
            rows,
            CLEAN,
            lambda inner: WriteLast(inner, model.n_layer, part),  # noqa: B023
        )
        yield slice(start, start + len(part)), logits


def _outputs(tokens: Sequence[int]) -> Batch:
    return Batch([Row(token, position, (0,), True) for position, token in enumerate(tokens)])
