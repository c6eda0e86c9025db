"""One prompt under interventions: the answer at each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from localprobe.engine.answers import Token, softmax, top_tokens
from localprobe.engine.full import Answer, CleanRun, FullEngine
from localprobe.engine.interventions import Donor, Intervention, defined_layers
from localprobe.errors import LocalprobeError
from localprobe.experiments.swap import tokens_at
from localprobe.prompts.encoder import Encoder
from localprobe.prompts.words import did_you_mean_word, occurrences

NOT_FINITE = "(not finite)"
"""Instead of an answer, where the model's logits are not finite numbers."""


@dataclass(frozen=True)
class Draw:
    """What the model says with one seed. See `ProbeRow`."""

    seed: int
    text: str
    p_clean: float | None
    is_clean: bool


@dataclass(frozen=True)
class ProbeRow:
    """What the model says when an intervention is made at a layer. top: of the first token.

    p_clean: the probability of the clean answer's first token; None where logits are not finite.
    is_clean: whether the answer is the clean one, token for token.
    draws: one a seed, of interventions that are drawn. Of several, text and top are those of the
    first, p_clean is the mean of those that are finite, and is_clean says whether all are clean.
    """

    patch: str
    layer: int
    text: str
    top: tuple[Token, ...] = field(repr=False)
    p_clean: float | None = None
    is_clean: bool = False
    draws: tuple[Draw, ...] = field(default=(), repr=False)

    @property
    def p_range(self) -> tuple[float | None, float | None]:
        """The least and the greatest p_clean of all draws."""
        found = _finite(draw.p_clean for draw in self.draws) or _finite([self.p_clean])
        return (min(found), max(found)) if found else (None, None)

    @property
    def n_clean(self) -> int:
        """In how many of the draws the answer is the clean one."""
        return sum(draw.is_clean for draw in self.draws) if self.draws else int(self.is_clean)

    @property
    def clean_share(self) -> float:
        """Of all draws, the share whose answer is the clean one."""
        return self.n_clean / max(1, len(self.draws))


def probe(
    engine: FullEngine,
    run: CleanRun,
    interventions: Sequence[tuple[Intervention, int | None]],
    layers: Sequence[int],
    *,
    max_tokens: int,
) -> Iterator[ProbeRow]:
    """The answers to one prompt under each intervention; layers in the engine's order.

    interventions: each with its seed if it is drawn. Several draws of one kind stand next to each
    other, share decodes, and come as a row each, to be `gathered`.
    """
    first_token = run.answer.all_tokens[0]
    for alike in _alike(interventions):
        n = len(alike)
        cells = engine.run(
            [run] * n,
            [intervention for intervention, _ in alike],
            defined_layers(alike[0][0], layers),
            max_tokens=max_tokens,
            examples=[0] * n,
            stops=[None] * n,
        )
        for number, layer, answer in cells:
            intervention, seed = alike[number]
            found = _row(engine, intervention.name, layer, answer, first_token)
            is_clean = answer.is_finite and answer.tokens == run.answer.tokens
            draws = () if seed is None else (Draw(seed, found.text, found.p_clean, is_clean),)
            yield replace(found, is_clean=is_clean, draws=draws)


def _row(engine: FullEngine, patch: str, layer: int, answer: Answer, first_token: int) -> ProbeRow:
    if not answer.is_finite:
        return ProbeRow(patch, layer, NOT_FINITE, ())
    top = top_tokens(engine.model, answer.logits)
    p_clean = float(softmax(answer.logits)[first_token])
    return ProbeRow(patch, layer, answer.text, top, p_clean)


def _alike(
    interventions: Sequence[tuple[Intervention, int | None]],
) -> list[list[tuple[Intervention, int | None]]]:
    groups: dict[str, list[tuple[Intervention, int | None]]] = {}
    for each in interventions:
        groups.setdefault(each[0].name, []).append(each)
    return list(groups.values())


def gathered(rows: Iterable[ProbeRow]) -> list[ProbeRow]:
    """One row for each intervention and layer, in the order of the first; its draws by seed."""
    places: dict[tuple[str, int], list[ProbeRow]] = {}
    for row in rows:
        places.setdefault((row.patch, row.layer), []).append(row)
    return [_joined(each) for each in places.values()]


def _joined(rows: Sequence[ProbeRow]) -> ProbeRow:
    """The rows of all draws of a cell as one."""
    rows = sorted(rows, key=lambda row: [draw.seed for draw in row.draws])
    found = _finite(row.p_clean for row in rows)
    return replace(
        rows[0],
        p_clean=sum(found) / len(found) if found else None,
        is_clean=all(row.is_clean for row in rows),
        draws=tuple(draw for row in rows for draw in row.draws),
    )


def _finite(shares: Iterable[float | None]) -> list[float]:
    return [share for share in shares if share is not None]


def survives_from(rows: Sequence[ProbeRow]) -> int | None:
    """Of one intervention's rows: the layer from which on all of them have the clean answer."""
    found = None
    for row in sorted(rows, key=lambda row: row.layer, reverse=True):
        if not row.is_clean:
            break
        found = row.layer
    return found


@dataclass(frozen=True)
class Injection:
    """What is injected, and into which tokens. tokens: of the donor prompt.

    token_for_token: whether both words have the same number of tokens. text: which donor tokens
    went where, in words.
    """

    donor: Donor
    prompt: str
    tokens: tuple[int, ...]
    token_for_token: bool
    text: str


def find_donor(
    engine: FullEngine,
    encoder: Encoder,
    prompt: str,
    donor: str,
    at: str,
    donor_at: str,
    layers: Sequence[int],
) -> Injection:
    """What is injected from a donor prompt, at positions or words of both texts; see `paired`.

    Raises LocalprobeError for positions outside, or on the prompt's last token.
    """
    tokens, donor_tokens = encoder.tokens(prompt), encoder.tokens(donor)
    to = find_past(encoder, at, prompt, tokens)
    whole = find_position(encoder, donor_at, donor, donor_tokens, what="the donor")
    pairs = paired(to, whole)
    text = f"{named(encoder, tokens, to)} gets {named(encoder, donor_tokens, pairs)}"
    text += unequal(len(to), len(whole))
    states = engine.states(donor_tokens, layers)
    return Injection(
        Donor(states, tuple(to), tuple(pairs)),
        donor,
        tuple(donor_tokens),
        len(to) == len(whole),
        text,
    )


def unequal(n: int, n_donor: int) -> str:
    """How words of unequal numbers of tokens were paired, in words."""
    if n == n_donor:
        return ""
    if n_donor == 1:
        return f", at each of the {n}"
    if n < n_donor:
        return f"; {n_donor} tokens for {n}: only the last of them"
    surplus = n - n_donor + 1
    return f"; {n_donor} tokens for {n}: paired from the end, the first {surplus} get the same"


def paired(at: Sequence[int], donor_at: Sequence[int]) -> list[int]:
    """For each position of a word, that of the donor's word: the last gets the last, and so on.

    All of the word is written. Where the donor's is shorter, the tokens that are left over in
    front get its first one; where it is longer, its first ones are not used.
    """
    surplus = len(donor_at) - len(at)
    return [donor_at[max(0, i + surplus)] for i in range(len(at))]


def named(encoder: Encoder, tokens: Sequence[int], positions: Sequence[int]) -> str:
    """Tokens in words: ` E|iff|el` (3–5)."""
    parts: list[str] = []
    for run in _runs(sorted(set(positions))):
        pieces = encoder.pieces([tokens[position] for position in run])
        text = "|".join(piece.decode(errors="replace") for piece in pieces)
        where = str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}"
        parts.append(f"`{text}` ({where})")
    return ", ".join(parts)


def _runs(positions: Sequence[int]) -> list[list[int]]:
    """Neighbours together."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and runs[-1][-1] == position - 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def find_past(encoder: Encoder, at: str, prompt: str, tokens: Sequence[int]) -> list[int]:
    """The positions of past tokens, by an index or a word.

    Raises LocalprobeError for what is not in the prompt, and for its last token.
    """
    found = find_position(encoder, at, prompt, tokens, what="the prompt")
    if found[-1] == len(tokens) - 1:
        raise LocalprobeError(
            f"--at {at} is the last token of the prompt, which is never written to"
        )
    return found


def find_position(
    encoder: Encoder, position: str, prompt: str, tokens: Sequence[int], *, what: str
) -> list[int]:
    """Token positions of an index (negative: from the end) or of the last place of a word."""
    try:
        index = int(position)
    except ValueError:
        pass
    else:
        if not -len(tokens) <= index < len(tokens):
            raise LocalprobeError(
                f"position {index} is outside {what}, whose tokens are 0 to {len(tokens) - 1}"
            )
        return [index % len(tokens)]
    places = occurrences(position, prompt) if position else []
    if not places:
        raise LocalprobeError(
            f"{position!r} is neither a position nor a word of {what}"
            f"{did_you_mean_word(position, prompt)}"
        )
    (found,) = tokens_at(encoder, prompt, tokens, places[-1:])
    return found
