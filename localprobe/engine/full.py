"""Whole forward passes: slow, obvious, the oracle for anything faster.

engine = FullEngine(model)
engine.answer(prompt, max_tokens=8)                          # the clean answer
engine.answer(prompt, max_tokens=8, intervention=Skip(), layer=20)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from localprobe.interventions import Edit, FloatArray, Intervention
from localprobe.llama.model import Model

CLEAN = Edit()


@dataclass(frozen=True)
class Answer:
    """What the model says after a prompt.

    tokens: the greedy continuation, without the end token. text: its text.
    logits: (n_vocab,) of the first generated token.
    end: the end token, where the model gave one.
    """

    tokens: tuple[int, ...]
    text: str
    logits: FloatArray
    end: int | None = None

    @property
    def all_tokens(self) -> tuple[int, ...]:
        return self.tokens if self.end is None else (*self.tokens, self.end)


class FullEngine:
    """One forward pass over the prompt for every (prompt, intervention, layer)."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def states(self, prompt: Sequence[int], layers: Iterable[int]) -> dict[int, FloatArray]:
        """The clean states of a prompt: layer -> (n_tokens, n_embd)."""
        seen: dict[int, FloatArray] = {}

        class Keep:
            attention_off_from = None

            def __init__(self) -> None:
                self.layers = frozenset(layers)

            def apply(self, layer: int, states: FloatArray) -> None:
                seen[layer] = states

        self.model.evaluate(prompt, 0, Keep())
        return seen

    def answer(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        intervention: Intervention | None = None,
        layer: int = 0,
        example: int = 0,
        stop: Callable[[str], bool] | None = None,
    ) -> Answer:
        """Greedy answer to a prompt under an intervention at a layer; clean without one.

        Equal to recomputing the whole sequence at every step with every token but the newest
        manipulated: when a token arrives, the one before it has become a past token, and both
        are computed together.

        stop: given the text so far, whether to generate no further.
        """
        model = self.model
        model.reserve(len(prompt) + max_tokens)

        def edit(start: int) -> Edit:
            if intervention is None:
                return CLEAN
            return intervention.edit(layer, n_layer=model.n_layer, example=example, start=start)

        logits = first_logits = model.evaluate(prompt, 0, edit(0))
        sequence = list(prompt)
        generated: list[int] = []
        end = None
        while True:
            token = int(np.argmax(logits))
            if model.ends_generation(token):
                end = token
                break
            generated.append(token)
            sequence.append(token)
            if len(generated) >= max_tokens or (stop and stop(model.detokenize(generated))):
                break
            rewrites = intervention is not None and intervention.writes_generated
            start = len(sequence) - (2 if rewrites else 1)
            logits = model.evaluate(sequence[start:], start, edit(start))
        return Answer(tuple(generated), model.detokenize(generated), first_logits, end)
