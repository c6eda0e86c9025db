"""The table of a sweep, live or from disk: layers down, interventions across."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from localprobe.engine.interventions import first_layer
from localprobe.report.terminal import (
    bar,
    column_width,
    heat,
    layer_table,
    speaks_unicode,
    visible,
)
from localprobe.runs.tally import KEPT, SWAP, Column, Score, Tally

_NUMBER, _INTERVAL = 4, 7
INTERVALS = "95 %, by bootstrap over examples; of shares, where all scores are 0 or 1, Wilson's"


def report(console: Console, tally: Tally, title: str, n_layer: int) -> Group:
    """All there is to see of a sweep."""
    table = score_table(console, tally)
    return Group(head(tally, title), "", table, "", summary(tally, n_layer))


def head(tally: Tally, title: str) -> Text:
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
    if others:
        lines[-1] += f" ({', '.join(others)})"
    if tally.chance and tally.metric in tally.chance:
        lines.append(f"chance:{of} {tally.chance[tally.metric]:.2f}")
    if tally.has_bootstrap:
        lines.append(f"intervals: {INTERVALS}")
    if tally.n_cut:
        lines.append(f"prompts cut short: {tally.n_cut} of {clean.n}")
    if tally.n_not_finite:
        lines.append(f"left out, since the model's numbers were not finite: {tally.n_not_finite}")
    if not tally.knows_near_ties:
        lines.append("near ties, which rounding may turn: not measured on this model")
    elif tally.n_near_ties:
        share = tally.n_near_ties / tally.n_rows
        lines.append(f"near ties, which rounding may turn: {share:.1%} of the answers")
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
        table.add_column(title, no_wrap=True, max_width=max(width, _NUMBER))
    for layer in _thinned(tally.layers, most_rows):
        cells = [_cell(console, tally, column, layer, width) for column in columns]
        table.add_row(str(layer), *cells)
    return table


def _cell(console: Console, tally: Tally, column: Column, layer: int, width: int) -> Text:
    score = tally.score(column.patch, column.metric, layer)
    if score is None:
        return Text("–" if layer not in column.layers else "·", style="dim")
    cell = Text(f"{score.score:.2f}")
    left = width - _NUMBER
    with_interval = left >= _INTERVAL + 4
    bar_width = min(20, left - 1 - (_INTERVAL if with_interval else 0))
    if bar_width >= 2:
        drawn = bar(score.score, bar_width, unicode=speaks_unicode(console))
        cell.append(" ").append(drawn, style=heat(score.score))
    if with_interval:
        cell.append(f" {_interval(score)}", style="dim")
    return cell


def summary(tally: Tally, n_layer: int) -> Text:
    """From which layer on each intervention no longer matters."""
    if tally.baseline.n == 0:
        return Text("no example was used, so there is nothing to conclude")
    lines = []
    for patch in tally.patches:
        layer = tally.transition(patch)
        layers = next(column.layers for column in tally.columns if column.patch == patch)
        if patch == SWAP:
            effect, never = "the original wins", "the original does not win"
        else:
            effect = f"≥ {KEPT:.0%} of the baseline"
            never = f"the score does not stay ≥ {KEPT:.0%} of the baseline"
        if patch != SWAP and tally.baseline.score == 0:
            lines.append(f"{patch:<8} there is nothing to lose: the baseline is 0")
        elif layer is None:
            lines.append(f"{patch:<8} {never} at any layer shown")
        else:
            where = f"from layer {layer} on ({layer / n_layer:.0%} of depth)"
            where += limits(patch, layer, layers, n_layer)
            lines.append(f"{patch:<8} {effect} {where}")
    return Text("\n".join(lines))


def limits(patch: str, layer: int, shown: Sequence[int], n_layer: int) -> str:
    """What "from this layer on" lacks where not all later ones, or not the one below, are shown."""
    needed = range(max(layer - 1, first_layer(patch)), n_layer)
    return "" if set(needed) <= set(shown) else ", as far as shown"


def _mean(score: Score) -> str:
    return f"{score.score:.2f}" if score.n else "–"


def _interval(score: Score) -> str:
    return f"{round(100 * score.low)}–{round(100 * score.high)}"


def _thinned(layers: Sequence[int], most: int | None) -> Sequence[int]:
    """Evenly fewer layers, where a terminal is too low for all; the last one is always there."""
    if most is None or len(layers) <= most:
        return layers
    step = -(-len(layers) // most)
    return list(reversed(layers[::-1][::step]))
