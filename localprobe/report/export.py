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
from localprobe.report.maps_view import cell_records, number
from localprobe.report.misses import asked_of
from localprobe.report.terminal import json_text
from localprobe.runs.maps import Maps
from localprobe.runs.results import Run

FORMATS = ("csv", "jsonl", "md")


def exported(runs: Sequence[Run | Maps], form: str, *, rows: bool) -> str:
    """form: of FORMATS. rows: what was found of each example, instead of means."""
    records = [record for run in runs for record in _records(run, rows=rows)]
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


def _records(run: Run | Maps, *, rows: bool) -> list[dict[str, Any]]:
    if isinstance(run, Maps):
        return _map_cells(run) if rows else _mean_cells(run)
    return _answers(run) if rows else _scores(run)


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


def _mean_cells(found: Maps) -> list[dict[str, Any]]:
    """Means over examples in every cell; those of the clean model first, of no role and layer."""
    about = {**_about(found), "patch": found.patch, "metric": found.metric}
    if found.direction is not None:
        about["direction"] = found.direction
    clean = dict(zip(("value", "low", "high"), map(number, found.clean), strict=True))
    records = [{**about, "role": None, "layer": None, "n": len(found.used), **clean}]
    return records + [{**about, **record} for record in cell_records(found)]


def _map_cells(found: Maps) -> list[dict[str, Any]]:
    """Every cell of every example; of one that is not used, what was answered alone."""
    records = []
    for row in found.rows:
        about = {
            **_about(found),
            "example": row.example,
            "patch": found.patch,
            "metric": found.metric,
            "used": row.used,
            "prompt": row.prompt,
            "subject": row.subject,
            "accepted": list(row.accepted) or None,
            "answer": row.answer,
            "first_token": row.first or None,
            "clean": row.clean,
        }
        if found.direction is not None or found.metric == "logit-diff":
            about |= {
                "donor": row.donor,
                "donor_prompt": row.donor_prompt,
                "new": row.new,
                "donor_first_token": row.donor_first,
                "there": row.there,
                "without_donor": row.without_donor,
            }
        if not row.used:
            records.append({**about, "role": None, "positions": None, "layer": None})
        for role, at in row.roles.items():
            cells = zip(found.layers.tolist(), row.values[role], row.effects[role], strict=True)
            records += [
                {
                    **about,
                    "role": role,
                    "positions": " ".join(map(str, at)),
                    "layer": layer,
                    "value": value,
                    "effect": effect,
                }
                for layer, value, effect in cells
            ]
    return records


def _about(run: Run | Maps) -> dict[str, Any]:
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
