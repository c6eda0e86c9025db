"""An adaptive sweep has the rows of a whole one, byte for byte, of fewer examples a layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localprobe import load_run, sweep
from localprobe.api import Model, RunningSweep
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.runs.adaptive import is_look
from localprobe.runs.folder import ROWS, GrowingRows
from localprobe.runs.manifest import MANIFEST
from localprobe.runs.merging import merge
from localprobe.runs.rows import CLEAN, from_json
from localprobe.runs.shard import Shard
from localprobe.runs.stages import is_narrow
from localprobe.tasks.base import Example
from localprobe.tasks.jsonl import Jsonl

METRIC = "exact_match"
N_LAYER = 8
PATCHES = ("freeze", "skip", "random")
N = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    from helpers import tiny

    path = tmp_path_factory.mktemp("deep") / "deep.gguf"
    with Model(tiny.write(tiny.build("llama", n_layer=N_LAYER), path), threads=1) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is right hangs on the first letter said, so that at the last layers all that the clean
    model gets right is right, and elsewhere whatever comes."""

    def examples(_task: Jsonl) -> list[Example]:
        return [Example(n, f"say {n} now:", ("x",)) for n in range(N)]

    def score(_task: Jsonl, text: str, example: Example) -> dict[str, float]:
        right = sum(text.encode()) % 8 > 1
        return {METRIC: float(right), "prefix_match": float(len(text) > 1)}

    monkeypatch.setattr(Jsonl, "score", score)
    monkeypatch.setattr(Jsonl, "examples", examples)
    monkeypatch.setattr(Jsonl, "is_settled", lambda *_: False)
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "answers": ["x"]}\n', encoding="utf-8")
    return {"data": path, "max_tokens": 2, "progress": False}
