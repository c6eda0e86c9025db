"""Swap the word OLD of a prompt for NEW in the hidden states of one layer at a time.

The donor is the prompt with OLD replaced by NEW. At each layer, the states of NEW's tokens in the
donor overwrite those of OLD's tokens in the prompt; does the answer follow the donor or the prompt?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from localprobe.engine.answers import Token, softmax, top_tokens
from localprobe.engine.full import Answer, CleanRun, FullEngine
from localprobe.engine.interventions import FloatArray, Inject, Intervention
from localprobe.errors import LocalprobeError, NotFiniteError
from localprobe.prompts.encoder import Encoder
from localprobe.prompts.words import did_you_mean_word, occurrences, token_spans, tokens_of
from localprobe.runs.tally import MODIFIED, ORIGINAL

Cells = Iterator[tuple[int, Answer]]
Watch = Callable[[Cells, int], Iterable[tuple[int, Answer]]]

NEITHER = "neither"


@dataclass(frozen=True)
class SwapPlan:
    """Which donor positions go where.

    at, donor_at: positions in `prompt` and in `donor`, pairwise.
    token_for_token: False where OLD and NEW differ in length, so that only the last token of the
    word is swapped.
    """

    prompt: tuple[int, ...]
    donor: tuple[int, ...]
    at: tuple[int, ...]
    donor_at: tuple[int, ...]
    token_for_token: bool

    def injection(self, donor: Mapping[int, FloatArray]) -> Intervention:
        """The swap with the donor's states, layer -> (n_donor, n_embd)."""
        return Inject(donor, self.at, self.donor_at)


def plan_swap(encoder: Encoder, text: str, old: str, new: str) -> SwapPlan:
    """Find OLD in the prompt, everywhere it stands, and NEW in the donor.

    Raises LocalprobeError when OLD is not in the prompt, NEW is empty or the same, or the word is
    the last token, which is never written to.
    """
    if not old or not new.strip():
        raise LocalprobeError("OLD and NEW must not be empty")
    if old == new:
        raise LocalprobeError(f"OLD and NEW are the same word, {old!r}")
    places = occurrences(old, text)
    if not places:
        raise LocalprobeError(f"{old!r} is not in the prompt{did_you_mean_word(old, text)}")
    donor_text, donor_places = _replace(text, places, new)
    prompt, donor = encoder.tokens(text), encoder.tokens(donor_text)
    at_words = tokens_at(encoder, text, prompt, places)
    donor_at_words = tokens_at(encoder, donor_text, donor, donor_places)
    pairs = [pair_up(*pair) for pair in zip(at_words, donor_at_words, strict=True)]
    at = tuple(position for pair in pairs for position in pair.at)
    if at[-1] == len(prompt) - 1:
        raise LocalprobeError(
            f"{old!r} ends with the last token of the prompt, which is never written to; "
            "let the prompt go on after it"
        )
    return SwapPlan(
        prompt=tuple(prompt),
        donor=tuple(donor),
        at=at,
        donor_at=tuple(position for pair in pairs for position in pair.donor_at),
        token_for_token=all(pair.token_for_token for pair in pairs),
    )


def tokens_at(
    encoder: Encoder, prompt: str, tokens: Sequence[int], places: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """The positions of the tokens at each place of a prompt."""
    text, offset = encoder.located(prompt)
    spans = token_spans(encoder.pieces(tokens), text)
    return [tokens_of((start + offset, end + offset), text, spans) for start, end in places]


@dataclass(frozen=True)
class Pairing:
    at: tuple[int, ...]
    donor_at: tuple[int, ...]
    token_for_token: bool


def pair_up(at: Sequence[int], donor_at: Sequence[int]) -> Pairing:
    """Words of equal token counts token for token, of unequal ones by their last tokens."""
    if len(at) == len(donor_at):
        return Pairing(tuple(at), tuple(donor_at), True)
    return Pairing((at[-1],), (donor_at[-1],), False)


def _replace(
    text: str, places: Sequence[tuple[int, int]], new: str
) -> tuple[str, list[tuple[int, int]]]:
    """The text with every place replaced, and where the replacements stand in it."""
    parts: list[str] = []
    new_places: list[tuple[int, int]] = []
    end_of_last = length = 0
    for start, end in places:
        length += start - end_of_last
        parts += [text[end_of_last:start], new]
        new_places.append((length, length + len(new)))
        length += len(new)
        end_of_last = end
    return "".join([*parts, text[end_of_last:]]), new_places


@dataclass(frozen=True)
class Parting:
    """Where the answers to the prompt and to the donor part.

    shared: the tokens that both begin with. original, modified: the first token of each after
    that. text_…: their texts; empty for an end token.
    """

    shared: tuple[int, ...]
    original: int
    modified: int
    text_shared: str = ""
    text_original: str = ""
    text_modified: str = ""

    def follows(self, answer: Answer) -> str:
        """Whose way an answer goes, up to and with the token at which they part."""
        start = answer.all_tokens[: len(self.shared) + 1]
        whose = {
            (*self.shared, self.original): ORIGINAL,
            (*self.shared, self.modified): MODIFIED,
        }
        return whose.get(start, NEITHER)


@dataclass(frozen=True)
class SwapRow:
    """One layer. p_original, p_modified: see `Swap`. top: of the first token.

    follows: original or modified, whichever way the answer goes, or neither; see `Parting`.
    """

    layer: int
    text: str
    p_original: float
    p_modified: float
    follows: str
    top: tuple[Token, ...] = field(repr=False)


class Swap:
    """A swap on one prompt.

    original, modified: the clean answers to the prompt and to the donor. parting: where they part.
    P(original) and P(modified) are the probabilities of the two answers' first tokens; where the
    answers begin alike, of the first tokens in which they differ, given what they share.
    """

    def __init__(
        self, engine: FullEngine, plan: SwapPlan, layers: Sequence[int], max_tokens: int
    ) -> None:
        self._engine, self._max_tokens = engine, max_tokens
        self.plan = plan
        self._layers = layers
        self._run, donor = self._clean([plan.prompt, plan.donor], max_tokens)
        self._donor_states = donor.states
        self.original, self.modified = self._run.answer, donor.answer
        self.parting = _parting(self.original, self.modified, engine.model.detokenize)

    def rows(self, watched: Watch = lambda rows, total: rows) -> list[SwapRow]:
        """The rows, layers ascending. watched: shows the progress of so many rows."""
        plan, model, parting = self.plan, self._engine.model, self.parting
        donor = self._donor_states or self._engine.states(plan.donor, self._layers)
        inject = plan.injection(donor)
        where_they_part: dict[int, FloatArray] = {}
        if parting.shared:
            (run,) = self._clean([(*plan.prompt, *parting.shared)], 1)
            for layer, answer in self._answers(run, inject, 1):
                where_they_part[layer] = answer.logits
        rows = []
        cells = self._answers(self._run, inject, self._max_tokens)
        for layer, answer in watched(cells, len(self._layers)):
            probabilities = softmax(where_they_part.get(layer, answer.logits))
            rows.append(
                SwapRow(
                    layer=layer,
                    text=answer.text,
                    p_original=float(probabilities[parting.original]),
                    p_modified=float(probabilities[parting.modified]),
                    follows=parting.follows(answer),
                    top=top_tokens(model, answer.logits),
                )
            )
        return sorted(rows, key=lambda row: row.layer)

    def _clean(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[CleanRun]:
        engine = self._engine
        # In one decode, where that changes no bit.
        groups = [prompts] if engine.company == 1 else [[prompt] for prompt in prompts]
        runs = [
            run
            for group in groups
            for run in engine.clean(
                group, self._layers, max_tokens=max_tokens, stops=[None] * len(group)
            )
        ]
        if not all(run.answer.is_finite for run in runs):
            raise NotFiniteError("the model's logits after the prompt are not finite numbers")
        return runs

    def _answers(self, run: CleanRun, inject: Intervention, max_tokens: int) -> Cells:
        cells = self._engine.run(
            [run], [inject], self._layers, max_tokens=max_tokens, examples=[0], stops=[None]
        )
        for _, layer, answer in cells:
            if not answer.is_finite:
                raise NotFiniteError(
                    f"swapped at layer {layer}, the model's logits are not finite numbers"
                )
            yield layer, answer


def _parting(
    original: Answer, modified: Answer, text: Callable[[Sequence[int]], str] = lambda _tokens: ""
) -> Parting:
    """What two answers share, and the first token of each after that. text: of some tokens."""
    one, other = original.all_tokens, modified.all_tokens
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            shared = one[:position]
            return Parting(shared, a, b, text(shared), text([a]), text([b]))
    raise LocalprobeError(
        f"the model answers {original.text!r} to the prompt and to the donor alike: "
        "there is nothing to tell apart; try other words or more --max-tokens"
    )


def flip_layer(rows: Sequence[SwapRow]) -> int | None:
    """The first layer from which on, up to the last row, every row follows the original."""
    flip = None
    for row in reversed(rows):
        if row.follows != ORIGINAL:
            break
        flip = row.layer
    return flip
