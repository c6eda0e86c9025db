"""What a descent says: from which layer on answers survive, and each example's own layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from localprobe.report.terminal import new_table
from localprobe.runs.descent import Own
from localprobe.runs.intervals import wilson
from localprobe.runs.tally import SWAP, Tally
from localprobe.runs.transitions import Limits, needed


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


def transition_report(tally: Tally, n_layer: int) -> RenderableType:
    """A row an intervention, and below what that rests on. tally: of a descent."""
    assert tally.descent is not None
    table = new_table("")
    for header in ("from\nlayer", "95 %", "depth", "own\nmedian", "quartiles"):
        table.add_column(header, justify="right", no_wrap=True)
    lines = []
    for patch in tally.patches:
        layer, own = tally.transition(patch), OwnLayers.of(tally.own(patch))
        low, median, high = own.quantiles()
        table.add_row(
            patch,
            "–" if layer is None else str(layer),
            between(tally.limits(patch)),
            "–" if layer is None else f"{layer / n_layer:.0%}",
            _or_never(median),
            f"{_or_never(low)}–{_or_never(high)}",
        )
        lines += [_distribution(patch, own), *_below(patch, own, tally)]
    return Group(table, *(Text(line) for line in lines), Text(_meaning(tally), style="dim"))


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
    if n < least:
        lines.append(
            f"With {n} examples an interval has no upper end: that takes {least}, since of {n} all "
            f"may survive where {tally.kept:.0%} of all others do not."
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
    return f"95 % of the layer, over examples: {', '.join(found)}" if found else ""


def transition_record(tally: Tally) -> dict[str, Any] | None:
    """As JSON, by intervention; None of a whole sweep. own: of examples that have such a layer."""
    descent = tally.descent
    if descent is None:
        return None
    record: dict[str, Any] = {"patience": descent.patience, "check": descent.check}
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
