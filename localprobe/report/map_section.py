"""A map as a section of a page."""

from __future__ import annotations

from localprobe.errors import LocalprobeError
from localprobe.report.map_records import MapRecord
from localprobe.report.maps_comparison import MapsComparison, run_lines, words_of
from localprobe.report.page import Cell, Figure, Section, Table
from localprobe.report.terminal import visible

_MOST_CELLS = 20_000


def map_section(found: MapRecord) -> Section:
    """Raises LocalprobeError where it is too large."""
    if len(found.layers) * len(found.tokens) > _MOST_CELLS:
        raise LocalprobeError(
            f"a map of {len(found.layers)} layers and {len(found.tokens)} tokens is too large for "
            "a page; make it with fewer --layers"
        )
    cells, rows = [], []
    for row, layer in enumerate(found.layers):
        shown: list[Cell | str] = [str(layer)]
        for column, token in enumerate(found.tokens):
            value, share = found.values[row][column], found.effect[row][column]
            if value is None or share is None:
                shown.append("not finite")
                continue
            text = f"{token}, layer {layer}\n{found.metric} {value:.3f}, "
            text += f"effect {share:.0%}"
            cells.append({"column": column, "row": layer, "value": share, "text": text})
            shown.append(Cell(f"{value:.2f}", share=share))
        rows.append(shown)
    names = [visible(name) for name in found.columns]
    figure = Figure(
        "heat",
        f"The effect of {found.patch} on each token at each layer; the same numbers are in the "
        "table below",
        {
            "cells": cells,
            "columns": names,
            "rows": found.layers,
            "x": found.across,
            "y": "layer",
            "value": "effect: the share of the answer that is gone, or brought back",
            "range": [0, 1],
        },
    )
    return Section(
        title=f"Map: {found.title}",
        lines=[found.model, *found.about],
        claims=found.words,
        figures=[figure],
        asides=[
            Table(
                f"{found.metric} by layer and token; the bars are the effect",
                ["layer", *names],
                rows,
            )
        ],
    )


def comparison_section(comparison: MapsComparison) -> Section:
    """Maps over a task in several runs: where they surely differ, in words."""
    first = comparison.runs[0]
    return Section(
        title=f"Maps side by side: {first.manifest.task}, {first.patch}, {first.metric}",
        lines=run_lines(comparison),
        claims=[line for pair in comparison.pairs for line in words_of(pair)],
    )
