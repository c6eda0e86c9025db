"""Does localprobe really reach this model's residual stream? Proved on the model itself.

Two short sequences A and B go through the model:

1. every state 0 ... L-1 is found, with the right shape, and its rows are in the order of the batch;
2. writing back what was read changes no logit;
3. B's states written at layer k, for every k, turn A's logits into B's: what we call the state
   is all that the rest of the model sees;
4. without attention the answer depends on the last token, and on it alone, and the rest of each
   block still acts: what we switch off is the attention, all of it, and nothing else.

What fails is refused, since it would give wrong numbers: the whole model at 1 and 2, writing to
its states at 3, switching its attention off at 4. Short sequences do not see what begins beyond a
length that the file names, such as a sliding window or a choice of the tokens attended to. So 3 is
done again beyond such lengths where that is affordable; and where blocks choose for later ones,
which the graph shows whatever the length, longer sequences are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from localprobe.errors import ModelError
from localprobe.llama import ggml
from localprobe.llama.model import Model
from localprobe.llama.residual import Edit, FloatArray, Keep, NoEdit
from localprobe.llama.verdict import Verdict

# Equal up to what a device may round differently from one pass to the next, as a share of the
# distance between the two sequences' logits. On the CPU the difference is exactly zero.
TOLERANCE = 1e-3
_AFFORDABLE = 1024
"""The longest of such lengths, in tokens, beyond which it is tried."""


class _Write:
    """Write what a function makes of the states."""

    attention_off_from: int | None = None

    def __init__(
        self, layers: Iterable[int], look: Callable[[int, FloatArray], FloatArray]
    ) -> None:
        self.layers = frozenset(layers)
        self.apply = look


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is looked for, and said
def check(model: Model) -> Verdict:
    """What can be done with this model. Raises ModelError, with the reason, where nothing can."""
    reason = model.unsupported()
    if reason:
        raise ModelError(reason)
    a, b, c = _sequences(model.info.n_vocab)
    pair = _Pair(model, a, b)
    _check_last_token(pair, [*a[:2], b[2]])
    _, states_c = _clean(model, c)
    changed = (pair.states_a[0] != states_c[0]).any(axis=1)
    if changed.tolist() != [False, True, False]:
        raise ModelError("the rows of its states do not follow the order of the tokens")
    write_back = _Write(range(model.n_layer), lambda layer, states: states)
    if pair.differ(model.evaluate(a, 0, write_back), pair.logits_a):
        raise ModelError("writing back the states that were read changes its logits")
    # From there on blocks attend to keys and values that no state at their layer is the source of.
    whole = range(min(model.first_shared, model.n_layer))
    writing = pair.not_all_at(whole) or pair.inputs_change() or _beyond_limits(model)
    attention = _check_attention(pair, b[:2] + a[2:], a[:2] + b[2:])
    if writing and attention:
        raise ModelError(writing)
    top_k = model.choices()
    if writing or not top_k:
        beside = Verdict(writing=writing, attention=attention, has_inputs=model.has_inputs)
        if writing:
            return beside
        shared = model.first_shared if model.first_shared < model.n_layer else None
        return replace(beside, shared=shared, unread=_unread(pair))
    since = (
        f"beyond {top_k} tokens, blocks choose for later ones which tokens they attend to, and "
        "states are not all that is handed on"
    )
    return Verdict(attention=attention, longest=top_k, longest_since=since)


class _Pair:
    """Two sequences of one length, and what the model makes of them."""

    def __init__(self, model: Model, a: list[int], b: list[int]) -> None:
        self.model, self.a = model, a
        self.logits_a, self.states_a = _clean(model, a)
        self.logits_b, self.states_b = _clean(model, b)
        self.inputs_a, self.inputs_b = self._inputs(a, NoEdit()), self._inputs(b, NoEdit())
        self._distance = float(np.abs(self.logits_a - self.logits_b).max())
        if not np.isfinite(self._distance) or self._distance == 0:
            raise ModelError("its logits are not finite or do not depend on the prompt")

    def differ(self, one: FloatArray, other: FloatArray) -> bool:
        return not float(np.abs(one - other).max()) <= TOLERANCE * self._distance

    def _inputs(self, tokens: list[int], edit: Edit) -> list[FloatArray]:
        """The inputs of all blocks beside the state; none of a model without."""
        found: list[FloatArray] = []
        around = self.model.at_inputs(lambda address: found.append(ggml.read(address)))
        self.model.evaluate(tokens, 0, edit, around)
        return found

    def inputs_change(self) -> str:
        """Why writing a state changes what later blocks are given beside it; else empty."""
        transplant = _Write([0], lambda layer, _states: self.states_b[layer])
        for clean, found in zip(self.inputs_a, self._inputs(self.a, transplant), strict=True):
            if not np.array_equal(clean, found):
                return "the state at layer 0 cannot be written apart from the inputs of its blocks"
        return ""

    def not_all_at(self, layers: Iterable[int]) -> str:
        """Why states are not all that later blocks see, at the first such layer; else empty.

        All but their inputs, where they have some beside the state.
        """
        around = self.model.at_inputs(lambda address: ggml.write(address, self.inputs_b[0]))
        for layer in layers:
            transplant = _Write([layer], lambda at_layer, _states: self.states_b[at_layer])
            if self.differ(self.model.evaluate(self.a, 0, transplant, around), self.logits_b):
                return (
                    f"the state at layer {layer} is not all that later blocks see, "
                    "so overwriting it would not mean what it should"
                )
        return ""


def _check_last_token(pair: _Pair, other_end: list[int]) -> None:
    """Raise ModelError where the logits are not those of the last token."""
    model, a = pair.model, pair.a
    other = model.evaluate(other_end, 0, NoEdit())
    wrong = not pair.differ(other, pair.logits_a)
    # One by one, recurrent models are computed in another way, which may round a lot otherwise.
    if not (wrong or model.is_recurrent):
        model.evaluate(a[:2], 0, NoEdit())
        alone = model.evaluate(a[2:], 2, NoEdit())
        # A row alone goes through other kernels, which round otherwise. Those of another token are
        # as far away as another token is.
        far = np.abs(other - pair.logits_a).max() / 2
        wrong = not np.abs(alone - pair.logits_a).max() <= far
    if wrong:
        raise ModelError("llama.cpp does not give the logits of its last token, or not always")


def _beyond_limits(model: Model) -> str:
    """Why it is otherwise in sequences that are longer than a limit which the file names."""
    limits, usual = model.limits(), np.ravel(_sequences(model.info.n_vocab))
    longest = min(_AFFORDABLE, model.ctx, model.info.n_ctx_train)
    if model.choices():
        longest = min(longest, model.choices())  # longer ones are refused
    for what, limit in limits.items():
        length = limit + 3
        if length > longest:
            continue
        rng = np.random.default_rng(0)
        a, b = ([*rng.choice(usual, length - 1).tolist(), int(usual[end])] for end in (0, 1))
        some = {0, model.n_layer // 2, model.n_layer - 1}
        found = _Pair(model, a, b).not_all_at(k for k in sorted(some) if k < model.first_shared)
        if found:
            return f"{found} (in sequences longer than its {what} of {limit})"
    return ""


def _unread(pair: _Pair) -> int | None:
    """From which layer on overwriting past tokens changes nothing; None where there is none."""
    model = pair.model
    for layer in range(model.unread, model.n_layer):
        states = np.concatenate([pair.states_b[layer][:-1], pair.states_a[layer][-1:]])
        written = model.evaluate(pair.a, 0, _Write([layer], lambda _at, _now: states))  # noqa: B023
        if not np.array_equal(written, pair.logits_a):
            return None
    return model.unread if model.unread < model.n_layer else None


def _check_attention(pair: _Pair, other_past: list[int], other_last: list[int]) -> str:
    """Why attention cannot be switched off; else empty."""
    model = pair.model
    off = Keep(range(model.n_layer), attention_off_from=0)
    try:
        past, last_token, alone = (
            model.evaluate(tokens, 0, off) for tokens in (other_past, other_last, pair.a)
        )
        if pair.differ(past, alone):
            return "its attention cannot be switched off apart from the rest of a block"
        if not pair.differ(last_token, alone):
            return "with its attention switched off nothing is left of its last token"
    except ModelError as error:
        return f"its attention cannot be switched off: {error}"
    last = model.n_layer - 1
    if last and all(np.array_equal(off.states[k], off.states[k + 1]) for k in range(last)):
        return "without its attention nothing is left of its blocks"
    return ""


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
