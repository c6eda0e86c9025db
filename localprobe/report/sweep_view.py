"""A sweep while it runs: its table live, or a bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from tqdm import tqdm

from localprobe.experiments.sweep import Sweep
from localprobe.report.asked import asked
from localprobe.report.score_table import head, report, score_table, thinned
from localprobe.report.terminal import duration, is_live, say, stdout_console
from localprobe.report.transition import shown_layers
from localprobe.runs.rows import Row
from localprobe.runs.tally import Tally

_PROGRESS_STEPS = 1000
_SECONDS_BETWEEN_LINES = 30

Rows = Iterable[Row | None]


class SweepView:
    """Shows a sweep while its rows come. title: what is being swept, in one line."""

    def __init__(self, sweep: Sweep, n_layer: int, title: str) -> None:
        self._sweep, self._n_layer, self._title = sweep, n_layer, title
        self._console = stdout_console()
        self._started = time.monotonic()

    def run(self, rows: Rows, so_far: Callable[[], str | None]) -> None:
        """Draw out all rows; the last thing shown is the complete table.

        Where that is interrupted, it is the table as it stands, with `so_far`: how much there is.
        """
        try:
            self._draw(rows)
        except KeyboardInterrupt:
            if self._sweep.tally.n_rows:
                self._console.print(self._final(so_far()))
            raise
        self._console.print(self._final(None))

    def _draw(self, rows: Rows) -> None:
        if is_live(self._console):
            with (
                Live(
                    get_renderable=self._live,
                    console=self._console,
                    refresh_per_second=4,
                    transient=True,
                ),
                asked() as was_asked,
            ):
                for _ in rows:
                    if was_asked():
                        say(where(self._sweep, self._started))
        else:
            run_with_bar(self._sweep, rows)

    def _live(self) -> RenderableType:
        progress = where(self._sweep, self._started).partition(": ")[2]
        return live_table(self._console, self._sweep.tally, self._title, progress)

    def _final(self, so_far: str | None) -> RenderableType:
        """so_far: how much there is of a sweep that was interrupted."""
        tally = self._sweep.tally
        took = f"{duration(time.monotonic() - self._started)} elapsed"
        below = f"{_resting(tally)}\n{took}" if so_far else took
        shown = report(self._console, tally, self._title, self._n_layer, so_far)
        return Group(shown, Text(below, style="dim"))


def live_table(
    console: Console, tally: Tally, title: str, progress: str, so_far: str | None = None
) -> RenderableType:
    """A table that fits the terminal, with a line of progress; so_far: how much there is."""
    heading = head(tally, title, so_far)
    line = Text(progress, style="bold")

    def below(shown: int, step: int) -> list[Text]:
        left_out = f"only layer {tally.layers[-1]} shown" if shown == 1 else ""
        left_out = left_out or f"every {_nth(step)} layer shown"
        notes = [_resting(tally), *([left_out] if step > 1 else [])]
        return [line, Text(" · ".join(notes), style="dim")]

    lines = sum(len(text.wrap(console, console.width)) for text in below(2, 10))
    rows = max(1, console.height - len(heading.plain.splitlines()) - 5 - lines)
    table = score_table(console, tally, rows)
    wrapped = max(str(column.header).count("\n") for column in table.columns)
    if wrapped:
        rows = max(1, rows - wrapped)
        table = score_table(console, tally, rows)
    shown, step = thinned(shown_layers(tally), rows)
    return Group(heading, "", table, "", *below(len(shown), step))


def where(sweep: Sweep, started: float) -> str:
    """In a line, how far a sweep is."""
    took = f"{duration(time.monotonic() - started)} elapsed"
    line = f"sweep {sweep.task.name}: example {max(1, sweep.used)} of about {sweep.expected}"
    if sweep.going_on:
        line += " · {} of {} layers go on".format(*sweep.going_on)
    left = sweep.seconds_left
    return f"{line} · {took}" + ("" if left is None else f" · about {duration(left)} left")


def _resting(tally: Tally) -> str:
    """How many answers the scores rest on: from the fewest to the most."""
    counts = [n for ends in tally.n_answers.values() for n in ends]
    least, most = min(counts), max(counts)
    return f"answers behind each score: {least if least == most else f'{least}–{most}'}"


def _nth(number: int) -> str:
    """2nd, 3rd, 4th, 11th, 21st."""
    teens = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teens else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def run_with_bar(sweep: Sweep, rows: Rows) -> None:
    """Draw out all rows of a sweep with its progress on stderr, and nothing on stdout.

    A bar where that is a terminal, else a line every half minute.
    """
    if not sys.stderr.isatty():
        _run_with_lines(sweep, rows)
        return
    started = time.monotonic()
    with (
        tqdm(
            desc=f"sweep {sweep.task.name}",
            total=_PROGRESS_STEPS,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left",
            leave=False,
        ) as progress,
        asked() as was_asked,
    ):
        for _ in rows:
            progress.update(max(0, round(sweep.done * _PROGRESS_STEPS) - progress.n))
            if was_asked():
                with tqdm.external_write_mode(file=sys.stderr):
                    say(where(sweep, started))


def _run_with_lines(sweep: Sweep, rows: Rows) -> None:
    started = said = time.monotonic()
    with asked() as was_asked:
        for _ in rows:
            if was_asked():
                say(where(sweep, started))
            now = time.monotonic()
            if now - said >= _SECONDS_BETWEEN_LINES:
                said = now
                took = duration(now - started)
                say(f"sweep {sweep.task.name}: {sweep.done:.0%} done, {took} elapsed")
