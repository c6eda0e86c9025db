"""The table of a sweep, live or from disk: layers down, interventions across."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from localprobe.report.adaptive import spending
from localprobe.report.terminal import (
    bar,
    column_width,
    heat,
    layer_table,
    speaks_unicode,
    visible,
)
from localprobe.report.transition import (
    intervals_line,
    sentences,
    shown_layers,
    transition_report,
)
from localprobe.report.transition import limits as limits
from localprobe.runs.tally import SWAP, Column, Score, Tally

_NUMBER, _INTERVAL = 4, 7
OPEN = "~"
"""Marks a score that near ties could take to the other side of what is asked of it."""
INTERVALS = "95 %, by bootstrap over examples; of shares, where all scores are 0 or 1, Wilson's"


def report(
    console: Console, tally: Tally, title: str, n_layer: int, so_far: str | None = None
) -> Group:
    """All there is to see of a sweep. so_far: how much there is of one that is unfinished."""
    table = score_table(console, tally)
    parts: list[RenderableType] = [head(tally, title, so_far), "", table]
    if said := signs(tally):
        parts.append(Text(said, style="dim"))
    if said := spending(tally, so_far):
        parts.append(Text(said, style="dim"))
    parts += ["", summary(tally, n_layer, so_far)]
    if tally.descent is not None and tally.baseline.n:
        parts += ["", transition_report(console, tally, n_layer, so_far)]
    elif line := intervals_line(tally):
        parts.append(Text(line))
    if said := "\n".join(sentences(tally, n_layer)):
        parts += ["", Text(said)]
    if near := near_ties(tally):
        parts += ["", near]
    return Group(*parts)


def head(tally: Tally, title: str, so_far: str | None = None) -> Text:
    """What was swept, and what the model does when it is left alone."""
    clean, used = tally.clean, tally.baseline
    of = "" if len(tally.clean_metrics) < 2 else f" {tally.metric}"
    lines = [
        visible(title),
        f"clean model:{of} {_mean(clean)} on the {clean.n} examples tried "
        f"(95 % {_interval(clean)} %)",
        f"baseline:{of} {_mean(used)} on the {used.n} examples used",
    ]
    others = [
        f"{metric} {_mean(tally.baseline_score(metric))}"
        for metric in tally.clean_metrics
        if metric != tally.metric
    ]
    if so_far:
        lines.insert(1, f"unfinished: {so_far} so far")
    if others:
        lines[-1] += f" ({', '.join(others)})"
    if tally.chance and tally.metric in tally.chance:
        lines.append(f"chance:{of} {tally.chance[tally.metric]:.2f}")
    if tally.has_bootstrap and tally.adaptive is None:
        lines.append(f"intervals: {INTERVALS}")
    if tally.n_cut:
        lines.append(f"prompts cut short: {tally.n_cut} of {clean.n}")
    if tally.n_not_finite:
        lines.append(f"left out, since the model's numbers were not finite: {tally.n_not_finite}")
    if not tally.knows_near_ties:
        lines.append("near ties, which rounding may turn: not measured on this model")
    elif tally.n_near_ties:
        share = tally.n_turning / tally.n_rows
        what = f"{share:.1%} of the answers" if tally.n_turning else "none"
        which = "taken to change any score" if tally.n_unseen_ties else "that could change a score"
        lines.append(f"near ties {which}: {what}")
    if tally.n_used_by_tie:
        lines.append(f"used or not by a near tie: {tally.n_used_by_tie} of the examples tried")
    if SWAP in tally.patches:
        by = "" if len(tally.clean_metrics) < 2 else f" ({tally.swap_metric})"
        lines.append(f"swap: original, modified = whose answer is given{by}")
        if tally.n_last_token_only:
            share = tally.n_last_token_only / tally.n_swaps
            lines.append(f"swap of a word's last token only, for unequal lengths: {share:.0%}")
    return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")


def score_table(console: Console, tally: Tally, most_rows: int | None = None) -> Table:
    """Mean score, bar and 95 % interval in percent; the bars give way in a narrow terminal."""
    columns = tally.columns
    table = layer_table()
    n_width = _n_width(tally)
    width = column_width(console, len(columns))
    if width < _NUMBER + 1:
        # What gives way last are the numbers themselves.
        table.padding = (0, 0)
        table.columns[0].width = len(str(tally.layers[-1]))
        width = _NUMBER
    for column in columns:
        title = f"{column.patch} {column.metric}" if column.patch == SWAP else column.patch
        if len(title) > width:
            title = title.replace(" ", "\n")
        if n_width and width > _NUMBER + n_width:
            title += f"\n{'':{_NUMBER}} {'n':>{n_width}}"
        table.add_column(title, no_wrap=True, max_width=max(width, _NUMBER))
    for layer in thinned(shown_layers(tally), most_rows)[0]:
        cells = [_cell(console, tally, column, layer, width) for column in columns]
        table.add_row(str(layer), *cells)
    return table


def _n_width(tally: Tally) -> int:
    """How wide the numbers of examples are, where layers have unlike ones."""
    return 0 if tally.adaptive is None else len(str(tally.n_by_layer[1]))


def _cell(console: Console, tally: Tally, column: Column, layer: int, width: int) -> Text:
    score = tally.score(column.patch, column.metric, layer)
    if score is None:
        return Text("–" if layer not in column.layers else "·", style="dim")
    cell = Text(f"{score.score:.2f}")
    left = width - _NUMBER
    n_width = _n_width(tally)
    with_n = 0 < n_width < left
    left -= (n_width + 1) * with_n
    with_interval = left >= _INTERVAL + 4
    bar_width = min(20, left - 1 - (_INTERVAL if with_interval else 0))
    is_open = tally.is_open(column, layer)
    if is_open and (left or with_n):
        cell.append(OPEN, style="bold")
    elif is_open:
        cell.stylize("underline")
    if with_n:
        cell.append(f"{'' if is_open else ' '}{score.n:>{n_width}}", style="dim")
        is_open = False
    if bar_width >= 2:
        drawn = bar(score.score, bar_width, unicode=speaks_unicode(console))
        cell.append("" if is_open else " ").append(drawn, style=heat(score.score))
    if with_interval:
        cell.append(f" {_interval(score)}", style="dim")
    return cell


def signs(tally: Tally) -> str:
    """What the signs in the table mean, of those that are in it."""
    empty = [
        layer in column.layers
        for column in tally.columns
        for layer in shown_layers(tally)
        if tally.score(column.patch, column.metric, layer) is None
    ]
    undefined = ["– not defined at this layer"] if False in empty else []
    return "   ".join([*undefined, *(["· no answer to score"] if True in empty else [])])


def summary(tally: Tally, n_layer: int, so_far: str | None = None) -> Text:
    """From which layer on each intervention no longer matters, and whether near ties decide that.

    so_far: how much there is of a sweep that is unfinished.
    """
    if tally.baseline.n == 0:
        return Text("no example was used, so there is nothing to conclude")
    lines = []
    for patch in tally.patches:
        layer = tally.transition(patch)
        layers = next(column.layers for column in tally.columns if column.patch == patch)
        if patch == SWAP:
            effect, never = "the original wins", "the original does not win"
        else:
            effect = f"≥ {tally.kept:.0%} of the baseline"
            never = f"the score does not stay ≥ {tally.kept:.0%} of the baseline"
        name = f"{patch:<8} so far" if so_far else f"{patch:<8}"
        if patch != SWAP and tally.baseline.score == 0:
            lines.append(f"{name} there is nothing to lose: the baseline is 0")
        elif layer is None:
            lines.append(f"{name} {never} at any layer shown")
        else:
            where = f"from layer {layer} on ({layer / n_layer:.0%} of depth)"
            where += limits(patch, layer, layers, n_layer)
            lines.append(f"{name} {effect} {where}")
        if near := however(tally, patch):
            lines.append(f"{'':<8} {near}")
    return Text("\n".join(lines))


def however(tally: Tally, patch: str) -> str:
    """Whether the claim of a transition survives every way that near ties can fall; empty where
    there are none that count.

    Which examples are used may hang on near ties, too; of others, nothing is known.
    """
    layer, reach = tally.transition(patch), tally.reach(patch)
    if not tally.n_turning or reach is None:
        return ""
    if reach.earliest == reach.latest == layer:
        # With other answers, layers of an adaptive sweep could have had more examples, or fewer.
        is_of_these = tally.n_used_by_tie or tally.adaptive is not None
        of = " for these examples" if is_of_these else ""
        return f"holds{of} however near ties fall"
    if layer is None:
        return f"near ties could make it so from layer {reach.earliest} on"
    if reach.latest is not None:
        return f"near ties could move that to {reach.earliest}–{reach.latest}"
    to = "a later layer" if reach.earliest == layer else f"{reach.earliest} or a later layer"
    return f"near ties could move that to {to}, or undo it"


def near_ties(tally: Tally) -> Text | None:
    """What near ties are, and the scores that they decide on."""
    if not tally.n_turning:
        return None
    lines = []
    for column in tally.columns:
        ranges = [
            f"{layer}:{score.ties_low:.2f}–{score.ties_high:.2f}"
            for layer in column.layers
            if (score := tally.score(column.patch, column.metric, layer))
            and tally.is_open(column, layer)
        ]
        if ranges:
            name = f"{SWAP} {column.metric}" if column.patch == SWAP else column.patch
            lines.append(f"  {name:<8} {', '.join(ranges)}")
    if lines:
        sides = f"{tally.kept:.0%} of the baseline"
        base = tally.baseline
        if base.ties_low != base.ties_high:
            sides += f" (which they could make {base.ties_low:.2f}–{base.ties_high:.2f})"
        if SWAP in tally.patches:
            swapped = "the other score of the swap"
            sides = swapped if tally.patches == (SWAP,) else f"{sides}, or {swapped}"
        lines.insert(0, f"{OPEN} near ties could take the score across {sides}; layer:range")
    lines.append("Near ties fall as rounding has it, which differs between machines.")
    if tally.n_unseen_ties:
        lines.append("This run is of a version that did not note which scores they could change.")
    return Text("\n".join(lines), style="dim")


def _mean(score: Score) -> str:
    return f"{score.score:.2f}" if score.n else "–"


def _interval(score: Score) -> str:
    return f"{round(100 * score.low)}–{round(100 * score.high)}"


def thinned(layers: Sequence[int], most: int | None) -> tuple[Sequence[int], int]:
    """Every so-many-th of the layers, where a terminal is too low for all, and which that is.

    The last one is always there.
    """
    step = 1 if most is None else -(-len(layers) // most)
    return list(reversed(layers[::-1][::step])), step
