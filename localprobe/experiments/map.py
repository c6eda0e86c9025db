"""The map: which token is needed until which layer. One cell for every layer and token.

knockout   from layer k on the last token does not attend to the token
random, shuffle, freeze   the intervention on that token alone
swap       the token's state is that of the same token of a second prompt
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localprobe.engine import interventions
from localprobe.engine.answers import softmax
from localprobe.engine.interventions import FloatArray, Inject, only_at
from localprobe.engine.tokens import Act, WholePasses
from localprobe.errors import LocalprobeError, NotFiniteError, did_you_mean
from localprobe.llama.model import Model
from localprobe.llama.text import Vocabulary
from localprobe.prompts.encoder import Encoder
from localprobe.prompts.words import occurrences, word_groups
from localprobe.runs.display import shown_by

KNOCKOUT, SWAP = "knockout", "swap"
PATCHES = (KNOCKOUT, "random", "shuffle", "freeze", SWAP)
METRICS = ("prob", "logit-diff", "logprob", "rank", "kl")
GROUPS = ("words", "tokens")
NOISING, DENOISING = "noising", "denoising"

NEEDED = 0.5
"""A token is needed where more than this share of the answer is lost without it."""

_WORST_RANK = 1000

Values = NDArray[np.float64]
Progress = Callable[[Iterator[int], int], Iterable[int]]


@dataclass(frozen=True, eq=False)
class TokenMap:
    """What the model says when a token is hidden, or its state written over, at a layer.

    values: (n_layers, n_groups), the metric in every cell; nan where logits were not finite.
    layers: (n_layers,), of its rows. tokens: the texts of its columns, groups of past tokens, whose
    positions are in `positions`. clean: the metric of the prompt as it is; there: that of the
    second prompt of a swap (denoising: of the first one, whose states come in).
    probs: (n_layers, n_groups), P(answer). top_ids, top_probs: the likeliest next token.
    answer, answer_id: the clean answer's first token; other, other_id: of the one it is told from.
    """

    patch: str
    metric: str
    window: int | None
    direction: str
    n_layer: int
    prompt: str
    all_tokens: tuple[int, ...]
    tokens: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    layers: NDArray[np.int_]
    values: Values
    probs: Values
    top_ids: NDArray[np.int_]
    top_probs: Values
    clean: float
    clean_prob: float
    there: float | None
    answer: str
    answer_id: int
    other: str | None
    other_id: int | None

    def __repr__(self) -> str:
        cut = self.prompt if len(self.prompt) <= 40 else self.prompt[:39] + "…"
        return (
            f"<TokenMap {cut!r}, {self.patch}, clean answer {self.answer!r}: "
            f"{self.metric} in {len(self.layers)} layers x {len(self.tokens)} groups>"
        )

    def effect(self) -> Values:
        """(n_layers, n_groups), 0 … 1: how much of the way the answer is gone, or brought back.

        Of P(answer), the share that is lost; of a swap, the share of the way to the other run.
        """
        share: Values = np.clip(self.share(), 0, 1)
        return share

    def share(self) -> Values:
        """As `effect`; below 0 where there is more of the answer, above 1 past the other run."""
        here, values = _scale(self.metric, np.array(self.clean)), _scale(self.metric, self.values)
        if self.there is not None:
            there = float(_scale(self.metric, np.array(self.there)))
        else:
            there = _scale_of_nothing(self.metric)
        way = there - float(here)
        if way == 0:
            return np.zeros_like(self.values)
        share: Values = (values - float(here)) / way
        return share

    def needed(self) -> list[tuple[int, int, int | None]]:
        """Groups whose loss costs more than half of the answer somewhere: (group, from, until).

        from: the first layer shown at which it does; until: the first one from which on it no
        longer does; where it does at the last one shown, n_layer if that is the model's last, and
        else None. In order of `until`, the latest first.
        """
        found = []
        end = self.n_layer if int(self.layers[-1]) == self.n_layer - 1 else None
        for group, column in enumerate(self.effect().T):
            costly = np.flatnonzero(column > NEEDED)
            if len(costly):
                last = int(costly[-1]) + 1
                until = int(self.layers[last]) if last < len(self.layers) else end
                found.append((group, int(self.layers[costly[0]]), until))
        latest = self.n_layer
        return sorted(found, key=lambda each: (-(latest if each[2] is None else each[2]), each[0]))

    def plot(self, path: Any = None) -> Any:
        """The map as a figure: written to a file where a path is given, else a matplotlib figure.

        Raises LocalprobeError where matplotlib is not there.
        """
        return shown_by("map_figure").figure(self, path)

    def _repr_html_(self) -> str:
        return str(shown_by("map_files").map_html(self))


def _scale(metric: str, values: Values) -> Values:
    """The metric on a scale on which the way to the loss of the answer is a straight one."""
    if metric == "logprob":
        return np.exp(values)
    if metric == "rank":
        return np.log(values)
    if metric == "kl":
        return np.exp(-values)
    return values


def _scale_of_nothing(metric: str) -> float:
    """What is left where the answer is gone: P = 0, a lead of 0, a rank far down, another world."""
    return float(np.log(_WORST_RANK)) if metric == "rank" else 0.0


@dataclass(frozen=True)
class Measure:
    """From logits to what is shown in a cell."""

    metric: str
    answer: int
    other: int | None
    clean: FloatArray

    def of(self, logits: FloatArray) -> tuple[Values, Values, NDArray[np.int_], Values]:
        """Of logits (n, n_vocab): metric, P(answer), likeliest token, its P; (n,) each."""
        with np.errstate(invalid="ignore"):  # rows that are not finite are said to be so
            return self._of(logits)

    def _of(self, logits: FloatArray) -> tuple[Values, Values, NDArray[np.int_], Values]:
        best = logits.argmax(axis=1)
        rows = np.arange(len(logits))
        top = logits[rows, best].astype(np.float64)
        total = np.exp(logits - top[:, None].astype(np.float32)).sum(axis=1, dtype=np.float64)
        log_probs = logits[:, self.answer] - top - np.log(total)
        probs = np.exp(log_probs)
        if self.metric == "prob":
            values = probs
        elif self.metric == "logprob":
            values = log_probs
        elif self.metric == "rank":
            values = 1.0 + (logits > logits[:, [self.answer]]).sum(axis=1)
        elif self.metric == "kl":
            shares = softmax(self.clean)
            log_clean = np.log(np.maximum(shares, np.finfo(np.float64).tiny))
            log_cells = logits - (top + np.log(total))[:, None]
            values = np.maximum(0.0, (shares * (log_clean - log_cells)).sum(axis=1))
        else:
            values = (logits[:, self.answer] - logits[:, self.other]).astype(np.float64)
        lost = ~np.isfinite(logits).all(axis=1)
        values = np.where(lost, np.nan, values)
        probs = np.where(lost, np.nan, probs)
        return values, probs, np.where(lost, -1, best), np.where(lost, np.nan, 1 / total)

    def one(self, logits: FloatArray) -> tuple[float, float]:
        """The metric and P(answer) of logits (n_vocab,)."""
        values, probs, _, _ = self.of(logits[None])
        return float(values[0]), float(probs[0])


Group = tuple[str, tuple[int, ...]]
"""A name, and positions of past tokens that are acted on together."""


def groups_of(encoder: Encoder, tokens: Sequence[int], group: str) -> list[Group]:
    """The past tokens of a prompt in groups: their text, their positions."""
    pieces = encoder.pieces(tokens)
    found = word_groups(pieces) if group == "words" else [[p] for p in range(len(tokens))]
    past = [[p for p in each if p < len(tokens) - 1] for each in found]
    model = encoder.model
    return [
        (
            b"".join(model.piece(tokens[p], control=True) for p in each).decode(errors="replace"),
            tuple(each),
        )
        for each in past
        if each
    ]


def first_token(model: Vocabulary, text: str, like: int) -> int:
    """The first token of a text; with a space before it where the token `like` begins with one.

    It is that of a text that goes on: some tokenizers put a space before whatever they are given.
    """
    if not text:
        raise LocalprobeError("an empty text has no token")
    if model.piece(like).startswith(b" ") and not text[:1].isspace():
        text = " " + text
    for before in ("", "\n"):
        tokens = model.tokenize(before + text, begin=False)
        pieces = [model.piece(token) for token in tokens]
        for start in range(len(tokens)):
            if b"".join(pieces[start:]) == text.encode():
                return tokens[start]
    tokens = model.tokenize(text, begin=False)
    if not tokens:
        raise LocalprobeError(f"{text!r} has no token")
    return tokens[0]


def check_patch(patch: str, direction: str, metric: str | None, window: int | None) -> None:
    """Raise LocalprobeError for what no map can be made of."""
    if patch not in PATCHES:
        raise LocalprobeError(f"unknown patch {patch!r} of a map; {did_you_mean(patch, PATCHES)}")
    if direction not in (NOISING, DENOISING):
        wanted = did_you_mean(direction, (NOISING, DENOISING))
        raise LocalprobeError(f"unknown direction {direction!r}; {wanted}")
    if metric is not None and metric not in METRICS:
        raise LocalprobeError(f"unknown metric {metric!r}; {did_you_mean(metric, METRICS)}")
    if window is not None and window < 1:
        raise LocalprobeError("--window must be at least 1 layer")


def check_window(window: int | None, n_layer: int) -> None:
    """Raise LocalprobeError where it is longer than the model."""
    if window is not None and window > n_layer:
        raise LocalprobeError(
            f"--window {window} is more than the {n_layer} layer{'s' * (n_layer != 1)} of the model"
        )


def acts_of(
    patch: str,
    positions: Iterable[tuple[int, ...]],
    *,
    seed: int,
    window: int | None,
    donor: FloatArray | None,
    example: int = 0,
) -> list[Act]:
    """What is done to each group of tokens. donor: (n_layer, n_tokens, n_embd), for a swap."""
    if patch == KNOCKOUT:
        return [Act(at, None, window) for at in positions]
    if patch == SWAP:
        assert donor is not None
        states = dict(enumerate(donor))
        return [Act(at, Inject(states, at, at), window) for at in positions]
    whole = interventions.by_name(patch, seed)
    return [Act(at, only_at(whole, at), window, example) for at in positions]


def fill(
    prompt: WholePasses,
    acts: Sequence[Act],
    layers: Sequence[int],
    measure: Measure,
    progress: Progress = lambda cells, total: cells,
) -> tuple[list[int], Values, Values, NDArray[np.int_], Values]:
    """Every cell: the layers at which the acts are defined, then what `Measure.of` gives of each.

    progress: is given the numbers of cells as they are done, and how many there will be.
    """
    defined = [layer for layer in layers if layer >= acts[0].first_layer]
    if not defined:
        name = acts[0].intervention.name if acts[0].intervention else KNOCKOUT
        raise LocalprobeError(f"{name} is defined from layer {acts[0].first_layer} on")
    row_of = {layer: row for row, layer in enumerate(defined)}
    shape = len(defined), len(acts)
    values, probs, top_probs = (np.full(shape, np.nan) for _ in range(3))
    top_ids = np.full(shape, -1)

    def cells() -> Iterator[int]:
        for layer, numbers, logits in prompt.cells(acts, defined):
            row = row_of[layer]
            found = measure.of(logits)
            values[row, numbers], probs[row, numbers] = found[0], found[1]
            top_ids[row, numbers], top_probs[row, numbers] = found[2], found[3]
            yield len(numbers)

    for _ in progress(cells(), shape[0] * shape[1]):
        pass
    return defined, values, probs, top_ids, top_probs


def finite(logits: FloatArray) -> FloatArray:
    """The logits; raises NotFiniteError where there is no answer."""
    if not np.isfinite(logits).all():
        raise NotFiniteError("the model's logits after the prompt are not finite numbers")
    return logits


OpenPrompt = Callable[[Sequence[int], "int | None"], WholePasses]
"""Tokens and the first row that will change, None where tokens are hidden -> the prompt."""


@dataclass(frozen=True)
class MapPlan:
    """What a map is to be made of; see `localprobe map --help`. Checked when it is made."""

    patch: str = KNOCKOUT
    metric: str | None = None
    group: str = "words"
    window: int | None = None
    seed: int = 0
    against: str | None = None
    swap: tuple[str, str] | None = None
    against_answer: str | None = None
    direction: str = NOISING
    over_task: bool = False
    """The second prompt, and the answer to tell from, are those of each example's donor."""

    def __post_init__(self) -> None:
        check_patch(self.patch, self.direction, self.metric, self.window)
        if self.group not in GROUPS:
            raise LocalprobeError(
                f"unknown group {self.group!r}; {did_you_mean(self.group, GROUPS)}"
            )
        if self.over_task:
            if (self.against, self.swap, self.against_answer) != (None, None, None):
                raise LocalprobeError(
                    "--against, --swap and --against-answer are for the map of one prompt"
                )
        elif self.patch == SWAP:
            if (self.against is None) == (self.swap is None):
                raise LocalprobeError("a swap needs --against PROMPT2, or --swap OLD NEW")
            if self.against_answer is not None:
                raise LocalprobeError("a swap is told from the second prompt's answer")
        elif self.against is not None or self.swap is not None:
            raise LocalprobeError("--against and --swap are for --patch swap")
        elif self.metric == "logit-diff" and self.against_answer is None:
            raise LocalprobeError("logit-diff needs --against-answer TEXT, the answer to tell from")
        if self.patch != SWAP and self.direction != NOISING:
            raise LocalprobeError("--direction is for --patch swap")

    @property
    def needs_donor(self) -> bool:
        """Whether each example of a task needs another one."""
        return self.patch == SWAP or self.metric == "logit-diff"


@dataclass(frozen=True)
class Donor:
    """What an example of a task is told from: another prompt, the first token of its answer."""

    prompt: str
    answer_id: int


def make_map(
    open_prompt: OpenPrompt,
    encoder: Encoder,
    text: str,
    plan: MapPlan,
    layers: Sequence[int],
    progress: Progress = lambda cells, total: cells,
    written: Sequence[int] = (),
    groups: Sequence[Group] | None = None,
    example: int = 0,
    told_from: Donor | None = None,
) -> TokenMap:
    """The map of a prompt. written: tokens of its answer, taken as a part of the prompt.

    groups: of past tokens; those of the plan if None. example: what random draws depend on.
    told_from: of a plan over a task that needs a donor.
    Raises LocalprobeError where the plan does not fit the prompt.
    """
    tokens = [*encoder.tokens(text), *written]
    hides = plan.patch == KNOCKOUT
    model = encoder.model
    check_window(plan.window, model.n_layer)
    if plan.patch == SWAP:
        second_text = plan.against if plan.swap is None else swapped(text, *plan.swap)
        if told_from is not None:
            second_text = told_from.prompt
        others = encoder.tokens(second_text or "")
        if len(others) != len(tokens):
            raise LocalprobeError(
                f"the second prompt has {len(others)} tokens and the first one {len(tokens)}; "
                "a swap goes token for token (see localprobe tokens)"
            )
        # The run that is changed, and the one whose states come in.
        pair = (tokens, others) if plan.direction == NOISING else (others, tokens)
        source = open_prompt(pair[1], None)
        source_logits, donor = finite(source.clean), source.states()
        prompt = open_prompt(pair[0], 0)
        clean, second = finite(prompt.clean), source_logits
        if plan.direction == DENOISING:
            clean, second = second, clean
        answer, other = int(clean.argmax()), int(second.argmax())
        metric = plan.metric or "logit-diff"
        if answer == other:
            said = model.detokenize([answer])
            if metric == "logit-diff":
                raise LocalprobeError(
                    f"both prompts are answered with {said!r}: there is no difference to follow; "
                    "take other prompts, or --metric kl"
                )
    else:
        donor = None
        prompt = open_prompt(tokens, None if hides else 0)
        clean = finite(prompt.clean)
        answer, other = int(clean.argmax()), None
        if plan.against_answer is not None:
            other = first_token(model, plan.against_answer, answer)
            if other == answer:
                raise LocalprobeError(f"{plan.against_answer!r} begins as the answer itself does")
        elif told_from is not None:
            other = told_from.answer_id
        metric = plan.metric or ("prob" if other is None else "logit-diff")
    measure = Measure(metric, answer, other, clean)
    if groups is None:
        groups = groups_of(encoder, prompt.tokens, plan.group)
        if donor is not None:
            groups = [(_both(model, label, at, source.tokens), at) for label, at in groups]
    acts = acts_of(
        plan.patch,
        [at for _, at in groups],
        seed=plan.seed,
        window=plan.window,
        donor=donor,
        example=example,
    )
    here, here_prob = measure.one(prompt.clean)
    found = fill(prompt, acts, layers, measure, progress)
    return TokenMap(
        patch=plan.patch,
        metric=metric,
        window=plan.window,
        direction=plan.direction,
        n_layer=model.n_layer,
        prompt=text,
        all_tokens=tuple(prompt.tokens),
        tokens=tuple(label for label, _ in groups),
        positions=tuple(at for _, at in groups),
        layers=np.array(found[0]),
        values=found[1],
        probs=found[2],
        top_ids=found[3],
        top_probs=found[4],
        clean=here,
        clean_prob=here_prob,
        there=None if donor is None else measure.one(source_logits)[0],
        answer=model.detokenize([answer]),
        answer_id=answer,
        other=None if other is None else model.detokenize([other]),
        other_id=other,
    )


def _both(model: Model, here: str, at: tuple[int, ...], donor: Sequence[int]) -> str:
    """The text of tokens, and where the donor has another one, that one, too."""
    there = b"".join(model.piece(donor[p], control=True) for p in at).decode(errors="replace")
    return here if here == there else f"{here}/{there.strip()}"


def swapped(text: str, old: str, new: str) -> str:
    """The text with every OLD replaced by NEW. Raises LocalprobeError where there is none."""
    places = occurrences(old, text) if old else []
    if not places or not new.strip() or old == new:
        raise LocalprobeError(
            f"--swap {old!r} {new!r}: OLD must be in the prompt, and NEW another word"
        )
    parts, start = [], 0
    for first, end in places:
        parts += [text[start:first], new]
        start = end
    return "".join([*parts, text[start:]])
