"""A sweep while it runs: its table live, or a bar, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from tqdm import tqdm

from localprobe.experiments.sweep import Sweep
from localprobe.report.score_table import head, report, score_table
from localprobe.report.terminal import duration, is_live, say, stdout_console
from localprobe.runs.rows import Row

_PROGRESS_STEPS = 1000
_SECONDS_BETWEEN_LINES = 30

Rows = Iterable[Row | None]


class SweepView:
    """Shows a sweep while its rows come. title: what is being swept, in one line."""

    def __init__(self, sweep: Sweep, n_layer: int, title: str) -> None:
        self._sweep, self._n_layer, self._title = sweep, n_layer, title
        self._console = stdout_console()
        self._started = time.monotonic()

    def run(self, rows: Rows) -> None:
        """Draw out all rows; the last thing shown is the complete table."""
        if is_live(self._console):
            with Live(
                get_renderable=self._live,
                console=self._console,
                refresh_per_second=4,
                transient=True,
            ):
                for _ in rows:
                    pass
        else:
            run_with_bar(self._sweep, rows)
        self._console.print(self._final())

    def _live(self) -> RenderableType:
        tally = self._sweep.tally
        heading = head(tally, self._title)
        progress = Text(self._progress(), style="bold")
        fixed = len(heading.plain.splitlines()) + 6
        rows = max(1, self._console.height - fixed)
        table = score_table(self._console, tally, rows)
        wrapped = max(str(column.header).count("\n") for column in table.columns)
        if wrapped:
            table = score_table(self._console, tally, max(1, rows - wrapped))
        return Group(heading, "", table, "", progress)

    def _final(self) -> RenderableType:
        took = Text(f"{duration(time.monotonic() - self._started)} elapsed", style="dim")
        return Group(report(self._console, self._sweep.tally, self._title, self._n_layer), took)

    def _progress(self) -> str:
        sweep = self._sweep
        line = f"example {max(1, sweep.used)} of about {sweep.expected} · "
        line += f"{duration(time.monotonic() - self._started)} elapsed"
        left = sweep.seconds_left
        return line if left is None else f"{line} · about {duration(left)} left"


def run_with_bar(sweep: Sweep, rows: Rows) -> None:
    """Draw out all rows of a sweep with its progress on stderr, and nothing on stdout.

    A bar where that is a terminal, else a line every half minute.
    """
    if not sys.stderr.isatty():
        _run_with_lines(sweep, rows)
        return
    with tqdm(
        desc=f"sweep {sweep.task.name}",
        total=_PROGRESS_STEPS,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed} elapsed, {remaining} left",
        leave=False,
    ) as progress:
        for _ in rows:
            progress.update(max(0, round(sweep.done * _PROGRESS_STEPS) - progress.n))


def _run_with_lines(sweep: Sweep, rows: Rows) -> None:
    started = said = time.monotonic()
    for _ in rows:
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES:
            said = now
            took = duration(now - started)
            say(f"sweep {sweep.task.name}: {sweep.done:.0%} done, {took} elapsed")
