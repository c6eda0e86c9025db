"""The table of a sweep: layers down, interventions across, live while examples complete."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from localprobe.report.terminal import (
    bar,
    column_width,
    duration,
    heat,
    is_live,
    layer_table,
    say,
    speaks_unicode,
    stdout_console,
)
from localprobe.sweep import SWAP, Column, Sweep
from localprobe.tally import KEPT, Score

_NUMBER, _INTERVAL = 4, 7
_PROGRESS_STEPS = 1000
_SECONDS_BETWEEN_LINES = 30


class SweepView:
    """Runs a sweep and shows it. header: what is being swept, in one line."""

    def __init__(self, sweep: Sweep, n_layer: int, header: str) -> None:
        self._sweep, self._n_layer, self._header = sweep, n_layer, header
        self._console = stdout_console()
        self._started = time.monotonic()

    def run(self) -> None:
        """Compute the whole sweep; the last thing shown is the complete table."""
        if is_live(self._console):
            with Live(
                get_renderable=self._live,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            ):
                for _ in self._sweep.run():
                    pass
        else:
            run_with_bar(self._sweep)
        self._console.print(self._final())

    def _live(self) -> RenderableType:
        progress = Text(self._progress(), style="bold")
        fixed = len(self._head().plain.splitlines()) + 5
        rows = max(1, self._console.height - fixed)
        return Group(self._head(), "", self._table(rows), "", progress)

    def _final(self) -> RenderableType:
        took = Text(f"{duration(time.monotonic() - self._started)} elapsed", style="dim")
        return Group(self._head(), "", self._table(), "", self._summary(), took)

    def _head(self) -> Text:
        tally, sweep = self._sweep.tally, self._sweep
        clean, used = tally.clean, tally.baseline
        lines = [
            self._header,
            f"clean model: {clean.score:.2f} on the {clean.n} examples tried "
            f"(95 % {_interval(clean)} %)",
            f"baseline: {used.score:.2f} on the {used.n} examples used",
        ]
        if any(column.patch == SWAP for column in sweep.columns):
            lines.append("swap: original, modified = whose answer is given")
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    def _table(self, most_rows: int | None = None) -> Table:
        columns = self._sweep.columns
        table = layer_table()
        for column in columns:
            table.add_column(_title(column), no_wrap=True)
        width = column_width(self._console, len(columns))
        for layer in _thinned(self._sweep.layers, most_rows):
            cells = [self._cell(column, layer, width) for column in columns]
            table.add_row(str(layer), *cells)
        return table

    def _cell(self, column: Column, layer: int, width: int) -> Text:
        score = self._sweep.tally.score(column.patch, column.metric, layer)
        if score is None:
            return Text("–" if layer not in column.layers else "·", style="dim")
        cell = Text(f"{score.score:.2f}")
        left = width - _NUMBER
        with_interval = left >= _INTERVAL + 4
        bar_width = min(20, left - 1 - (_INTERVAL if with_interval else 0))
        if bar_width >= 2:
            drawn = bar(score.score, bar_width, unicode=speaks_unicode(self._console))
            cell.append(" ").append(drawn, style=heat(score.score))
        if with_interval:
            cell.append(f" {_interval(score)}", style="dim")
        return cell

    def _progress(self) -> str:
        sweep = self._sweep
        line = f"example {max(1, sweep.used)} of about {sweep.expected} · "
        line += f"{duration(time.monotonic() - self._started)} elapsed"
        left = sweep.seconds_left
        return line if left is None else f"{line} · about {duration(left)} left"

    def _summary(self) -> Text:
        lines = []
        for patch in dict.fromkeys(column.patch for column in self._sweep.columns):
            layer = self._sweep.transition(patch)
            if patch == SWAP:
                effect, never = "the original answer wins", "the original answer does not win"
            else:
                effect = f"the score stays ≥ {KEPT:.0%} of the baseline"
                never = f"the score does not stay ≥ {KEPT:.0%} of the baseline"
            if layer is None:
                lines.append(f"{patch:<8} {never} at any layer shown")
            else:
                share = layer / self._n_layer
                lines.append(f"{patch:<8} {effect} from layer {layer} on ({share:.0%} of depth)")
        return Text("\n".join(lines))


def run_with_bar(sweep: Sweep) -> None:
    """Compute a sweep with its progress on stderr, and nothing on stdout.

    A bar where that is a terminal, else a line every half minute.
    """
    if not sys.stderr.isatty():
        _run_with_lines(sweep)
        return
    with tqdm(
        desc=f"sweep {sweep.task.name}",
        total=_PROGRESS_STEPS,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left",
        leave=False,
    ) as progress:
        for _ in sweep.run():
            progress.update(max(0, round(sweep.done * _PROGRESS_STEPS) - progress.n))


def _run_with_lines(sweep: Sweep) -> None:
    started = said = time.monotonic()
    for _ in sweep.run():
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            took = duration(now - started)
            say(f"sweep {sweep.task.name}: {sweep.done:.0%} done, {took} elapsed")


def _title(column: Column) -> str:
    return f"{column.patch} {column.metric}" if column.patch == SWAP else column.patch


def _interval(score: Score) -> str:
    return f"{round(100 * score.low)}–{round(100 * score.high)}"


def _thinned(layers: Sequence[int], most: int | None) -> Sequence[int]:
    """Evenly fewer layers, where a terminal is too low for all; the last one is always there."""
    if most is None or len(layers) <= most:
        return layers
    step = -(-len(layers) // most)
    return list(reversed(layers[::-1][::step]))
