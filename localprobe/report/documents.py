"""The JSON documents: one a command, for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from localprobe.api import Probe, Swap
from localprobe.engine.answers import top_tokens
from localprobe.engine.full import Answer
from localprobe.experiments.bench import BenchResult, PatchTimes
from localprobe.experiments.probe import ProbeRow
from localprobe.llama.model import Model
from localprobe.models.opening import LoadedModel, model_record
from localprobe.report.adaptive import adaptive_record
from localprobe.report.transition import transition_record
from localprobe.runs.manifest import Manifest
from localprobe.runs.tally import Score, Tally


def token_records(model: Model, tokens: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"id": token, "text": model.piece(token, control=True).decode(errors="replace")}
        for token in tokens
    ]


def answer_record(model: Model, answer: Answer) -> dict[str, Any]:
    top = [asdict(token) for token in top_tokens(model, answer.logits)]
    return {"text": answer.text, "top": top}


def probe_document(loaded: LoadedModel, probe: Probe) -> dict[str, Any]:
    return {
        "model": model_record(loaded),
        "prompt": probe.prompt,
        "tokens": token_records(loaded.model, probe.tokens),
        "baseline": {**answer_record(loaded.model, probe.clean), "p_clean": probe.p_clean},
        "first_token": token_records(loaded.model, probe.clean.all_tokens[:1])[0],
        "at": probe.at,
        "injected": _injection_record(loaded.model, probe),
        "rows": [_probe_record(row) for row in probe.rows],
        "survives_from": {patch: probe.survives_from(patch) for patch in probe.patches},
    }


def _injection_record(model: Model, probe: Probe) -> dict[str, Any] | None:
    """Which tokens of the donor went where."""
    injection = probe.injection
    if injection is None:
        return None
    return {
        "donor": injection.prompt,
        "donor_tokens": token_records(model, injection.tokens),
        "at": injection.donor.at,
        "donor_at": injection.donor.donor_at,
        "token_for_token": injection.token_for_token,
        "text": injection.text,
    }


def _probe_record(row: ProbeRow) -> dict[str, Any]:
    """p_clean: of several draws the mean; p_low, p_high: the least and the greatest of them."""
    low, high = row.p_range
    return {**asdict(row), "p_low": low, "p_high": high, "clean_share": row.clean_share}


def swap_document(loaded: LoadedModel, swap: Swap) -> dict[str, Any]:
    model, plan = loaded.model, swap.plan
    return {
        "model": model_record(loaded),
        "prompt": swap.prompt,
        "old": swap.old,
        "new": swap.new,
        "tokens": token_records(model, plan.prompt),
        "donor_tokens": token_records(model, plan.donor),
        "at": plan.at,
        "donor_at": plan.donor_at,
        "token_for_token": plan.token_for_token,
        "baseline": answer_record(model, swap.original),
        "donor_baseline": answer_record(model, swap.modified),
        "parting": {
            "shared": token_records(model, swap.parting.shared),
            "original": token_records(model, [swap.parting.original])[0],
            "modified": token_records(model, [swap.parting.modified])[0],
        },
        "rows": [asdict(row) for row in swap.rows],
        "flip_layer": swap.flip_layer,
    }


def bench_document(loaded: LoadedModel, result: BenchResult, size: int) -> dict[str, Any]:
    """Seconds a prompt. total: random, shuffle, freeze and skip with one clean pass."""

    def times(each: PatchTimes) -> dict[str, Any]:
        return {**asdict(each), "ratio": each.ratio, "efficiency": each.efficiency}

    return {
        "model": model_record(loaded),
        "n": result.n_prompts,
        "prefill": [
            {"rows": rows, "ms_per_token": 1000 * seconds}
            for rows, seconds in result.prefill.items()
        ],
        "interventions": [times(each) for each in result.patches],
        "clean_s": result.clean_s,
        "total": times(result.together),
        "file_bytes": size,
        "peak_memory_bytes": result.peak_memory,
    }


def sweep_document(manifest: Manifest, tally: Tally) -> dict[str, Any]:
    """baseline: the clean model on every example tried; used: on those that were swept.

    near_ties: how many answers are some; near_ties_changing: how many of these could change a
    score; used_by_near_tie: how many examples are used, or not, by one.
    transition_ranges: [earliest, latest], however near ties fall; earliest null: nowhere in any
    case; latest null: possibly nowhere.
    transition_limits: [low, high], the 95 % interval over examples; low null: nowhere; high null:
    possibly nowhere; null where scores have degrees. descent: of a transition, what its examples
    did, by intervention; wider: those whose interval is wider than until_width. adaptive: of such
    a sweep, the width asked for, and which layers ran out of examples before they had it; rows have
    their own n.
    """
    return {
        "model": manifest.data["model"],
        "task": manifest.data["experiment"]["task"],
        "n": tally.baseline.n,
        "finished": manifest.is_finished,
        "n_wanted": manifest.n_wanted,
        "seed": manifest.data["experiment"]["seed"],
        "metric": tally.metric,
        "chance": tally.chance,
        "baseline": _mean_record(tally.clean),
        "used": _mean_record(tally.baseline),
        "cut": tally.n_cut,
        "not_finite": tally.n_not_finite,
        "near_ties": tally.n_near_ties if tally.knows_near_ties else None,
        "near_ties_changing": tally.n_turning if tally.knows_near_ties else None,
        "used_by_near_tie": tally.n_used_by_tie if tally.knows_near_ties else None,
        "last_token_only": tally.n_last_token_only,
        "rows": score_records(tally),
        "transitions": {patch: tally.transition(patch) for patch in tally.patches},
        "transition_ranges": {patch: _reach(tally, patch) for patch in tally.patches},
        "transition_limits": {patch: _limits(tally, patch) for patch in tally.patches},
        "kept": tally.kept,
        "descent": transition_record(tally),
        "adaptive": adaptive_record(tally),
    }


def _limits(tally: Tally, patch: str) -> list[int | None] | None:
    found = tally.limits(patch)
    return None if found is None else [found.low, found.high]


def _mean_record(score: Score) -> dict[str, Any]:
    ties = {"ties_low": score.ties_low, "ties_high": score.ties_high}
    return {"score": mean(score), "n": score.n, **ties}


def _reach(tally: Tally, patch: str) -> list[int | None] | None:
    reach = tally.reach(patch)
    return None if reach is None else [reach.earliest, reach.latest]


def mean(score: Score) -> float | None:
    """None of no examples."""
    return score.score if score.n else None


def score_records(tally: Tally) -> list[dict[str, Any]]:
    """Every score of the table, of all metrics: patch, layer, metric, score, n, interval."""
    records = []
    for column in tally.all_columns:
        for layer in column.layers:
            score = tally.score(column.patch, column.metric, layer)
            if score is not None:
                place = {"patch": column.patch, "layer": layer, "metric": column.metric}
                records.append({**place, **asdict(score)})
    return records
