"""Runs as sections of a page: what was run, curves, swaps, transitions, and runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localprobe.report.adaptive import spending
from localprobe.report.comparison import Comparison, Place, endings
from localprobe.report.examples import Examples, cell_key
from localprobe.report.page import Cell, Figure, Section, Table
from localprobe.report.score_table import OPEN, head, near_ties, signs, summary
from localprobe.report.terminal import visible
from localprobe.report.transition import sentences
from localprobe.runs.manifest import described
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN
from localprobe.runs.tally import SWAP, Column, Score, patches


def run_section(number: int, run: Run, examples: Examples | None) -> Section:
    """A run: the words of its table in the terminal, its table, and its figures.

    examples: those that the page has; None for a table alone.
    """
    tally = run.tally
    title, *lines = head(tally, run.manifest.title, run.so_far).plain.split("\n")
    notes = [signs(tally)]
    notes += spending(tally, run.so_far).split("\n")
    if near := near_ties(tally):
        notes += near.plain.split("\n")
    figures = []
    if any(patch != SWAP for patch in tally.patches):
        figures.append(_curves(number, run))
    if SWAP in tally.patches:
        figures.append(_swaps(number, run))
    return Section(
        title=title,
        lines=lines,
        claims=[
            *_claims(summary(tally, run.manifest.n_layer, run.so_far).plain),
            *sentences(tally, run.manifest.n_layer),
        ],
        figures=figures,
        tables=[_scores(number, run, examples)],
        facts=facts(run),
        notes=[note for note in notes if note],
        asides=[_clean_answers(number, run, examples)] if examples else [],
    )


def facts(run: Run) -> list[tuple[str, str]]:
    """What must be known of a run to make it once more."""
    data = run.manifest.data
    model, experiment, machine = data["model"], data["experiment"], data.get("machine") or {}
    source = run.manifest.source
    found: list[tuple[str, Any]] = [
        ("folder", run.path),
        ("model", described(model)),
        ("SHA-256", model.get("sha256")),
        ("made from", source and f"{source['name']} ({source['sha256']})"),
        ("task", experiment["task"]),
        ("data", (experiment.get("data") or {}).get("file")),
        ("SHA-256 of the data", (experiment.get("data") or {}).get("sha256")),
        ("template", experiment.get("template")),
        ("solved ones in front", experiment.get("shots")),
        ("chat template", "yes" if experiment.get("chat") else None),
        ("interventions", ", ".join(run.tally.patches)),
        ("layers", experiment.get("layers")),
        ("examples", run.so_far or f"{run.tally.clean.n} tried, {run.tally.baseline.n} used"),
        ("adaptive, until intervals are", experiment["width"] if run.manifest.adaptive else None),
        ("all examples", "yes" if experiment.get("all_examples") else None),
        ("longest answer", experiment.get("max_tokens")),
        ("seed", experiment["seed"]),
        ("shard", experiment["shard"] if experiment["shard"] != "1/1" else None),
        ("recipe", data.get("recipe")),
        ("engine", data["engine"]),
        ("prompts in a decode", data["batch"]),
        ("devices", data["devices"]),
        ("localprobe", data["localprobe"]),
        ("llama-cpp-python", data["llama_cpp_python"]),
        ("numpy", data["numpy"]),
        ("Python", machine.get("python")),
        ("system", machine.get("system")),
        ("processor", machine.get("processor")),
        ("cores", machine.get("cores")),
        ("started", data["started"]),
        ("ended", data["ended"] or "not yet"),
    ]
    return [(name, _said(value)) for name, value in found if value not in (None, "")]


def _said(value: Any) -> str:
    return ", ".join(map(_said, value)) if isinstance(value, list) else str(value)


def _claims(text: str) -> list[str]:
    """The lines of `summary`, those that are indented behind the one that they are about."""
    found: list[str] = []
    for line in text.split("\n"):
        words = " ".join(line.split())
        if line.startswith(" ") and found:
            found[-1] += f"; {words}"
        else:
            name, _, claim = words.partition(" ")
            found.append(f"{name}: {claim}" if name in patches() else words)
    return found


def _title(run: Run) -> str:
    return f"{run.manifest.task} · {run.manifest.model_name}"


def _style(patch: str) -> int:
    """Which colour and line: one an intervention, the same in all figures."""
    return patches().index(patch)


def _point(key: str, name: str, layer: int, score: Score) -> dict[str, Any]:
    return {
        "x": layer,
        "y": score.score,
        "low": score.low,
        "high": score.high,
        "key": key,
        "text": f"{name}, layer {layer}\n{_in_words(score)}",
    }


def _in_words(score: Score) -> str:
    return f"{score.score:.2f}, 95 % interval {score.low:.2f} to {score.high:.2f}, n = {score.n}"


def _interval(score: Score) -> str:
    return f"{round(100 * score.low)}–{round(100 * score.high)}"


def _curves(number: int, run: Run) -> Figure:
    tally = run.tally
    series = []
    for column in tally.columns:
        if column.patch == SWAP:
            continue
        points = [
            _point(cell_key(number, column.patch, layer), column.patch, layer, score)
            for layer in column.layers
            if (score := tally.score(column.patch, column.metric, layer))
        ]
        series.append({"name": column.patch, "style": _style(column.patch), "points": points})
    lines = [{"y": tally.baseline.score, "name": "clean model"}] if tally.baseline.n else []
    if tally.metric in tally.chance:
        lines.append({"y": tally.chance[tally.metric], "name": "chance"})
    names = ", ".join(column.patch for column in tally.columns if column.patch != SWAP)
    return Figure(
        "curves",
        f"{tally.metric} against the layer under {names}; the same numbers are in the table below",
        {
            "series": series,
            "lines": lines,
            "x": "layer k",
            "y": tally.metric,
            "end": run.manifest.n_layer - 1,
        },
    )


def _swaps(number: int, run: Run) -> Figure:
    tally = run.tally
    cells = []
    columns = [column for column in tally.columns if column.patch == SWAP]
    for place, column in enumerate(columns):
        for layer in column.layers:
            score = tally.score(SWAP, column.metric, layer)
            if score is not None:
                cells.append(
                    {
                        "column": place,
                        "row": layer,
                        "value": score.score,
                        "key": cell_key(number, SWAP, layer),
                        "text": f"{column.metric}, layer {layer}\n{_in_words(score)}",
                    }
                )
    return Figure(
        "heat",
        "Whose answer is given after a swap, the original or the modified one, by layer; the same "
        "numbers are in the table below",
        {
            "cells": cells,
            "columns": [column.metric for column in columns],
            "rows": list(columns[0].layers),
            "x": "whose answer is given",
            "y": "layer",
            "value": f"share right ({tally.swap_metric})",
            "range": [0, 1],
        },
    )


def _scores(number: int, run: Run, examples: Examples | None) -> Table:
    tally = run.tally
    rows = [
        [
            str(layer),
            *(_score_cell(number, run, column, layer, examples) for column in tally.columns),
        ]
        for layer in tally.layers
    ]
    headers = [f"{c.patch} {c.metric}" if c.patch == SWAP else c.patch for c in tally.columns]
    return Table(
        f"{_title(run)}: {tally.metric} by layer, with 95 % intervals in percent"
        + ("" if tally.adaptive is None else ", and n, the examples behind it"),
        ["layer", *headers],
        rows,
    )


def _score_cell(
    number: int, run: Run, column: Column, layer: int, examples: Examples | None
) -> Cell | str:
    score = run.tally.score(column.patch, column.metric, layer)
    if score is None:
        return "–" if layer not in column.layers else "·"
    key = cell_key(number, column.patch, layer)
    is_open = run.tally.is_open(column, layer)
    of = f"{column.patch} {column.metric}" if column.patch == SWAP else column.patch
    spoken = f"{of} at layer {layer}: {_in_words(score)}"
    spoken += "; near ties could take it across 90 % of the baseline" if is_open else ""
    return Cell(
        f"{score.score:.2f}{OPEN if is_open else ''}",
        _interval(score) + ("" if run.tally.adaptive is None else f", n {score.n}"),
        score.score,
        key if examples and examples.has(key) else None,
        f"{spoken}. Show its answers",
    )


def _clean_answers(number: int, run: Run, examples: Examples) -> Table:
    """Which need no script to be read."""
    clean = [row for row in run.rows if row.patch == CLEAN]
    shown, of = examples.counts[number]
    rows = []
    for row in sorted(clean, key=lambda row: row.example)[:shown]:
        score = row.scores.get(run.tally.metric)
        rows.append(
            [
                str(row.example),
                _cut(row.subject or row.prompt),
                _cut(" | ".join(row.accepted)),
                "not finite" if row.not_finite else _cut(row.answer.strip()),
                "–" if score is None else f"{score:.2f}",
            ]
        )
    caption = f"What the clean model says to the first {shown} of the {of} examples tried"
    return Table(caption, ["example", "asked", "right", "said", run.tally.metric], rows)


def _cut(text: str, most: int = 200) -> str:
    """Its end, which is where the question is, of what is too long."""
    line = visible(text)
    return line if len(line) <= most else f"…{line[1 - most :]}"


def transitions_section(runs: Sequence[Run]) -> Section:
    """From which layer on each intervention no longer matters, in all runs, by depth."""
    records, rows = [], []
    kept = sorted({f"{run.tally.kept:.0%}" for run in runs})
    for run in runs:
        tally, n_layer = run.tally, run.manifest.n_layer
        for patch in tally.patches:
            layer, reach = tally.transition(patch), tally.reach(patch)
            limits = tally.limits(patch)
            of_all = None if limits is None else (limits.low, limits.high)
            over = "not known" if of_all is None else _reach(of_all)
            ends = None if reach is None else (reach.earliest, reach.latest)
            name = f"{_title(run)} · {patch}" + (" (so far)" if run.so_far else "")
            records.append(
                {
                    "name": name,
                    "style": _style(patch),
                    "x": None if layer is None else 100 * layer / n_layer,
                    "low": _depth(ends and ends[0], n_layer),
                    "high": _depth(ends and ends[1], n_layer, _end(ends)),
                    "from": _depth(of_all and of_all[0], n_layer),
                    "to": _depth(of_all and of_all[1], n_layer),
                    "text": f"{name}\n{_from(layer, n_layer)}\n95 %: {over}\n"
                    f"however near ties fall: {_reach(ends)}",
                }
            )
            rows.append([name, _from(layer, n_layer), over, _reach(ends)])
    return Section(
        "Transitions",
        lines=[
            "From which layer on an intervention no longer matters: its score stays at "
            f"{' or '.join(kept)} of the baseline or above; after a swap, the original answer "
            "stays the more frequent one. The 95 % interval has the layers that it may be at for "
            "all examples there are; with few of them it has no upper end."
        ],
        figures=[
            Figure(
                "intervals",
                "Transition of each intervention in percent of depth, with its 95 % interval over "
                "examples (line; an arrow: no upper end) and the range that near ties leave open "
                "(band); the same is in the table below",
                {"rows": records, "x": "depth (% of the blocks)"},
            )
        ],
        tables=[
            Table(
                "Transitions",
                ["run", "from layer", "95 % over examples", "however near ties fall"],
                rows,
            )
        ],
    )


def _depth(layer: int | None, n_layer: int, nowhere: float | None = None) -> float | None:
    return nowhere if layer is None else 100 * layer / n_layer


def _end(ends: tuple[int | None, int | None] | None) -> float | None:
    return None if ends is None or ends[0] is None else 100.0


def _from(layer: int | None, n_layer: int) -> str:
    return "no layer shown" if layer is None else f"{layer} ({layer / n_layer:.0%} of depth)"


def _reach(ends: tuple[int | None, int | None] | None) -> str:
    if ends is None:
        return "not measured"
    earliest, latest = ends
    if earliest is None:
        return "nowhere"
    if latest is None:
        return f"{earliest}, a later layer or nowhere"
    return str(earliest) if earliest == latest else f"{earliest} to {latest}"


def comparison_section(
    comparison: Comparison, numbers: Sequence[int], examples: Examples
) -> Section:
    """An intervention of a task in several runs: curves, a table, and what may be concluded.

    numbers: which of the page's runs they are.
    """
    what = f"{comparison.task} · {comparison.patch} · {comparison.metric}"
    by_depth = comparison.is_by_depth
    series = [
        {"name": f"[{place + 1}] {name}", "style": place, "points": points}
        for place, name in enumerate(comparison.names)
        if (points := _compared_points(comparison, place, numbers[place]))
    ]
    figure = Figure(
        "curves",
        f"{comparison.metric} of {len(series)} runs; the same numbers are in the table",
        {
            "series": series,
            "lines": [],
            "x": "depth (% of the blocks)" if by_depth else "layer k",
            "y": comparison.metric,
            "end": 100 if by_depth else comparison.n_layers[0] - 1,
        },
    )
    table = Table(
        f"{what}, with 95 % intervals in percent",
        ["depth in %" if by_depth else "layer", *(f"[{n + 1}]" for n in range(len(numbers)))],
        [_compared_row(comparison, place, numbers, examples) for place in comparison.places],
    )
    return Section(
        f"Compared: {what}",
        lines=[_compared_run(comparison, place) for place in range(len(numbers))],
        claims=_claims("\n".join(line.plain for line in endings(comparison))),
        figures=[figure],
        tables=[table],
    )


def _compared_points(comparison: Comparison, place: int, number: int) -> list[dict[str, Any]]:
    n_layer, name = comparison.n_layers[place], f"[{place + 1}] {comparison.names[place]}"
    points = []
    for layer in comparison.swept[place]:
        score = comparison.score(place, layer)
        if score is not None:
            point = _point(cell_key(number, comparison.patch, layer), name, layer, score)
            if comparison.is_by_depth:
                point["x"] = 100 * layer / n_layer
            points.append(point)
    return points


def _compared_row(
    comparison: Comparison, place: Place, numbers: Sequence[int], examples: Examples
) -> list[Cell | str]:
    first = next(str(layer) for layer in place.layers if layer is not None)
    cells: list[Cell | str] = [place.depths if comparison.is_by_depth else first]
    for run, layer in enumerate(place.layers):
        score = None if layer is None else comparison.score(run, layer)
        if score is None or layer is None:
            cells.append("–")
            continue
        key = cell_key(numbers[run], comparison.patch, layer)
        cells.append(
            Cell(
                f"{score.score:.2f}",
                _interval(score) + (f" (layer {layer})" if comparison.is_by_depth else ""),
                score.score,
                key if examples.has(key) else None,
                f"[{run + 1}] {comparison.patch} at layer {layer}: {_in_words(score)}. "
                "Show its answers",
            )
        )
    return cells


def _compared_run(comparison: Comparison, place: int) -> str:
    run = comparison.runs[place]
    clean, used = run.tally.clean, run.tally.baseline
    line = f"[{place + 1}] {comparison.names[place]}: clean {clean.score:.2f} of {clean.n}, "
    line += f"{used.n} used" + (f", unfinished: {run.so_far} so far" if run.so_far else "")
    differing = "; ".join(comparison.differences[place])
    return f"{line}; {differing} as in [1]" if differing else line
