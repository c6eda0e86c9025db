"""What `localprobe map --json` wrote, as sections of a page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files.foreign import printable
from localprobe.files.textfile import read_bytes
from localprobe.report.page import Cell, Figure, Section, Table
from localprobe.report.terminal import visible
from localprobe.runs.manifest import described

_MOST_BYTES = 1 << 26
_MOST_CELLS = 20_000


def map_sections(file: Path) -> list[Section]:
    """One for each map of the document. Raises LocalprobeError where it is none, or too large."""
    text = read_bytes(file, most=_MOST_BYTES)
    try:
        document = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise LocalprobeError(
            f"{file} is not valid JSON; write one: localprobe map --json"
        ) from None
    try:
        maps = document.get("maps", [document])
        model = described(document["model"])
        return [_section(each, model) for each in maps]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 100)
        raise LocalprobeError(f"{file} holds no map of localprobe map --json ({reason})") from None


def _section(found: Mapping[str, Any], model: str) -> Section:
    layers = [int(layer) for layer in found["layers"]]
    tokens = [str(token["text"]) for token in found["tokens"]]
    places = [", ".join(str(int(at)) for at in token["positions"]) for token in found["tokens"]]
    effect, values = (
        _numbers(found["effect"], layers, tokens),
        _numbers(found["values"], layers, tokens),
    )
    if len(layers) * len(tokens) > _MOST_CELLS:
        raise LocalprobeError(
            f"a map of {len(layers)} layers and {len(tokens)} tokens is too large for a page; "
            "take fewer --layers"
        )
    patch, metric = str(found["patch"]), str(found["metric"])
    answer, clean = str(found["clean"]["answer"]), float(found["clean"]["value"])
    names = [f"{text} ({at})" for text, at in zip(tokens, places, strict=True)]
    cells, rows = [], []
    for row, layer in enumerate(layers):
        shown: list[Cell | str] = [str(layer)]
        for column in range(len(names)):
            value, share = values[row][column], effect[row][column]
            if value is None or share is None:
                shown.append("not finite")
                continue
            cells.append(
                {
                    "column": column,
                    "row": layer,
                    "value": share,
                    "text": f"`{tokens[column]}`, layer {layer}\n{metric} {value:.3f}, "
                    f"effect {share:.0%}",
                }
            )
            shown.append(Cell(f"{value:.2f}", share=share))
        rows.append(shown)
    return Section(
        title=f"Map: {patch}, {metric} of `{visible(answer)}`",
        lines=[
            model,
            f"prompt: {visible(str(found['prompt']))}",
            f"clean answer: `{visible(answer)}`, {metric} {clean:.2f}",
        ],
        claims=[str(line) for line in found["words"]],
        figures=[
            Figure(
                "heat",
                f"The effect of {patch} on each token of the prompt at each layer; the same "
                "numbers are in the table below",
                {
                    "cells": cells,
                    "columns": [visible(name) for name in names],
                    "rows": layers,
                    "x": "token of the prompt",
                    "y": "layer",
                    "value": "effect: the share of the answer that is gone, or brought back",
                    "range": [0, 1],
                },
            )
        ],
        asides=[
            Table(f"{metric} by layer and token; the bars are the effect", ["layer", *names], rows)
        ],
    )


def _numbers(rows: Any, layers: list[int], tokens: list[str]) -> list[list[float | None]]:
    """By layer, then by token; None where the model's numbers were not finite."""
    found = [[None if each is None else float(each) for each in row] for row in rows]
    if len(found) != len(layers) or any(len(row) != len(tokens) for row in found):
        raise ValueError("not one number for each layer and token")
    if any(each is not None and not math.isfinite(each) for row in found for each in row):
        raise ValueError("a number is not finite")
    return found
