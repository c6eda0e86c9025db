"""Tables of one prompt, of models and of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from localprobe.probe import ProbeRow
from localprobe.report.terminal import (
    bar,
    clipped,
    heat,
    new_table,
    speaks_unicode,
)
from localprobe.swap import MODIFIED, ORIGINAL, SwapRow

_LAYER_COLUMN = 7
_GAP = 2


def swap_table(console: Console, rows: Sequence[SwapRow], old: str, new: str) -> Table:
    """Per layer: the answer, both probabilities as number and bar, and which one it follows."""
    table = new_table()
    table.add_column("layer", justify="right")
    answer_width = max(10, console.width - _LAYER_COLUMN - 2 * (13 + _GAP) - 10 - 2 * _GAP)
    table.add_column("answer", width=min(answer_width, 40), no_wrap=True)
    table.add_column("P(original)", no_wrap=True)
    table.add_column("P(modified)", no_wrap=True)
    table.add_column("follows", no_wrap=True)
    whose = {ORIGINAL: old, MODIFIED: new}
    for row in rows:
        table.add_row(
            str(row.layer),
            clipped(row.text.strip(" "), min(answer_width, 40)),
            _share(console, row.p_original),
            _share(console, row.p_modified),
            clipped(whose.get(row.follows, row.follows), 10),
        )
    return table


def _share(console: Console, share: float) -> Text:
    drawn = bar(share, 8, unicode=speaks_unicode(console))
    return Text(f"{share:.2f} ").append(drawn, style=heat(share))


def probe_table(console: Console, rows: Sequence[ProbeRow], baseline: str) -> Table:
    """Layers down, interventions across, each cell the answer; bold where it is the clean one."""
    patches = list(dict.fromkeys(row.patch for row in rows))
    layers = sorted({row.layer for row in rows})
    answers = {(row.patch, row.layer): row.text for row in rows}
    width = max(6, (console.width - _LAYER_COLUMN) // len(patches) - _GAP)
    table = new_table()
    table.add_column("layer", justify="right")
    for patch in patches:
        table.add_column(patch, no_wrap=True)
    for layer in layers:
        cells = []
        for patch in patches:
            answer = answers.get((patch, layer))
            if answer is None:
                cells.append(Text("–", style="dim"))
            else:
                style = "bold green" if answer == baseline else ""
                cells.append(clipped(answer.strip(" "), width, style))
        table.add_row(str(layer), *cells)
    return table


def facts(pairs: Sequence[tuple[str, str]]) -> Table:
    """Names and values, one pair a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, clipped(value, 1000))
    return table


def stack(*parts: Table | Text) -> Group:
    return Group(*parts)
