"""Does localprobe really reach this model's residual stream? Proved on the model itself.

Two short sequences A and B go through the model:

1. every state 0 ... L-1 is found, with the right shape, and its rows are in the order of the batch;
2. writing back what was read changes no logit;
3. B's states written at layer k, for every k, turn A's logits into B's: what we call the state
   is all that the rest of the model sees;
4. without attention the answer depends on the last token, and on it alone, and the rest of each
   block still acts: what we switch off is the attention, all of it, and nothing else.

A model that fails is refused: it would give wrong numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from localprobe.errors import ModelError
from localprobe.llama.model import Model
from localprobe.llama.residual import FloatArray, Keep, NoEdit

# Equal up to what a device may round differently from one pass to the next, as a share of the
# distance between the two sequences' logits. On the CPU the difference is exactly zero.
TOLERANCE = 1e-3


class _Write:
    """Write what a function makes of the states."""

    attention_off_from: int | None = None

    def __init__(
        self, layers: Iterable[int], look: Callable[[int, FloatArray], FloatArray]
    ) -> None:
        self.layers = frozenset(layers)
        self.apply = look


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is looked for, and said
def check(model: Model) -> None:
    """Raise ModelError, with the reason, when localprobe cannot probe this model."""
    reason = model.unsupported()
    if reason:
        raise ModelError(reason)
    a, b, c = _sequences(model.info.n_vocab)
    logits_a, states_a = _clean(model, a)
    logits_b, states_b = _clean(model, b)
    distance = float(np.abs(logits_a - logits_b).max())
    if not np.isfinite(distance) or distance == 0:
        raise ModelError("its logits are not finite or do not depend on the prompt")

    def differ(one: FloatArray, other: FloatArray) -> bool:
        return not float(np.abs(one - other).max()) <= TOLERANCE * distance

    _, states_c = _clean(model, c)
    changed = (states_a[0] != states_c[0]).any(axis=1)
    if changed.tolist() != [False, True, False]:
        raise ModelError("the rows of its states do not follow the order of the tokens")

    write_back = _Write(range(model.n_layer), lambda layer, states: states)
    if differ(model.evaluate(a, 0, write_back), logits_a):
        raise ModelError("writing back the states that were read changes its logits")

    for layer in range(model.n_layer):
        transplant = _Write([layer], lambda at_layer, _states: states_b[at_layer])
        if differ(model.evaluate(a, 0, transplant), logits_b):
            raise ModelError(
                f"the state at layer {layer} is not all that later blocks see, "
                "so overwriting it would not mean what it should"
            )
    _check_attention(model, a, b[:2] + a[2:], a[:2] + b[2:], differ)


def _check_attention(
    model: Model,
    a: list[int],
    other_past: list[int],
    other_last: list[int],
    differ: Callable[..., bool],
) -> None:
    off = Keep(range(model.n_layer), attention_off_from=0)
    other = model.evaluate(other_last, 0, off)
    alone = model.evaluate(a, 0, off)
    if differ(model.evaluate(other_past, 0, off), alone):
        raise ModelError("its attention cannot be switched off apart from the rest of a block")
    if not differ(other, alone):
        raise ModelError("with its attention switched off nothing is left of its last token")
    last = model.n_layer - 1
    if last and all(np.array_equal(off.states[k], off.states[k + 1]) for k in range(last)):
        raise ModelError("without its attention nothing is left of its blocks")


def _clean(model: Model, tokens: list[int]) -> tuple[FloatArray, dict[int, FloatArray]]:
    keep = Keep(range(model.n_layer))
    logits = model.evaluate(tokens, 0, keep)
    if not np.array_equal(logits, model.evaluate(tokens, 0, NoEdit())):
        raise ModelError("reading its states changes its logits")
    return logits, keep.states


def _sequences(n_vocab: int) -> tuple[list[int], list[int], list[int]]:
    """Three sequences of three tokens: A, an unlike B, and C, which is A but for its middle."""
    if n_vocab < 8:
        raise ModelError("its vocabulary is too small to be checked")
    a1, a2, a3, b1, b2, b3 = (n_vocab * share // 7 for share in range(1, 7))
    return [a1, a2, a3], [b1, b2, b3], [a1, b2, a3]
