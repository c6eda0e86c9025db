"""What `localprobe browse` shows, as tables of texts: no terminal is needed to make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.text import Text

from localprobe.report.map_records import MapRecord
from localprobe.report.misses import asked_of
from localprobe.report.score_table import OPEN
from localprobe.report.terminal import answered, bar, clipped, heat, visible
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.tally import ORIGINAL, SWAP, Column

_WORDS, _ANSWER = 28, 24


@dataclass(frozen=True)
class Grid:
    """headers: of the columns, whose first names the row. texts: whole, where cells are cut."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Text]]
    texts: Sequence[Sequence[str]] | None = None

    def plain(self, row: int) -> list[str]:
        """What stands in a row, as text."""
        return [*self.texts[row]] if self.texts else [cell.plain for cell in self.rows[row]]

    def sought_in(self, row: int) -> str:
        return "\n".join(self.plain(row)).casefold()


Where = tuple[Run, str | None, int | None]


@dataclass(frozen=True)
class Cells:
    """A grid whose cells are about something. about: in words; cell: run, patch and layer."""

    grid: Grid
    about: Callable[[int, int], Text]
    cell: Callable[[int, int], Where | None] = field(default=lambda _row, _column: None)


@dataclass(frozen=True)
class Example:
    """A row with the clean one, which says what was asked."""

    row: Row
    clean: Row
    metric: str


def runs_grid(names: Sequence[str], marked: Sequence[int]) -> Grid:
    rows = [
        [Text(str(1 + marked.index(n)) if n in marked else ""), Text(visible(name))]
        for n, name in enumerate(names)
    ]
    return Grid(["marked", "where"], rows)


def scores_grid(runs: Sequence[Run]) -> Cells:
    """Layers down; interventions across, of each run in turn. The first row is the clean model."""
    columns = [(run, column) for run in runs for column in run.tally.columns]
    layers = sorted({layer for run in runs for layer in run.layers})
    headers = ["layer"]
    for number, run in enumerate(runs, 1):
        for column in run.tally.columns:
            of = f"{column.patch} {column.metric}" if column.patch == SWAP else column.patch
            headers.append(of if len(runs) == 1 else f"[{number}] {of}")
    clean = [Text(f"{run.tally.baseline.score:.2f}") for run, _ in columns]
    rows = [[Text("clean"), *clean]]
    rows += [[Text(str(k)), *(_score(*column, k) for column in columns)] for k in layers]

    def cell(row: int, column: int) -> Where | None:
        if column == 0 or row > len(layers):
            return (runs[0], None, None) if row == 0 else None
        run, chosen = columns[column - 1]
        return (run, None, None) if row == 0 else (run, chosen.patch, layers[row - 1])

    def about(row: int, column: int) -> Text:
        if column == 0:
            return Text("Enter on a cell shows its examples; / searches, e exports what is seen")
        run, chosen = columns[column - 1]
        return _about_score(run, chosen, layers[row - 1] if row else None)

    return Cells(Grid(headers, rows), about, cell)


def _score(run: Run, column: Column, layer: int) -> Text:
    score = run.tally.score(column.patch, column.metric, layer)
    if score is None:
        return Text("–" if layer not in column.layers else "·", style="dim")
    text = Text(f"{score.score:.2f}{OPEN if run.tally.is_open(column, layer) else ' '}")
    return text.append(bar(score.score, 4, unicode=True), style=heat(score.score))


def _about_score(run: Run, column: Column, layer: int | None) -> Text:
    tally = run.tally
    if layer is None:
        clean, used = tally.clean, tally.baseline
        return Text(
            f"clean model: {clean.score:.2f} on the {clean.n} examples tried; baseline: "
            f"{used.score:.2f} on the {used.n} used"
        )
    score = tally.score(column.patch, column.metric, layer)
    name = f"{column.patch} {column.metric}" if column.patch == SWAP else column.patch
    lines = [f"{name} at layer {layer}: no score"]
    if score is not None:
        lines = [
            f"{name} at layer {layer}: {score.score:.2f}, 95 % {score.low:.2f}–{score.high:.2f} "
            f"({score.interval}), n = {score.n}"
        ]
    found = tally.transition(column.patch)
    so_far = " so far" if run.so_far else ""
    where = "no layer shown" if found is None else f"layer {found}"
    lines.append(f"transition of {column.patch}{so_far}: {where}")
    return Text("\n".join(lines))


def examples_grid(
    run: Run, patch: str | None, layer: int | None, *, only_wrong: bool
) -> tuple[list[Example], Grid]:
    """What was said in a cell, or by the clean model, with what was asked and is right."""
    clean = asked_of(run)
    metric = ORIGINAL if patch == SWAP else run.tally.metric
    examples = [
        Example(row, clean[row.example], metric)
        for row in run.rows
        if row.patch == (patch or CLEAN)
        and row.layer == layer
        and not (only_wrong and row.scores.get(metric, 0.0) > 0)
    ]
    rows, texts = [], []
    for each in examples:
        score = each.row.scores.get(metric)
        right = " | ".join(each.clean.accepted)
        asked = each.clean.subject or each.clean.prompt.strip()[-200:]
        said = _said(each.row)
        shown = "–" if score is None else f"{score:.2f}"
        rows.append(
            [
                Text(str(each.row.example)),
                clipped(asked, _WORDS),
                clipped(right, _ANSWER),
                clipped(said, _ANSWER, "" if score else "bold"),
                Text(shown),
            ]
        )
        texts.append([str(each.row.example), *map(visible, (asked, right, said)), shown])
    return examples, Grid(["example", "asked", "right", "said", metric], rows, texts)


def _said(row: Row) -> str:
    return "(not finite)" if row.not_finite else row.answer.strip() or "(end)"


def example_text(example: Example) -> Text:
    """All of an answer, in a few lines."""
    row, clean = example.row, example.clean
    right = visible(" | ".join(clean.accepted)) or "–"
    lines = [
        f"said: {visible(_said(row))}",
        f"right: {right} · clean model: {visible(_said(clean))}",
        f"likeliest: {_top(row)}",
        f"asked: {visible(clean.prompt[-300:]) or '–'}",
    ]
    if row.near_tie:
        lines[0] += " (near tie)"
    return Text("\n".join(lines))


def _top(row: Row) -> str:
    return "  ".join(f"`{visible(token.text)}` {token.prob:.2f}" for token in row.top)


def answers_grid(run: Run, example: int) -> Cells:
    """The answers to an example: layers down, interventions across; the first row is the clean."""
    found = {(row.patch, row.layer): row for row in run.rows if row.example == example}
    clean = found[CLEAN, None]
    patches, layers = run.tally.patches, run.layers
    rows = [[Text("clean"), *(_answer(clean, run) for _ in patches)]]
    texts = [["clean", *(visible(_said(clean)) for _ in patches)]]
    for layer in layers:
        cells = [found.get((patch, layer)) for patch in patches]
        rows.append([Text(str(layer)), *(_answer(row, run) for row in cells)])
        texts.append([str(layer), *("–" if row is None else visible(_said(row)) for row in cells)])

    def about(row: int, column: int) -> Text:
        place = (CLEAN, None) if not row or not column else (patches[column - 1], layers[row - 1])
        chosen = found.get(place)
        return Text("–") if chosen is None else example_text(Example(chosen, clean, ""))

    return Cells(Grid(["layer", *patches], rows, texts), about)


def _answer(row: Row | None, run: Run) -> Text:
    if row is None:
        return Text("–", style="dim")
    metric = ORIGINAL if row.patch == SWAP else run.tally.metric
    mark = "✓ " if row.scores.get(metric, 0.0) > 0 else "  "
    text = Text(mark).append(answered(_said(row)))
    text.truncate(_ANSWER, overflow="ellipsis")
    return text


def map_grid(found: MapRecord) -> Grid:
    rows = []
    for layer, values, shares in zip(found.layers, found.values, found.effect, strict=True):
        row = [Text(str(layer))]
        for value, share in zip(values, shares, strict=True):
            cell = Text("–", style="dim")
            if value is not None and share is not None:
                cell = Text(f"{value:.2f} ").append(bar(share, 2, unicode=True), style=heat(share))
            row.append(cell)
        rows.append(row)
    return Grid(["layer", *(visible(name) for name in found.columns)], rows)
