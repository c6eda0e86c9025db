"""The JSON documents: one a command, for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from localprobe.answers import top_tokens
from localprobe.bench import BenchResult, PatchTimes
from localprobe.engine.full import Answer
from localprobe.llama.model import Model
from localprobe.models import LoadedModel
from localprobe.probe import ProbeRow
from localprobe.swap import Swap, SwapRow, flip_layer
from localprobe.sweep import Sweep


def model_record(loaded: LoadedModel) -> dict[str, Any]:
    info = loaded.model.info
    return {
        "name": loaded.name,
        "path": str(loaded.model.path),
        "sha256": loaded.sha256,
        "architecture": info.architecture,
        "n_layer": info.n_layer,
        "n_embd": info.n_embd,
        "file_type": info.file_type,
    }


def token_records(model: Model, tokens: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"id": token, "text": model.piece(token, control=True).decode(errors="replace")}
        for token in tokens
    ]


def answer_record(model: Model, answer: Answer) -> dict[str, Any]:
    top = [asdict(token) for token in top_tokens(model, answer.logits)]
    return {"text": answer.text, "top": top}


def probe_document(
    loaded: LoadedModel,
    prompt: str,
    tokens: Sequence[int],
    baseline: Answer,
    rows: Sequence[ProbeRow],
) -> dict[str, Any]:
    return {
        "model": model_record(loaded),
        "prompt": prompt,
        "tokens": token_records(loaded.model, tokens),
        "baseline": answer_record(loaded.model, baseline),
        "rows": [asdict(row) for row in rows],
    }


def swap_document(
    loaded: LoadedModel,
    prompt: str,
    words: tuple[str, str],
    swap: Swap,
    rows: Sequence[SwapRow],
) -> dict[str, Any]:
    model, plan = loaded.model, swap.plan
    return {
        "model": model_record(loaded),
        "prompt": prompt,
        "old": words[0],
        "new": words[1],
        "tokens": token_records(model, plan.prompt),
        "donor_tokens": token_records(model, plan.donor),
        "at": plan.at,
        "donor_at": plan.donor_at,
        "token_for_token": plan.token_for_token,
        "baseline": answer_record(model, swap.original),
        "donor_baseline": answer_record(model, swap.modified),
        "rows": [asdict(row) for row in rows],
        "flip_layer": flip_layer(rows),
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


def sweep_document(loaded: LoadedModel, sweep: Sweep) -> dict[str, Any]:
    """baseline: the clean model on every example tried; used: on those that were swept."""
    tally = sweep.tally
    rows = []
    for column in sweep.columns:
        for layer in column.layers:
            score = tally.score(column.patch, column.metric, layer)
            if score is not None:
                place = {"patch": column.patch, "layer": layer, "metric": column.metric}
                rows.append({**place, **asdict(score)})
    patches = dict.fromkeys(column.patch for column in sweep.columns)
    return {
        "model": model_record(loaded),
        "task": sweep.task.name,
        "n": tally.baseline.n,
        "seed": sweep.seed,
        "baseline": {"score": tally.clean.score, "n": tally.clean.n},
        "used": {"score": tally.baseline.score, "n": tally.baseline.n},
        "rows": rows,
        "transitions": {patch: sweep.transition(patch) for patch in patches},
    }
