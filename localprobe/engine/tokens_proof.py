"""Are tokens hidden from the last one as they should be? Proved on a model that is new here."""

from __future__ import annotations

import numpy as np

from localprobe.engine.interventions import FloatArray
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.errors import ModelError
from localprobe.llama.check import TOLERANCE
from localprobe.llama.model import Model

_SHARE_OF_SPREAD = 0.05
"""Other batch shapes round quantized activations otherwise; a wrong mask is off by far more."""


def check_hiding(model: Model) -> None:
    """Raise ModelError, with the reason, where tokens cannot be hidden from the last one.

    With all earlier tokens hidden from block 0 on, the answer must not depend on them: what we
    hide is all that the last token sees of them. And hiding one of them must not be that already.
    """
    _check_alone(model, WholePasses)


def _check_alone(model: Model, way: type[WholePasses]) -> None:
    step = model.info.n_vocab // 8
    one, other = [step, 2 * step, 3 * step, 4 * step], [5 * step, 6 * step, 7 * step, 4 * step]
    (clean, alone, rest), (clean_other, alone_other, rest_other) = (
        _all_and_one_hidden(way(model, tokens)) for tokens in (one, other)
    )
    allowed = TOLERANCE * float(np.abs(clean - clean_other).max())
    if not float(np.abs(alone - alone_other).max()) <= allowed:
        raise ModelError("the last token still sees tokens that are hidden from it")
    if allowed and not float(np.abs(rest - rest_other).max()) > allowed:
        raise ModelError("tokens cannot be hidden from the last one without all the others")


def _all_and_one_hidden(prompt: WholePasses) -> list[FloatArray]:
    """Logits of a prompt of four tokens: clean, with all earlier ones hidden, and with one."""
    found = [prompt.clean, prompt.clean, prompt.clean]
    for _, numbers, logits in prompt.cells([Act((0, 1, 2)), Act((0,))], [0]):
        for number, row in zip(numbers, logits, strict=True):
            found[1 + number] = row
    return found


def check_hiding_resumed(model: Model) -> None:
    """Raise ModelError where resuming gives other numbers than whole passes with tokens hidden.

    Of single tokens only nearly the same numbers can be asked for; so all of them are hidden, too.
    """
    _check_alone(model, Resumed)
    step = model.info.n_vocab // 8
    tokens = [step, 2 * step, 3 * step, 4 * step, 5 * step]
    layers = sorted({0, model.n_layer // 2, model.n_layer - 1})
    for window in (None, 1):
        acts = [Act((p,), window=window) for p in range(len(tokens) - 1)]
        expected = {
            (layer, numbers[0]): logits[0]
            for layer, numbers, logits in WholePasses(model, tokens).cells(acts, layers)
        }
        for layer, numbers, logits in Resumed(model, tokens).cells(acts, layers):
            for number, row in zip(numbers, logits, strict=True):
                whole = expected[layer, number]
                spread = float(whole.max() - whole.min())
                if not float(np.abs(row - whole).max()) <= _SHARE_OF_SPREAD * spread:
                    raise ModelError(f"resuming at layer {layer} gives other logits under knockout")
