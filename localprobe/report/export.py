"""A run's scores, or its rows, as CSV, JSON lines or a Markdown table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files.foreign import escaped
from localprobe.report.documents import mean, score_records
from localprobe.report.misses import asked_of
from localprobe.report.terminal import json_text
from localprobe.runs.results import Run

FORMATS = ("csv", "jsonl", "md")


def exported(runs: Sequence[Run], form: str, *, rows: bool) -> str:
    """form: of FORMATS. rows: what was answered to each example, instead of mean scores."""
    records = [record for run in runs for record in (_answers(run) if rows else _scores(run))]
    if form == "jsonl":
        return "".join(json_text(record) + "\n" for record in records)
    names = list(dict.fromkeys(name for record in records for name in record))
    if form == "csv":
        records = [{name: _in_csv(value) for name, value in each.items()} for each in records]
        text = io.StringIO()
        # Quotes around all texts: before Python 3.13, a lone \r would get none, and end a row.
        writer = csv.DictWriter(
            text, names, lineterminator="\n", restval="", quoting=csv.QUOTE_NONNUMERIC
        )
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()
    lines = [names, ["---"] * len(names)]
    lines += [[_in_cell(record.get(name)) for name in names] for record in records]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _scores(run: Run) -> list[dict[str, Any]]:
    """Mean scores, the clean model's first, each with what it is of."""
    tally, about = run.tally, _about(run)
    clean = [
        {
            **about,
            "patch": "clean",
            "layer": None,
            "metric": metric,
            **asdict(score),
            "score": mean(score),
        }
        for metric in tally.clean_metrics
        for score in [tally.baseline_score(metric)]
    ]
    return [*clean, *({**about, **record} for record in score_records(tally))]


def _answers(run: Run) -> list[dict[str, Any]]:
    records = []
    asked = asked_of(run)
    for row in run.rows:
        clean = asked[row.example]
        record = {
            **_about(run),
            "example": row.example,
            "patch": row.patch,
            "layer": row.layer,
            "used": row.used,
            "cut": row.cut,
            "partner": row.partner,
            "last_token_only": row.last_token_only,
            "not_finite": row.not_finite,
            "near_tie": row.near_tie,
            "prompt": clean.prompt or None,
            "subject": clean.subject or None,
            "accepted": list(clean.accepted) or None,
            "new": row.new or None,
            "new_accepted": list(row.new_accepted) or None,
            "answer": row.answer,
        }
        first = {
            "first_token": row.top[0].text if row.top else None,
            "first_token_prob": row.top[0].prob if row.top else None,
        }
        for name in row.scores.keys() & {**record, **first}.keys():
            raise LocalprobeError(f"{run.path} is damaged: no score can be called {name!r}")
        ties = {
            f"{name}_ties_{end}": score
            for name in row.scores
            for end, score in zip(("low", "high"), row.could_score(name), strict=True)
        }
        knows = run.tally.knows_near_ties
        records.append({**record, **row.scores, **(ties if knows else {}), **first})
    return records


def _about(run: Run) -> dict[str, Any]:
    about = {"task": run.manifest.task, "model": run.manifest.model_name}
    return {"run": str(run.path), **about}


def _in_csv(value: object) -> object:
    r"""Texts on one line: \n is a newline, \r a carriage return, \\ a backslash."""
    if isinstance(value, list):
        value = " | ".join(value)
    if not isinstance(value, str):
        return value
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _in_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        value = " | ".join(value)
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return escaped(text.replace("\\", "\\\\").replace("|", "\\|"))
