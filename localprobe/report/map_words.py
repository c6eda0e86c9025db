"""What a map and a lens show, in words."""

from __future__ import annotations

import math

import numpy as np

from localprobe.experiments.lens import Lens
from localprobe.experiments.map import DENOISING, KNOCKOUT, NEEDED, SWAP, TokenMap
from localprobe.report.score_table import limits
from localprobe.report.terminal import visible

_MOST = 6

DONE = {
    "knockout": "hidden",
    "random": "turned to noise",
    "shuffle": "shuffled",
    "freeze": "frozen",
    "swap": "swapped",
}
EXPLAINED = {
    "knockout": "the last token does not attend to the token",
    "random": "the token's state is noise of its norm",
    "shuffle": "the token's state has its components permuted",
    "freeze": "the token keeps the state of layer k-1",
    "swap": "the token's state is that of the other prompt",
}


def quoted(text: str) -> str:
    """A token in a sentence; an end token has no text."""
    return f"`{visible(text)}`" if text else "(end)"


def probability(text: str) -> str:
    """P(` Paris`), or P(end)."""
    return f"P({quoted(text)})" if text else "P(end)"


def _name(found: TokenMap, group: int) -> str:
    """The text of a group of tokens; where it stands, if others are called the same."""
    text, at = found.tokens[group], found.positions[group]
    if sum(each.strip() == text.strip() for each in found.tokens) == 1:
        return quoted(text)
    return f"{quoted(text)} ({at[0]})" if len(at) == 1 else f"{quoted(text)} ({at[0]}–{at[-1]})"


def explained(found: TokenMap) -> str:
    """What is done in a cell."""
    to_the_end = found.patch in (KNOCKOUT, "freeze")
    window = found.window or (None if to_the_end else 1)
    where = "from layer k on" if window is None else in_layers(window)
    run = ""
    if found.patch == SWAP:
        run = ", in the run of the " + ("second" if found.direction == DENOISING else "first")
    return f"{found.patch}: {where}, {EXPLAINED[found.patch]}{run}"


def in_layers(window: int) -> str:
    return "at layer k" if window == 1 else f"in {window} layers from k on"


def measured(found: TokenMap) -> str:
    """The name of the metric with what it is of."""
    answer = quoted(found.answer)
    if found.metric == "logit-diff":
        return f"logit({answer}) - logit({quoted(found.other or '')})"
    return {
        "prob": probability(found.answer),
        "logprob": f"log {probability(found.answer)}",
        "rank": f"rank of {answer}",
        "kl": "KL from the clean distribution",
    }[found.metric]


def share_of(found: TokenMap) -> str:
    """What the marks of a map are shares of."""
    if found.patch == SWAP:
        back = found.direction == DENOISING
        way = "back to the first prompt" if back else "to the second prompt"
        return f"of the way {way}, by {measured(found)}"
    if found.metric == "kl":
        return "1 - exp(-KL)"
    if found.metric == "prob":
        return f"of {measured(found)} is lost"
    return f"of the answer is lost, by {measured(found)}"


def number(found: TokenMap, value: float) -> str:
    if np.isnan(value):
        return "not finite"
    return f"{value:.0f}" if found.metric == "rank" else f"{value:.2f}"


def clean_line(found: TokenMap) -> str:
    """The clean answer and its number, and that of the other run of a swap."""
    line = f"clean answer: {quoted(found.answer)}"
    if found.direction != DENOISING:
        line += f", P = {found.clean_prob:.2f}"
    here = found.there if found.direction == DENOISING else found.clean
    if found.metric not in ("prob", "kl") or found.there is not None:
        line += f"; {measured(found)} = {number(found, here or 0.0)}"
    if found.there is not None:
        other = found.clean if found.direction == DENOISING else found.there
        answer = f" ({quoted(found.other)})" if found.other is not None else ""
        line += f", of the second prompt{answer} {number(found, other)}"
    return line


def what_it_found(found: TokenMap) -> list[str]:
    """For each token that matters, until which layer; then all the others in one sentence."""
    needed = found.needed()
    lines = [_sentence(found, *each) for each in needed[:_MOST]]
    if len(needed) > _MOST:
        lines.append(f"and {len(needed) - _MOST} more, until earlier layers")
    others = sorted(set(range(len(found.tokens))) - {group for group, _, _ in needed})
    if others:
        worst, costs = _worst(found, others)
        who = "no other token" if needed else "no token by itself"
        at_worst = f"{_short(found)} is {number(found, costs)} at worst ({worst})"
        if found.direction == DENOISING:
            at_worst = f"{_short(found)} is {number(found, costs)} at best ({worst})"
        lines.append(f"{who} {_half(found)}: {at_worst}")
    return lines


def _half(found: TokenMap) -> str:
    """What a token that is needed does."""
    back = found.direction == DENOISING
    if found.metric != "kl":
        return f"{'brings' if back else 'costs'} more than half of the answer{' back' * back}"
    if found.patch == SWAP:
        way = "back to the first prompt's" if back else "to the second prompt's"
        return f"moves the distribution more than halfway {way}"
    return f"moves the distribution by KL > {-math.log(1 - NEEDED):.2f}"


def _sentence(found: TokenMap, group: int, first: int, until: int | None) -> str:
    name = _name(found, group)
    costly = found.values[:, group][found.effect()[:, group] > NEEDED]
    extreme = number(found, _extreme(found, costly))
    if found.direction == DENOISING:
        what = "distribution" if found.metric == "kl" else "answer"
        verb = f"brings the {what} back"
    elif found.metric == "kl":
        verb = "matters"
    else:
        verb = "decides" if found.patch == SWAP else "is needed"
    shown, when = list(found.layers), "earlier"
    if until is not None and until < found.n_layer:
        where = f"until layer {until} ({until / found.n_layer:.0%} of depth)"
        where += limits(found.patch, until, shown, found.n_layer)
    elif len(costly) == len([layer for layer in shown if layer >= first]):
        where, when = "at every layer shown", "there"
    else:
        where = f"up to layer {shown[-1]}, the last one shown"
    if first > shown[0]:
        where += f", from {first} on"
    return f"{name} {verb} {where}; {DONE[found.patch]} {when}: {_short(found)} {extreme}"


def _short(found: TokenMap) -> str:
    names = {"prob": "P", "logit-diff": "the lead", "logprob": "log P", "rank": "rank", "kl": "KL"}
    return names[found.metric]


def _extreme(found: TokenMap, values: np.ndarray) -> float:
    """The one among some values that is farthest from the run as it is."""
    upwards = (found.direction == DENOISING) != (found.metric in ("rank", "kl"))
    return float(values.max() if upwards else values.min())


def _worst(found: TokenMap, groups: list[int]) -> tuple[str, float]:
    # Not cut at 0: of those that all cost nothing, one costs least.
    share = found.share()[:, groups]
    share[np.isnan(share)] = -np.inf
    row, column = np.unravel_index(int(share.argmax()), share.shape)
    group = groups[int(column)]
    where = f"at layer {found.layers[row]}"
    if found.patch in (KNOCKOUT, "freeze") and found.window is None:
        where = f"from layer {found.layers[row]} on"
    what = f"{_name(found, group)} {DONE[found.patch]} {where}"
    return what, float(found.values[row, group])


def what_the_lens_shows(found: Lens) -> str:
    layer = found.appears()
    shown = list(found.layers)
    if layer is None:
        return (
            f"by the logit lens the last token does not say {quoted(found.token)} at layer "
            f"{shown[-1]}, the last one shown"
        )
    where = f"layer {layer} on ({layer / found.n_layer:.0%} of depth)"
    where += limits("lens", layer, shown, found.n_layer)
    return f"by the logit lens the last token says {quoted(found.token)} from {where}"


def both(found: TokenMap, seen: Lens) -> str:
    """The title of the paper, on one prompt; where it is so, and every layer is shown."""
    needed, layer = found.needed(), seen.appears()
    if min(len(found.layers), len(seen.layers)) < found.n_layer:
        return ""
    if found.patch != KNOCKOUT or found.window is not None or not needed or layer is None:
        return ""
    group, _, until = needed[0]
    if until is None or until > layer:
        return ""
    return (
        f"attend first: {_name(found, group)} is read until layer {until}; "
        f"consolidate later: {quoted(seen.token)} appears at {layer}"
    )
