"""squad, cnn_dailymail, math and jsonl through whole sweeps, against the numpy oracle.

The default model is poor at some of them. So a constructed one answers here: every answer that a
sweep reports, and every mean score, must be what the oracle says of the same prompt.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import oracle, tiny

from localprobe.api import Model, RunningSweep
from localprobe.engine.interventions import random_states
from localprobe.experiments.experiment import Experiment
from localprobe.tasks import task_by_name
from localprobe.tasks.base import TaskOptions

LAYERS = (1, 3)
MAX_TOKENS = 3
PROMPTS = ("Ulm is old.", "Bath is wet!", "Nome, cold?")


def said(prompt: str, patch: str, layer: int, example: int) -> str:
    """The oracle's greedy answer."""

    def draw(_name: str, past: np.ndarray, k: int) -> np.ndarray:
        return random_states(past, seed=0, example=example, layer=k, start=0)

    shape, sequence = tiny.build("llama"), list(prompt.encode())
    for _ in range(MAX_TOKENS):
        if patch == "clean":
            logits = oracle.logits(shape, sequence)
        else:
            logits = oracle.intervened(shape, sequence, patch, layer, draw)
        token = int(logits.argmax())
        if token == tiny.EOS:
            break
        sequence.append(token)
    tokens = sequence[len(prompt.encode()) :]
    return b"".join(b"ab" if t == 256 else bytes([t]) for t in tokens).decode(errors="replace")


def write(task: str, folder: Path) -> tuple[Path, str | None]:
    """A data file whose prompts are PROMPTS, and the template that makes them so."""
    # What the model says under damage at some layer is right, so that scores are not all 0 or 1.
    answers = [said(PROMPTS[0], "freeze", 3, 0), said(PROMPTS[1], "skip", 1, 1), "a cold place"]
    if task == "squad":
        data = [
            {
                "paragraphs": [
                    {"context": p, "qas": [{"question": "?", "answers": [{"text": a + " x"}]}]}
                ]
            }
            for p, a in zip(PROMPTS, answers, strict=True)
        ]
        path, template = folder / "squad.json", "{passage}{question}"
        path.write_text(json.dumps({"data": data}), encoding="utf-8")
        return path, template
    keys = ("article", "highlights") if task == "cnn_dailymail" else ("prompt", "answers")
    records = [
        {keys[0]: p, keys[1]: a + " x" if task == "cnn_dailymail" else [a + "x"]}
        for p, a in zip(PROMPTS, answers, strict=True)
    ]
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path, "{article}" if task == "cnn_dailymail" else None


@pytest.mark.parametrize("task", ["squad", "cnn_dailymail", "jsonl"])
def test_answers_and_scores_are_the_oracles(task: str, model: Model, tmp_path: Path) -> None:
    data, template = write(task, tmp_path)
    patches = ("random", "freeze", "skip")
    experiment = Experiment(
        task,
        patches,
        ",".join(map(str, LAYERS)),
        all_examples=True,
        max_tokens=MAX_TOKENS,
        template=template,
        data=data,
    )
    with RunningSweep(model, experiment) as running:
        rows = [row for row in running.rows() if row]
        run = running.found()
    scorer = task_by_name(task, TaskOptions(template, data))
    examples = {example.number: example for example in scorer.examples()}
    assert len(rows) == 3 * (1 + len(patches) * len(LAYERS))
    expected: dict[tuple[str, str, int | None], list[float]] = {}
    for row in rows:
        prompt = examples[row.example].prompt
        answer = said(prompt, row.patch, row.layer or 0, row.example)
        # An answer that can no longer change its score is not generated to its end.
        assert answer.startswith(row.answer)
        scores = scorer.score(answer, examples[row.example])
        assert row.scores == scores
        for metric, score in scores.items():
            expected.setdefault((row.patch, metric, row.layer), []).append(score)
    for (patch, metric, layer), scores in expected.items():
        if layer is not None:
            found = run.tally.score(patch, metric, layer)
            assert found is not None
            assert found.score == pytest.approx(np.mean(scores))
    distinct = {row.answer for row in rows}
    assert len(distinct) > 3
