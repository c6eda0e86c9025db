"""The examples that were answered wrongly: what was asked, what is right, what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from localprobe.engine.layers import parse_layers
from localprobe.errors import LocalprobeError
from localprobe.report.terminal import answered, clipped, new_table, shortened, visible
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.tally import ORIGINAL, SWAP

_LONGEST = 60
_MOST_NAMED = 10
_ASKED, _RIGHT, _SAID = 0.3, 0.25, 0.45


def asked_of(run: Run) -> Mapping[int, Row]:
    """The clean row of each example, which says what was asked, and what is right."""
    return {row.example: row for row in run.rows if row.patch == CLEAN}


def misses(run: Run, patch: str | None, layers: str | None) -> list[dict[str, Any]]:
    """One record for each wrong answer: of the clean model, or under an intervention.

    patch: of the run's, None for the clean model. layers: as on the command line, None for all.
    An answer is wrong where the score that matters is 0; of a swap, that of the original answer.
    Where the model's numbers were not finite there is none: see `not_finite`.
    Raises LocalprobeError for what the run does not have.
    """
    clean = asked_of(run)
    metric = ORIGINAL if patch == SWAP else run.tally.metric
    return [
        _record(row, clean[row.example], metric)
        for row in _rows(run, patch, layers)
        if not row.not_finite and row.scores.get(metric, 0.0) == 0
    ]


def not_finite(run: Run, patch: str | None, layers: str | None) -> list[dict[str, Any]]:
    """Among the same rows, those without an answer: patch, layer and example of each."""
    return [
        {"patch": row.patch, "layer": row.layer, "example": row.example}
        for row in _rows(run, patch, layers)
        if row.not_finite
    ]


def _rows(run: Run, patch: str | None, layers: str | None) -> list[Row]:
    """Layers ascending."""
    if patch is None and layers is not None:
        raise LocalprobeError("--layers is for the misses under an intervention: add --patch NAME")
    if patch is not None and patch not in run.tally.patches:
        raise LocalprobeError(f"this run has no {patch}; it has {', '.join(run.tally.patches)}")
    wanted = None if layers is None else set(parse_layers(layers, run.manifest.n_layer))
    swept = {layer for c in run.tally.columns if c.patch == patch for layer in c.layers}
    if wanted is not None and not wanted & swept:
        there = ", ".join(map(str, sorted(swept)))
        raise LocalprobeError(f"this run has no {patch} at these layers; it has {there}")
    found = [
        row
        for row in run.rows
        if row.patch == (patch or CLEAN) and (wanted is None or row.layer in wanted)
    ]
    return sorted(found, key=lambda row: -1 if row.layer is None else row.layer)


def _record(row: Row, clean: Row, metric: str) -> dict[str, Any]:
    return {
        "patch": row.patch,
        "layer": row.layer,
        "example": row.example,
        "prompt": clean.prompt or None,
        "subject": clean.subject or None,
        "new": row.new or None,
        "right": list(clean.accepted) or None,
        "said": row.answer,
        "score": row.scores.get(metric),
    }


def misses_table(
    console: Console,
    run: Run,
    patch: str | None,
    found: Sequence[Mapping[str, Any]],
    lost: Sequence[Mapping[str, Any]],
) -> Group:
    """The records of `misses`, each on a line, cut to the width; lost: those of `not_finite`."""
    what = "the clean model" if patch is None else patch
    head = Text(visible(run.manifest.title), style="bold")
    answers = sum(row.patch == (patch or CLEAN) and not row.not_finite for row in run.rows)
    beside = [Text(_without_answers(lost))] if lost else []
    if not found:
        return Group(head, Text(f"{what}: no wrong answer among those looked at"), *beside)
    layers = {record["layer"] for record in found}
    said = f"{what}: {len(found)} wrong of the {answers} answers"
    if patch is not None:
        said = f"{what}: {_count(len(found), 'wrong answer')} at {_count(len(layers), 'layer')}"
    table = _table(console, patch, found)
    parts: list[RenderableType] = [head, Text(said), *beside, table]
    if not any(record["right"] for record in found):
        parts.append(Text("This run is of a version that did not write down what was asked."))
    return Group(*parts)


def _without_answers(lost: Sequence[Mapping[str, Any]]) -> str:
    examples = sorted({record["example"] for record in lost})
    some = ", ".join(map(str, examples[:_MOST_NAMED])) + ", …" * (len(examples) > _MOST_NAMED)
    word = "example" if len(examples) == 1 else "examples"
    return f"not finite, so that there is no answer: {len(lost)} ({word} {some})"


def _count(n: int, what: str) -> str:
    return f"1 {what}" if n == 1 else f"{n} {what}s"


def _table(console: Console, patch: str | None, found: Sequence[Mapping[str, Any]]) -> Table:
    names = ["example", "asked", "right", "said"]
    table = new_table(*(names if patch is None else ["layer", *names]))
    left = console.width - (9 if patch is None else 16) - 6
    widths = [max(6, min(_LONGEST, int(left * share))) for share in (_ASKED, _RIGHT, _SAID)]
    for record in found:
        asked = record["subject"] or _last_words(record["prompt"] or "–", widths[0])
        if record["new"]:
            asked += f" → {record['new']}"
        cells = [
            Text(str(record["example"]), justify="right"),
            clipped(asked, widths[0]),
            clipped(" | ".join(record["right"] or ["–"]), widths[1]),
            shortened(answered(record["said"]), widths[2]),
        ]
        table.add_row(
            *([] if patch is None else [Text(str(record["layer"]), justify="right")]), *cells
        )
    return table


def _last_words(prompt: str, width: int) -> str:
    """The end of a prompt, where what is asked stands."""
    return prompt if len(prompt) <= width else "…" + prompt[len(prompt) - width + 1 :]
