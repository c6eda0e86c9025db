"""One prompt under interventions: the answer at each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from localprobe.engine.answers import Token, top_tokens
from localprobe.engine.full import CleanRun, FullEngine
from localprobe.engine.interventions import Donor, Intervention, defined_layers
from localprobe.errors import LocalprobeError
from localprobe.experiments.swap import pair_up, tokens_at
from localprobe.prompts.encoder import Encoder
from localprobe.prompts.words import occurrences

NOT_FINITE = "(not finite)"
"""Instead of an answer, where the model's logits are not finite numbers."""


@dataclass(frozen=True)
class ProbeRow:
    """What the model says when an intervention is made at a layer. top: of the first token."""

    patch: str
    layer: int
    text: str
    top: tuple[Token, ...]


def probe(
    engine: FullEngine,
    run: CleanRun,
    interventions: Sequence[Intervention],
    layers: Sequence[int],
    *,
    max_tokens: int,
) -> Iterator[ProbeRow]:
    """The answers to one prompt under each intervention; layers in the engine's order."""
    for intervention in interventions:
        cells = engine.run(
            [run],
            [intervention],
            defined_layers(intervention, layers),
            max_tokens=max_tokens,
            examples=[0],
            stops=[None],
        )
        for _, layer, answer in cells:
            top = top_tokens(engine.model, answer.logits) if answer.is_finite else ()
            text = answer.text if answer.is_finite else NOT_FINITE
            yield ProbeRow(intervention.name, layer, text, top)


def find_donor(
    engine: FullEngine,
    encoder: Encoder,
    prompt: str,
    donor: str,
    at: str,
    donor_at: str,
    layers: Sequence[int],
) -> Donor:
    """What is injected from a donor prompt, at positions or words of both texts.

    Words of equal token counts go token for token, others by their last tokens.
    Raises LocalprobeError for positions outside, or on the prompt's last token.
    """
    tokens, donor_tokens = encoder.tokens(prompt), encoder.tokens(donor)
    pairs = pair_up(
        find_position(encoder, at, prompt, tokens, what="the prompt"),
        find_position(encoder, donor_at, donor, donor_tokens, what="the donor"),
    )
    if pairs.at[-1] == len(tokens) - 1:
        raise LocalprobeError(
            f"--at {at} is the last token of the prompt, which is never written to"
        )
    return Donor(engine.states(donor_tokens, layers), pairs.at, pairs.donor_at)


def describe(donor: Donor) -> str:
    """Which donor positions go where."""
    pairs = zip(donor.at, donor.donor_at, strict=True)
    return ", ".join(f"{donor_at} of the donor to {at}" for at, donor_at in pairs)


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
        raise LocalprobeError(f"{position!r} is neither a position nor a word of {what}")
    (found,) = tokens_at(encoder, prompt, tokens, places[-1:])
    return found
