"""A run while another process writes it: its table, redrawn as rows come."""

from __future__ import annotations

import time

from rich.console import RenderableType
from rich.live import Live

from localprobe.report.sweep_view import live_table
from localprobe.report.terminal import duration, is_live, say, stdout_console
from localprobe.runs.folder import GrowingRows
from localprobe.runs.results import Run

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_LINES = 30


def follow(growing: GrowingRows, metric: str | None) -> None:
    """Until the run has ended. Where nothing redraws itself, a line on stderr now and then."""
    console = stdout_console()
    changed = time.monotonic()
    growing.look()
    run = _run(growing, metric)

    def ago() -> str:
        return f"{duration(time.monotonic() - changed)} ago"

    def shown() -> RenderableType:
        progress = f"last written {ago()} · Ctrl-C ends this view, not the run"
        return live_table(console, run.tally, run.manifest.title, progress, run.so_far)

    live = None
    if is_live(console):
        live = Live(get_renderable=shown, console=console, refresh_per_second=2, transient=True)
        live.start()
    said = time.monotonic()
    try:
        while not growing.manifest.is_finished:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            if growing.look():
                changed = time.monotonic()
                run = _run(growing, metric)
            if live is None and time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                say(f"{growing.path}: {run.so_far} so far, last written {ago()}")
    finally:
        if live is not None:
            live.stop()


def _run(growing: GrowingRows, metric: str | None) -> Run:
    return Run(growing.manifest, list(growing.rows), growing.path).by_metric(metric)
