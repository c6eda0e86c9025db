"""The table of a probe: layers down, interventions across, and what it comes to.

    0.96✓ ███ Paris…       P of the clean answer's first token, ✓ for the clean answer, the answer
    0.43 █▎  2–98 7/10     of several draws: the mean, its range in percent, how many are clean

In a narrow terminal bars go first, then ranges and answers, then numbers; what is left out is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from localprobe.engine.interventions import first_layer
from localprobe.experiments.probe import ProbeRow, survives_from
from localprobe.report.score_table import limits
from localprobe.report.terminal import (
    answered,
    bar,
    column_width,
    heat,
    layer_table,
    shortened,
    speaks_unicode,
)

_NUMBER, _MARK = 4, 1
_LEAST_BAR, _MOST_BAR = 3, 8
_LEAST_ANSWER, _MOST_ANSWER = 6, 40
_CLEAN, _DIM = "bold green", "dim"


@dataclass(frozen=True)
class _Layout:
    """What of a cell there is room for, in columns; 0 for what is left out."""

    width: int
    number: int
    bar: int = 0
    answer: int = 0
    range: int = 0
    count: int = 0


def probe_table(console: Console, rows: Sequence[ProbeRow]) -> Table:
    patches = _patches(rows)
    cells = {(row.patch, row.layer): row for row in rows}
    layouts = _layouts(console, rows)
    table = layer_table()
    for patch in patches:
        n, width = _n_draws(rows, patch), layouts[patch].width
        times = f" {'×' if speaks_unicode(console) else 'x'}{n}" if n > 1 else ""
        title = patch if cell_len(patch + times) > width else patch + times
        table.add_column(title, no_wrap=True, max_width=width, overflow="ellipsis")
    for layer in sorted({row.layer for row in rows}):
        shown = [_cell(console, cells.get((patch, layer)), layouts[patch]) for patch in patches]
        table.add_row(str(layer), *shown)
    return table


def probe_legend(console: Console, rows: Sequence[ProbeRow], first_token: str) -> str:
    """What the cells say, and what of it has no room."""
    layouts = _layouts(console, rows)
    singles = [layouts[patch] for patch in layouts if _n_draws(rows, patch) == 1]
    several = [layouts[patch] for patch in layouts if _n_draws(rows, patch) > 1]
    mark, whole = _mark(console), "the whole answer is the clean one"
    if any(layout.number for layout in layouts.values()):
        lines = [f"P: of the clean answer's first token, {first_token}", f"{mark}: {whole}"]
    else:
        lines = [f"{mark}: {whole}", "·: it is another"]
    if several:
        parts = [
            "the mean" if all(layout.number for layout in several) else "",
            "its range in percent" if all(layout.range for layout in several) else "",
            f"how many are {mark}"
            if all(layout.count for layout in several)
            else f"{mark} if all are",
        ]
        lines.append(f"of several draws: {', '.join(filter(None, parts))}")
    left_out = [
        what
        for what, room in (
            ("P", [layout.number for layout in layouts.values()]),
            ("answers", [layout.answer for layout in singles]),
            ("ranges", [layout.range for layout in several]),
            ("counts", [layout.count for layout in several]),
        )
        if not all(room)
    ]
    if left_out:
        lines.append(f"no room for {', '.join(left_out)}: see --json, or take fewer --patch")
    return "; ".join(lines)


def probe_summary(rows: Sequence[ProbeRow], n_layer: int) -> Text:
    """From which layer on each intervention leaves the answer alone; and what – means."""
    patches, shown = _patches(rows), sorted({row.layer for row in rows})
    name_width = max(map(len, patches))
    lines = []
    for patch in patches:
        mine = [row for row in rows if row.patch == patch]
        layers = [row.layer for row in mine]
        layer = survives_from(mine)
        n = _n_draws(rows, patch)
        if layer is None:
            last = mine[-1]
            others = f", in {n - last.n_clean} of {n} draws" if n > 1 else ""
            said = f"another answer at layer {last.layer}, the last one shown{others}"
        else:
            draws = f", in all {n} draws" if n > 1 else ""
            said = f"survives from layer {layer} on ({layer / n_layer:.0%} of depth){draws}"
            said += limits(patch, layer, layers, n_layer)
        lines.append(f"{patch:<{name_width}} {said}")
    lines += [
        f"–: {patch} is defined from layer {first_layer(patch)} on"
        for patch in patches
        if shown[0] < first_layer(patch)
    ]
    return Text("\n".join(lines))


def _cell(console: Console, row: ProbeRow | None, layout: _Layout) -> Text:
    if row is None:
        return Text("–", style=_DIM)
    style = _CLEAN if row.is_clean else ""
    mark = _mark(console)
    if not layout.number:
        return Text(mark if row.is_clean else "·", style=style)
    if row.p_clean is None:
        return shortened(answered(row.text), layout.width)
    cell = Text(f"{row.p_clean:.2f}")
    if not layout.count:
        cell.append(mark if row.is_clean else " ", style=style)
    if layout.bar:
        filled = bar(row.p_clean, layout.bar, unicode=speaks_unicode(console))
        cell.append(" ").append(filled, style=heat(row.p_clean))
    if layout.range:
        spread = _range(row) if speaks_unicode(console) else _range(row).replace("–", "-")
        cell.append(f" {spread:>{layout.range}}", style=_DIM)
    if layout.count:
        cell.append(f" {_count(row):>{layout.count}}", style=style)
    if layout.answer:
        answer = answered(row.text)
        answer.stylize(style)
        cell.append(" ").append(shortened(answer, layout.answer))
    return cell


def _layouts(console: Console, rows: Sequence[ProbeRow]) -> dict[str, _Layout]:
    patches = _patches(rows)
    width = max(_MARK, column_width(console, len(patches)))
    found = {}
    for patch in patches:
        mine = [row for row in rows if row.patch == patch]
        found[patch] = _of_several(mine, width) if _n_draws(rows, patch) > 1 else _of_one(width)
    return found


def _of_one(width: int) -> _Layout:
    left = width - _NUMBER - _MARK
    if left < 0:
        return _Layout(width, 0)
    if left < 1 + _LEAST_ANSWER:
        return _Layout(width, _NUMBER)
    drawn = 0
    if left >= 1 + _LEAST_BAR + 1 + _LEAST_ANSWER:
        drawn = min(_MOST_BAR, max(_LEAST_BAR, left // 3 - 1))
        left -= 1 + drawn
    return _Layout(width, _NUMBER, bar=drawn, answer=min(_MOST_ANSWER, left - 1))


def _of_several(rows: Sequence[ProbeRow], width: int) -> _Layout:
    count = max(len(_count(row)) for row in rows)
    spread = max(cell_len(_range(row)) for row in rows)
    left = width - _NUMBER - 1 - count
    if left < 0:
        return _Layout(width, _NUMBER if width >= _NUMBER + _MARK else 0)
    if left < 1 + spread:
        spread = 0
    else:
        left -= 1 + spread
    drawn = min(_MOST_BAR, left - 1)
    return _Layout(
        width, _NUMBER, bar=drawn if drawn >= _LEAST_BAR else 0, range=spread, count=count
    )


def _patches(rows: Sequence[ProbeRow]) -> list[str]:
    return list(dict.fromkeys(row.patch for row in rows))


def _n_draws(rows: Sequence[ProbeRow], patch: str) -> int:
    return max(1, *(len(row.draws) for row in rows if row.patch == patch))


def _count(row: ProbeRow) -> str:
    return f"{row.n_clean}/{len(row.draws)}"


def _range(row: ProbeRow) -> str:
    low, high = row.p_range
    return "" if low is None or high is None else f"{round(100 * low)}–{round(100 * high)}"


def _mark(console: Console) -> str:
    return "✓" if speaks_unicode(console) else "*"
