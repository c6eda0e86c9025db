"""What a descent says: from which layer on answers survive, and each example's own layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from localprobe.engine.interventions import first_layer
from localprobe.report.terminal import new_table
from localprobe.runs.descent import Own
from localprobe.runs.intervals import wilson
from localprobe.runs.tally import SWAP, Score, Tally
from localprobe.runs.transitions import Limits, needed

_WIDE = 54


@dataclass(frozen=True)
class OwnLayers:
    """Examples' own transitions. layers: of those that have one, ascending. n_never: have none."""

    layers: tuple[int, ...]
    n_never: int
    n_gaps: int
    checked: int
    back: int

    @staticmethod
    def of(found: Sequence[Own]) -> OwnLayers:
        layers = tuple(sorted(each.layer for each in found if each.layer is not None))
        return OwnLayers(
            layers,
            sum(each.layer is None for each in found),
            sum(each.has_gap for each in found),
            sum(each.checked for each in found),
            sum(each.back for each in found),
        )

    def quantiles(self) -> list[int | None]:
        """Quartiles and median, low to high: layers that some example has, or None for never."""
        values: list[int | None] = [*self.layers, *[None] * self.n_never]
        if not values:
            return [None] * 3
        # The lowest value that has at least so many of them at or below it.
        return [values[max(0, -(-len(values) * k // 4) - 1)] for k in (1, 2, 3)]


def transition_report(
    console: Console, tally: Tally, n_layer: int, so_far: str | None = None
) -> RenderableType:
    """A row an intervention, and below what that rests on. tally: of a descent.

    so_far: how much there is of one that is unfinished.
    """
    is_narrow = console.width < _WIDE
    assert tally.descent is not None
    table = new_table("")
    headers = ("from\nlayer", "95 %", "own\nmedian", "depth", "own\nquartiles")
    for header in headers[:3] if is_narrow else headers:
        table.add_column(header, justify="right", no_wrap=True)
    lines = []
    for patch in tally.patches:
        layer, own = tally.transition(patch), OwnLayers.of(tally.own(patch))
        low, median, high = own.quantiles()
        where = "–" if layer is None else str(layer)
        cells = [where, between(tally.limits(patch)), _or_never(median)]
        if not is_narrow:
            cells.append("–" if layer is None else f"{layer / n_layer:.0%}")
            cells.append(f"{_or_never(low)}–{_or_never(high)}")
        table.add_row(patch, *cells)
        lines += [_distribution(patch, own), *_below(patch, own, tally)]
    if not so_far and (wide := tally.wider_than_asked()):
        of = "1 example" if tally.baseline.n == 1 else f"{tally.baseline.n} examples"
        lines.append(
            f"--until-width {tally.until_width}: not reached with the {of} there were, by "
            f"{', '.join(wide)}"
        )
    return Group(
        table,
        *(Text(line) for line in lines),
        "",
        Text(_meaning(tally), style="dim"),
    )


_MEANING = {
    "freeze": "past tokens need not change any more",
    "skip": "blocks need not attend any more",
    "random": "noise may stand for past tokens",
    "shuffle": "past tokens may be shuffled",
}
_FEWEST = 10


def sentences(tally: Tally, n_layer: int) -> list[str]:
    """What several interventions say in plain words, each sentence with its figures.

    None of too few examples, and none where answers have degrees or the baseline is not 1: what a
    share of the baseline says of single answers is then not known. What intervals do not tell
    apart is not said to differ.
    """
    found = {patch: tally.transition(patch) for patch in tally.patches if patch != SWAP}
    ends = {patch: between(tally.limits(patch)) for patch in found}
    there = {patch: layer for patch, layer in found.items() if layer is not None}
    if len(found) < 2 or not there or any(tally.limits(patch) is None for patch in found):
        return []
    first = min(there, key=lambda patch: there[patch])
    last = max(
        (patch for patch in found if patch != first),
        key=lambda patch: there.get(patch, n_layer),
    )
    layer = there[first]
    at, below = (tally.score(first, tally.metric, k) for k in (layer, layer - 2))
    if at is None or at.n < _FEWEST:
        return []
    layers = next(column.layers for column in tally.columns if column.patch == first)
    what = _MEANING.get(first, f"{first} does no harm any more")
    said = [
        f"From layer {layer} of {n_layer} on ({layer / n_layer:.0%} of depth)"
        f"{limits(first, layer, layers, n_layer)}, {what} for at least {tally.kept:.0%} of the "
        f"answers ({at.n} examples; 95 % {ends[first]}).",
        f"{_order(first, last, tally)} (95 % {ends[first]} and {ends[last]}).",
    ]
    if below is not None and at.low > _most(below):
        said.append(
            f"It is a matter of few layers: under {first}, {at.score:.2f} are right at layer "
            f"{layer} (95 % {at.low:.2f}–{at.high:.2f}), and two layers below {below.score:.2f} "
            f"({below.low:.2f}–{below.high:.2f})."
        )
    return said


def _order(first: str, last: str, tally: Tally) -> str:
    """Which of two is survived from a lower layer on, as far as their intervals show it."""
    one, other = tally.limits(first), tally.limits(last)
    layer = tally.transition(last)
    where = "at no layer" if layer is None else f"from layer {layer} on"
    if is_before(one, other):
        return f"{last.capitalize()} is survived later than {first}: {where}"
    if layer == tally.transition(first):
        return f"{first.capitalize()} and {last} are survived from the same layer on"
    not_shown = f"That {last} ({where}) is survived later than {first} is not shown:"
    if other is not None and other.low is None:
        return f"{not_shown} {first}, too, may be survived at none"
    return f"{not_shown} their intervals share layers"


def _most(score: Score) -> float:
    """The upper end of an interval, were all answers right that count as lost."""
    if not score.assumed:
        return score.high
    return wilson(score.score * score.n + score.assumed, score.n)[1]


def is_before(one: Limits | None, other: Limits | None) -> bool:
    """Whether all of an interval lies at lower layers than all of the other one."""
    if one is None or other is None or one.high is None:
        return False
    return other.low is None or one.high < other.low


def limits(patch: str, layer: int, shown: Sequence[int], n_layer: int) -> str:
    """What "from this layer on" lacks where not all later ones, or not the one below, are shown."""
    asked = range(max(layer - 1, first_layer(patch)), n_layer)
    return "" if set(asked) <= set(shown) else ", as far as shown"


def between(limits: Limits | None) -> str:
    """As 21–23; 22–: without an upper end; –: nowhere."""
    if limits is None:
        return "?"
    if limits.low is None:
        return "none"
    return f"{limits.low}–{'' if limits.high is None else limits.high}"


def _or_never(layer: int | None) -> str:
    return "∅" if layer is None else str(layer)


def _distribution(patch: str, own: OwnLayers) -> str:
    counts = Counter(own.layers)
    found = [f"{layer}:{counts[layer]}" for layer in sorted(counts)]
    if own.n_never:
        found.append(f"∅:{own.n_never}")
    gaps = f"; {own.n_gaps} with gaps above" if own.n_gaps else ""
    return f"{patch:<8} own layer:examples  {' '.join(found)}{gaps}"


def _below(patch: str, own: OwnLayers, tally: Tally) -> list[str]:
    if not own.checked:
        return []
    low, high = wilson(own.back, own.checked)
    share = f"{own.back / own.checked:.0%}, 95 % {low:.0%} to {high:.0%}"
    line = f"{'':<8} tried below at random: {own.checked}; right again: {own.back} ({share})"
    if (possible := tally.transition_if_back(patch, high)) != tally.transition(patch):
        line += f"; were as many right everywhere below, it could be from layer {possible} on"
    return [line]


def _meaning(tally: Tally) -> str:
    descent = tally.descent
    assert descent is not None
    in_a_row = "one layer" if descent.patience == 1 else f"{descent.patience} layers in a row"
    lines = [
        f"Each example goes down from the last layer until its answer is lost at {in_a_row}; from "
        "there on down it counts as lost. Its own layer is the lowest one that held (∅: none)."
    ]
    if not descent.check:
        lines.append(
            "Whether answers come back further down was not tried; --check 0.1 tries a tenth."
        )
    n, least = tally.baseline.n, needed(tally.kept)
    limits = {patch: tally.limits(patch) for patch in tally.patches}
    open_ended = [
        patch
        for patch, each in limits.items()
        if each and each.low is not None and each.high is None
    ]
    if n < least:
        lines.append(
            f"With {n} examples an interval has no upper end: that takes {least}, since of {n} all "
            f"may survive where {tally.kept:.0%} of all others do not."
        )
    elif open_ended:
        lines.append(
            f"No upper end for {', '.join(open_ended)}: with {n} examples, there is no layer at "
            f"which {tally.kept:.0%} surely survive."
        )
    return "\n".join(lines)


def intervals_line(tally: Tally) -> str:
    """The same intervals for a whole sweep of enough examples, in a line; empty where none are."""
    if tally.descent is not None or tally.baseline.n < needed(tally.kept):
        return ""
    found = [
        f"{patch} {between(limits)}"
        for patch in tally.patches
        if patch != SWAP and (limits := tally.limits(patch)) is not None
    ]
    line = f"95 % of the layer, over examples: {', '.join(found)}" if found else ""
    if tally.adaptive is not None and any(each.endswith("–") for each in found):
        line += " (for an upper end, more examples at high layers: a smaller --width)"
    return line


def transition_record(tally: Tally) -> dict[str, Any] | None:
    """As JSON, by intervention; None of a whole sweep. own: of examples that have such a layer."""
    descent = tally.descent
    if descent is None:
        return None
    record: dict[str, Any] = {
        "patience": descent.patience,
        "check": descent.check,
        "until_width": tally.until_width,
        "wider": tally.wider_than_asked(),
    }
    for patch in tally.patches:
        own = OwnLayers.of(tally.own(patch))
        low, median, high = own.quantiles()
        record[patch] = {
            "own": list(own.layers),
            "never": own.n_never,
            "median": median,
            "quartiles": [low, high],
            "with_gaps": own.n_gaps,
            "checked_below": own.checked,
            "right_again": own.back,
        }
    return record


def shown_layers(tally: Tally) -> tuple[int, ...]:
    """Of a descent, those from the lowest one on that some example came to; else all."""
    if tally.descent is None:
        return tally.layers
    reached = [
        layer
        for column in tally.columns
        for layer in column.layers
        if (score := tally.score(column.patch, column.metric, layer)) and score.assumed < score.n
    ]
    return tuple(k for k in tally.layers if k >= min(reached, default=0))
