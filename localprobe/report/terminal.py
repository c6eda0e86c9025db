"""Consoles, colours, bars, and text of models made safe to show."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Literal, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from localprobe.files.foreign import escaped, escaped_json, printable

T = TypeVar("T")

# viridis, from 0 to 1: its lightness rises evenly, so it also reads in grey and when colour-blind.
_HEAT = ("#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b")
_EIGHTHS = " ▏▎▍▌▋▊▉█"

LAYER_WIDTH = 5
MIN_WIDTH = 8
_NARROWEST = 20
GAP = 2
"""Columns of space between two columns of a table."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise


COLORS = ("auto", "always", "never")


def choose_color(when: str) -> None:
    """One of COLORS, for this process and its children; auto leaves it to the environment."""
    if when == "auto":
        return
    wanted, other = ("FORCE_COLOR", "NO_COLOR")[:: 1 if when == "always" else -1]
    os.environ.pop(other, None)
    os.environ[wanted] = "1"


def stdout_console() -> Console:
    """Colour and live output on a terminal, plain text when piped.

    NO_COLOR: no colour anywhere; else FORCE_COLOR (neither empty nor 0): also where it is piped.
    """
    no_color = bool(os.environ.get("NO_COLOR"))
    forced = os.environ.get("FORCE_COLOR", "0") not in ("", "0") and not no_color
    is_terminal = sys.stdout.isatty()
    color: Literal["auto", "256"] | None = "auto" if is_terminal and not no_color else None
    if forced and (not is_terminal or os.environ.get("TERM") in (None, "dumb", "unknown")):
        color = "256"
    # rich takes what is forced to have colours for a terminal, which it is not.
    console = _Console(
        highlight=False, color_system=color, no_color=no_color, force_terminal=is_terminal
    )
    if console.is_dumb_terminal:
        # For which rich takes 80 columns to be there.
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    if console.width < _NARROWEST:
        console.width = _NARROWEST
    return console


def is_live(console: Console) -> bool:
    """Whether a view that redraws itself makes sense."""
    return console.is_terminal and not console.is_dumb_terminal and bool(console.color_system)


def say(message: str) -> None:
    """A line for the user beside the output: on stderr, if there is one to write to."""
    with contextlib.suppress(OSError):
        print(printable(message, None), file=sys.stderr, flush=True)


def say_on_terminal(message: str) -> None:
    """A line for someone who waits; like a progress bar, for nobody else."""
    if sys.stderr is not None and sys.stderr.isatty():
        for line in textwrap.wrap(message, max(20, shutil.get_terminal_size().columns - 1)):
            say(line)


def print_document(document: object) -> None:
    """One JSON document on stdout and nothing else."""
    print(json_text(document, indent=2))


def json_text(document: object, indent: int | None = None) -> str:
    """JSON in which what a terminal would obey is written as \\u…, which reads as the same."""
    plain = not (sys.stdout.encoding or "").lower().startswith("utf")
    return escaped_json(json.dumps(document, indent=indent, ensure_ascii=plain, allow_nan=False))


def with_bar(rows: Iterator[T], total: int, unit: str = "cell") -> Iterator[T]:
    """The rows as they come, with a progress bar on stderr where that is a terminal."""
    return iter(tqdm(rows, total=total, unit=unit, leave=False, disable=None, dynamic_ncols=True))


def size_text(size: int) -> str:
    """5 kB, 98 MB, 4.1 GB."""
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def new_table(*headers: str) -> Table:
    """An empty table in the house style: a rule under the head, no frame."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table


def shrink_only_last(console: Console, table: Table) -> None:
    """Where a table is too wide, let its last column give way alone, or go."""
    left = console.width
    for column in table.columns[:-1]:
        column.min_width = max(cell_len(str(cell)) for cell in [column.header, *column.cells])
        left -= column.min_width + GAP
    if left < MIN_WIDTH:
        table.columns.pop()
    else:
        table.columns[-1].max_width = left


def layer_table() -> Table:
    """An empty table with the layers down its left side."""
    table = new_table()
    table.add_column("layer", justify="right", width=LAYER_WIDTH, no_wrap=True)
    return table


def column_width(console: Console, columns: int) -> int:
    """How wide each of so many columns beside the layers can be."""
    return (console.width - LAYER_WIDTH) // columns - GAP


def heat(share: float) -> str:
    """A colour for 0 … 1."""
    return _HEAT[min(len(_HEAT) - 1, max(0, int(share * len(_HEAT))))]


def bar(share: float, width: int, *, unicode: bool) -> str:
    """A bar of `width` columns, filled by a share, to an eighth of a column."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    if not unicode:
        return ("#" * round(eighths / 8)).ljust(width)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def speaks_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def visible(text: str) -> str:
    """Text of a model or a user on one line: control and formatting characters written out.

    A newline is shown as a prompt may be given, and so is a backslash before an n.
    """
    return escaped(text.replace("\\n", "\\\\n"))


def clipped(text: str, width: int, style: str = "") -> Text:
    """`visible` text on one line of at most `width` columns, with an ellipsis where it is cut."""
    return shortened(Text(visible(text), style=style), width)


def shortened(text: Text, width: int) -> Text:
    """The text itself, cut to `width` columns with an ellipsis."""
    text.truncate(width, overflow="ellipsis")
    return text


def answered(text: str) -> Text:
    """An answer as it is shown: without the spaces around it; marked where there is none."""
    if shown := visible(text.strip(" ")):
        return Text(shown)
    return Text("(space)" if text else "(end)", style="dim")


def duration(seconds: float) -> str:
    """1:05, 2:03:04."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
