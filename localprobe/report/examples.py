"""What is behind the cells of a run: its examples, as many as a page can hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from localprobe.report.page import safe_json, shown
from localprobe.report.terminal import visible
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.tally import SWAP

MOST_BYTES = 4_000_000
"""Of all examples, so that a page, with what draws its figures, stays below 6 MB."""
_LONGEST_PROMPT, _LONGEST_ANSWER, _LONGEST_TOKEN, _MOST_ACCEPTED = 3000, 600, 60, 5


def cell_key(run: int, patch: str, layer: int) -> str:
    """Of the examples behind a cell; run: which of the page's, from 0."""
    return f"{run}/{patch}/{layer}"


class Examples:
    """The first examples of each run, all of their cells; equally many of each run.

    record: as JSON. counts: for each run, how many there are of how many.
    """

    def __init__(self, runs: Sequence[Run], most: int, most_bytes: int = MOST_BYTES) -> None:
        self._asked: dict[str, dict[str, Any]] = {}
        self._cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
        there = [_by_example(run) for run in runs]
        numbers = [sorted(each) for each in there]
        self._shown = [0] * len(runs)
        left = most_bytes
        for place in range(min(most, max((len(each) for each in numbers), default=0))):
            added = [
                (number, _records(run, number, rows[order[place]]))
                for number, (run, rows, order) in enumerate(zip(runs, there, numbers, strict=True))
                if place < len(order)
            ]
            left -= sum(len(safe_json(records).encode()) for _, records in added)
            if left < 0:
                break
            for number, (asked, cells) in added:
                self._shown[number] += 1
                self._asked |= asked
                for key, record in cells:
                    self._cells[key].append(record)
        self.counts = [(n, len(order)) for n, order in zip(self._shown, numbers, strict=True)]

    @property
    def record(self) -> dict[str, Any]:
        return {"asked": self._asked, "cells": self._cells}

    def has(self, key: str) -> bool:
        return key in self._cells

    @property
    def note(self) -> str:
        """How many there are, where they are not all."""
        left_out = [(n, of) for n, of in self.counts if n < of]
        if not left_out:
            return "A number opens the answers behind it."
        n, of = max(n for n, _ in self.counts), max(of for _, of in left_out)
        return (
            f"A number opens answers behind it: those of the first {n} examples of each run "
            f"(there are up to {of}); the scores are of all."
        )


def _by_example(run: Run) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for row in run.rows:
        found[row.example].append(row)
    return found


def _records(
    run: Run, number: int, rows: Sequence[Row]
) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """What was asked in an example, and what was answered in each of its cells."""
    clean = next(row for row in rows if row.patch == CLEAN)
    asked = {
        "prompt": shown(clean.prompt, _LONGEST_PROMPT),
        "subject": visible(clean.subject),
        "right": [shown(each, _LONGEST_ANSWER) for each in clean.accepted[:_MOST_ACCEPTED]],
        "clean": None if clean.not_finite else shown(clean.answer, _LONGEST_ANSWER),
        "top": _top(clean),
    }
    cells = [
        (cell_key(number, row.patch, row.layer), _answered(run, row, clean))
        for row in rows
        if row.layer is not None
    ]
    return {f"{number}/{clean.example}": asked}, cells


def _answered(run: Run, row: Row, clean: Row) -> dict[str, Any]:
    marks = [
        text
        for holds, text in (
            (row.near_tie, "near tie"),
            (clean.cut, "prompt cut short"),
            (row.last_token_only, "only the word's last token was swapped"),
        )
        if holds
    ]
    record: dict[str, Any] = {
        "example": row.example,
        "answer": None if row.not_finite else shown(row.answer, _LONGEST_ANSWER),
        "scores": _scores(run, row),
        "right": any(score > 0 for _, score in _scores(run, row)[:1]),
        "changed": row.answer != clean.answer,
        "top": _top(row),
    }
    if marks:
        record["marks"] = marks
    if row.patch == SWAP:
        record["new"] = visible(row.new)
        record["new_right"] = [shown(t, _LONGEST_ANSWER) for t in row.new_accepted[:_MOST_ACCEPTED]]
    return record


def _top(row: Row) -> list[tuple[str, float]]:
    return [(visible(each.text)[:_LONGEST_TOKEN], round(each.prob, 4)) for each in row.top]


def _scores(run: Run, row: Row) -> list[tuple[str, float]]:
    """The one that matters first."""
    scores: Mapping[str, float] = row.scores
    first = [name for name in (run.tally.metric,) if name in scores]
    names = [*first, *(name for name in scores if name not in first)]
    return [(name, round(scores[name], 4)) for name in names]
