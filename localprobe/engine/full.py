"""Whole forward passes: slow, obvious, the oracle for anything faster.

engine = FullEngine(model)
engine.answer(prompt, max_tokens=8)                          # the clean answer
engine.answer(prompt, max_tokens=8, intervention=Skip(), layer=20)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from localprobe.engine.interventions import (
    Edit,
    FloatArray,
    Intervention,
    names,
    switches_attention_off,
)
from localprobe.errors import ModelError, NotFiniteError
from localprobe.llama.model import Model
from localprobe.llama.residual import Keep

CLEAN = Edit()
_MOST_OTHERS = 64


@dataclass(frozen=True)
class Tie:
    """A token of an answer that was hardly likelier than others.

    place: how many tokens of the answer stand before it. others: the tokens that rounding could
    have put there; None where they are too many to tell.
    """

    place: int
    others: tuple[int, ...] | None


@dataclass(frozen=True)
class Answer:
    """What the model says after a prompt.

    tokens: the greedy continuation, without the end token. text: its text.
    logits: (n_vocab,) of the first generated token.
    end: the end token, where the model gave one.
    margin: by how much the likeliest token was ahead of the next, where that was least; in logits.
    ties: where that was no more than the engine's noise.
    is_finite: False where logits were not finite numbers, so that there is no answer.
    """

    tokens: tuple[int, ...]
    text: str
    logits: FloatArray = field(repr=False)
    end: int | None = None
    margin: float = np.inf
    is_finite: bool = True
    ties: tuple[Tie, ...] = ()

    @property
    def all_tokens(self) -> tuple[int, ...]:
        return self.tokens if self.end is None else (*self.tokens, self.end)


NO_ANSWER = Answer((), "", np.empty(0, np.float32), is_finite=False)

Stop = Callable[[str], bool]
Wanted = Callable[[int, int], bool]
"""Given the number of a prompt and a layer, whether that cell is to be computed."""
Certain = Callable[[int], int]
"""Given the number of a prompt, for how many layers from the next one on that is known by now."""


@dataclass(frozen=True)
class CleanRun:
    """A prompt and its clean answer.

    tokens: the prompt and those tokens of the answer whose states were computed.
    states: layer -> the clean states of `tokens` (n_tokens, n_embd); the full engine keeps none.
    """

    prompt: tuple[int, ...]
    answer: Answer
    tokens: tuple[int, ...]
    states: Mapping[int, FloatArray] = field(repr=False)


class FullEngine:
    """One forward pass over the prompt for every (prompt, intervention, layer)."""

    name = "full"
    batch_size = 1
    """How many prompts share a decode, at most."""
    company = 1
    """In the company of how many, at most, a prompt's bits may be others than alone."""

    def __init__(self, model: Model, noise: float | None = None) -> None:
        """noise: how far the lead of the likeliest token, in logits, was seen to move when the
        same was computed in another way; None where that was not measured.
        """
        self.model, self.noise = model, noise

    def why_not(self, patch: str) -> str:
        """Why an intervention cannot be made with this model; empty where it can."""
        verdict = self.model.verdict
        return verdict.attention if switches_attention_off(patch) else verdict.writing

    def check_can(self, patches: Iterable[str]) -> None:
        """Raise ModelError where one of these interventions cannot be made with this model."""
        for patch in patches:
            if reason := self.why_not(patch):
                others = [name for name in names() if not self.why_not(name)]
                raise ModelError(
                    f"{patch} cannot be made with {self.model.path.name}: {reason} "
                    f"(these can: {', '.join(others)})"
                )

    def together(self, n_tokens: int, shared: int = 0) -> int:
        """How many clean prompts of so many tokens, with their answers, share a decode. shared: so
        many of the tokens are those of all."""
        return 1

    def states(self, prompt: Sequence[int], layers: Iterable[int]) -> dict[int, FloatArray]:
        """The clean states of a prompt: layer -> (n_tokens, n_embd)."""
        keep = Keep(layers)
        self.model.evaluate(prompt, 0, keep)
        return keep.states

    def clean(
        self,
        prompts: Sequence[Sequence[int]],
        layers: Iterable[int],
        *,
        max_tokens: int,
        stops: Sequence[Stop | None],
    ) -> list[CleanRun]:
        """The clean answers to some prompts, ready to `run` interventions at these layers.

        NO_ANSWER where logits are not finite; those must not be run.
        """
        runs = []
        for prompt, stop in zip(prompts, stops, strict=True):
            try:
                answer = self.answer(prompt, max_tokens=max_tokens, stop=stop)
            except NotFiniteError:
                answer = NO_ANSWER
            runs.append(CleanRun(tuple(prompt), answer, tuple(prompt), {}))
        return runs

    def run(
        self,
        runs: Sequence[CleanRun],
        interventions: Sequence[Intervention],
        layers: Sequence[int],
        *,
        max_tokens: int,
        examples: Sequence[int],
        stops: Sequence[Stop | None],
        wanted: Wanted | None = None,
        certain: Certain | None = None,
    ) -> Iterator[tuple[int, int, Answer]]:
        """Every prompt at every layer, each with its intervention, which are of one kind.

        Yields (number of the prompt, layer, answer). Layers go down from the last one; which
        prompt comes first is the engine's affair. Where there is no answer since logits are not
        finite, that one is NO_ANSWER.

        wanted: asked of each cell once all answers at higher layers were given; all cells if None.
        certain: at how many of the next layers what it says is known before; 1 if None. Where this
        is given, cells are asked for earlier as well, and what is not wanted then never will be.
        """
        for layer in sorted(layers, reverse=True):
            for i, run in enumerate(runs):
                if wanted is not None and not wanted(i, layer):
                    continue
                try:
                    answer = self.answer(
                        run.prompt,
                        max_tokens=max_tokens,
                        intervention=interventions[i],
                        layer=layer,
                        example=examples[i],
                        stop=stops[i],
                    )
                except NotFiniteError:
                    answer = NO_ANSWER
                yield i, layer, answer

    def answer(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        intervention: Intervention | None = None,
        layer: int = 0,
        example: int = 0,
        stop: Stop | None = None,
    ) -> Answer:
        """Greedy answer to a prompt under an intervention at a layer; clean without one.

        Equal to recomputing the whole sequence at every step with every token but the newest
        manipulated: when a token arrives, the one before it has become a past token, and both
        are computed together.

        stop: given the text so far, whether to generate no further.
        """
        self.model.check_length(len(prompt) + max_tokens)
        self.model.reserve(len(prompt) + max_tokens)
        change = changing(self.model.n_layer, intervention, layer, example)
        first = self.model.evaluate(prompt, 0, change(0))
        writing = Writing(self.model, prompt, max_tokens, stop, first, self.noise)
        rewrites = intervention is not None and intervention.writes_generated
        self._go_on(writing, change, rewrites)
        return writing.answer()

    def _go_on(self, writing: Writing, change: Callable[[int], Edit], rewrites: bool) -> None:
        """Generate to the end, the KV cache holding the prompt; what was generated is caught up."""
        if self.model.is_recurrent:
            # Its memory of the last token cannot be taken back, and written to, one token later.
            while not writing.done:
                writing.take(self.model.evaluate(writing.sequence, 0, change(0)))
            return
        start = writing.n_prompt - rewrites
        while not writing.done:
            writing.take(self.model.evaluate(writing.sequence[start:], start, change(start)))
            start = len(writing.sequence) - 1 - rewrites


def changing(
    n_layer: int, intervention: Intervention | None, layer: int, example: int
) -> Callable[[int], Edit]:
    """The edit of rows that begin at a position; without an intervention they stay clean."""

    def change(start: int) -> Edit:
        if intervention is None:
            return CLEAN
        return intervention.edit(layer, n_layer=n_layer, example=example, start=start)

    return change


class Writing:
    """An answer while it is written, greedily. logits: of the first token, (n_vocab,).

    noise: the lead in logits up to which a token is tied with the likeliest one.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        max_tokens: int,
        stop: Stop | None,
        logits: FloatArray,
        noise: float | None = None,
    ) -> None:
        self.sequence = list(prompt)
        self.done = False
        self.n_prompt = len(prompt)
        self._model, self._stop = model, stop
        self._max_tokens, self._first = max_tokens, logits
        self._end: int | None = None
        self._margin = np.inf
        self._noise, self._ties = noise, list[Tie]()
        self.take(logits)

    def take(self, logits: FloatArray) -> None:
        """The logits after the newest token: write the likeliest one, or be done."""
        token = int(np.argmax(logits))
        # Not by sorting: this is done for every token of every answer.
        second = max(part.max(initial=-np.inf) for part in (logits[:token], logits[token + 1 :]))
        lead = float(logits[token] - second)
        self._margin = min(self._margin, lead)
        if self._noise is not None and lead <= self._noise:
            self._ties.append(self._tie(token, logits, self._noise))
        if self._model.ends_generation(token):
            self._end, self.done = token, True
            return
        self.sequence.append(token)
        written = self.sequence[self.n_prompt :]
        self.done = len(written) >= self._max_tokens or (
            self._stop is not None and self._stop(self._model.detokenize(written))
        )

    def _tie(self, token: int, logits: FloatArray, noise: float) -> Tie:
        behind = (logits[token] - logits).astype(np.float64)
        others = np.flatnonzero(behind <= noise)
        found = tuple(int(other) for other in others if other != token)
        place = len(self.sequence) - self.n_prompt
        return Tie(place, found if len(found) <= _MOST_OTHERS else None)

    def answer(self) -> Answer:
        written = tuple(self.sequence[self.n_prompt :])
        text = self._model.detokenize(written)
        ties = tuple(self._ties)
        return Answer(written, text, self._first, self._end, self._margin, ties=ties)
