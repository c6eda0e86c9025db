"""Runs on disk that no model made: of any size, with any text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from localprobe.engine.answers import Token
from localprobe.engine.interventions import first_layer
from localprobe.runs.folder import ROWS
from localprobe.runs.manifest import FORMAT, Manifest, write_manifest
from localprobe.runs.results import Run, read_run
from localprobe.runs.rows import CLEAN, Row, to_json
from localprobe.runs.tally import MODIFIED, ORIGINAL, SWAP

ALL = ("random", "shuffle", "freeze", "skip", SWAP)
Text = Callable[[int], str]


def manifest(
    patches: Sequence[str],
    n_layer: int,
    *,
    task: str = "capitals",
    metrics: Sequence[str] = ("exact_match",),
    model: str = "made",
    ended: bool = True,
    n_rows: int = 0,
    n: int = 0,
) -> Manifest:
    columns = []
    for patch in patches:
        for metric in (ORIGINAL, MODIFIED) if patch == SWAP else metrics:
            layers = list(range(first_layer(patch), n_layer))
            columns.append({"patch": patch, "metric": metric, "layers": layers})
    data: dict[str, Any] = {
        "format": FORMAT,
        "localprobe": "0.2.0",
        "llama_cpp_python": "0.3.36",
        "numpy": "2.0",
        "engine": "resume",
        "devices": ["cpu"],
        "batch": 1,
        "model": {
            "name": model,
            "architecture": "llama",
            "file_type": "Q4_1",
            "sha256": "ab" * 32,
            "n_layer": n_layer,
        },
        "experiment": {"task": task, "seed": 3, "shard": "1/1", "layers": "all", "n": n},
        "metric": metrics[0],
        "chance": {metrics[0]: 0.1},
        "columns": columns,
        "noise": 0.01,
        "started": "2025-01-01T00:00:00",
        "ended": "2025-01-01T01:00:00" if ended else None,
        "counts": {"rows": n_rows, "tried": n, "used": n} if ended else None,
    }
    return Manifest(data)


def write(
    folder: Path,
    n: int = 6,
    n_layer: int = 6,
    patches: Sequence[str] = ALL,
    *,
    asked: Text = lambda n: f"Q: What is the capital of land {n}?\nA:",
    answer: Text = lambda n: f" town {n}",
    metrics: Sequence[str] = ("exact_match",),
    ended: bool = True,
    **settings: Any,
) -> Run:
    """Examples that survive more layers the later they are damaged; every third from its own on."""
    rows = []
    drawn = random.Random(5)
    for example in range(n):
        top = tuple(Token(i, f" t{i}", 3.0 - i, 0.5 / (i + 1)) for i in range(5))
        right = dict.fromkeys(metrics, 1.0)
        said = answer(example)
        rows.append(
            Row(
                example,
                CLEAN,
                None,
                said,
                right,
                top,
                prompt=asked(example),
                accepted=(said.strip(), "or so"),
                subject=f"land {example}",
            )
        )
        for number, patch in enumerate(patches):
            for layer in range(first_layer(patch), n_layer):
                kept = layer + drawn.random() * 2 > n_layer / 2 + number / 2
                scores = {metric: float(kept) for metric in metrics}
                extra: dict[str, Any] = {}
                if patch == SWAP:
                    scores = {ORIGINAL: float(kept), MODIFIED: float(not kept)}
                    extra = {"partner": (example + 1) % n, "new": f"land {(example + 1) % n}"}
                    extra["new_accepted"] = (answer((example + 1) % n).strip(),)
                text = said if kept else f"not {said}, {patch}"
                rows.append(Row(example, patch, layer, text, scores, top, **extra))
    folder.mkdir(parents=True)
    made = manifest(
        patches, n_layer, metrics=metrics, ended=ended, n_rows=len(rows), n=n, **settings
    )
    write_manifest(folder, made)
    text = "".join(to_json(row) + "\n" for row in rows)
    (folder / ROWS).write_text(text, encoding="utf-8", newline="\n")
    return read_run(folder)
