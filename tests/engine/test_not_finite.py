"""Numbers that are not finite: marked, said, never scored, and no harm to other prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny

from localprobe import load_run
from localprobe.api import Model, RunningSweep, probe, sweep
from localprobe.engine.clean import clean_together
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Inject, Intervention, Random, Skip
from localprobe.engine.proof import _text, check_resume
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import ModelError, NotFiniteError
from localprobe.experiments.experiment import Experiment

POISON = ord("Z")
PROMPTS = [list(b"one two"), list(b"one Z two"), list(b"one Z"), list(b"one four five")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """One token has an embedding that is not finite."""
    shape = tiny.build("llama")
    shape.weights["token_embd.weight"][POISON] = np.float32(np.inf)
    path = tiny.write(shape, tmp_path_factory.mktemp("nan") / "p.gguf")
    with pytest.MonkeyPatch.context() as patch:
        # Weights that are not finite are refused; what matters here is what comes of such numbers.
        patch.setattr("localprobe.models.opening.vet", lambda _path, _digest: None)
        with Model(path, threads=1) as opened:
            yield opened


def answers(engine: FullEngine, kind: Intervention, which: list[int]) -> dict[tuple[int, int], str]:
    prompts = [PROMPTS[i] for i in which]
    stops = [None] * len(prompts)
    runs = engine.clean(prompts, range(4), max_tokens=3, stops=stops)
    fine = [i for i, run in enumerate(runs) if run.answer.is_finite]
    cells = engine.run(
        [runs[i] for i in fine],
        [kind] * len(fine),
        [0, 1, 3],
        max_tokens=3,
        examples=[which[i] for i in fine],
        stops=[None] * len(fine),
    )
    return {
        (which[fine[i]], layer): answer.text if answer.is_finite else "none"
        for i, layer, answer in cells
    }


def test_only_the_poisoned_prompts_have_no_answer(model: Model) -> None:
    inner = model.loaded.model
    for engine in (FullEngine(inner), ResumeEngine(inner, 4), ResumeEngine(inner, 1)):
        stops = [None] * len(PROMPTS)
        runs = engine.clean(PROMPTS, [1], max_tokens=3, stops=stops)
        assert [run.answer.is_finite for run in runs] == [True, False, False, True]
        expected = answers(FullEngine(inner), Skip(), [0, 3])
        assert answers(engine, Skip(), [0, 1, 2, 3]) == expected


@pytest.mark.parametrize("batch", [1, 4])
def test_what_is_injected_spoils_one_row_and_no_other(batch: int, model: Model) -> None:
    """Each prompt gets its own donor; that of the first one is poison at layer 1 alone."""
    inner = model.loaded.model
    engine = ResumeEngine(inner, batch)
    prompts = [PROMPTS[0], PROMPTS[3], list(b"six seven")]
    clean = engine.clean(prompts, range(4), max_tokens=2, stops=[None] * 3)
    poison = {k: clean[1].states[k].copy() for k in range(4)}
    poison[1][2] = np.nan
    injections: list[Intervention] = [
        Inject(poison, (2,), (2,)),
        Inject(clean[2].states, (2,), (1,)),
        Inject(clean[1].states, (3,), (1,)),
    ]

    def run(these: FullEngine) -> dict[tuple[int, int], tuple[bool, str]]:
        cells = these.run(
            clean, injections, [0, 1, 2], max_tokens=2, examples=[0, 1, 2], stops=[None] * 3
        )
        return {(i, k): (answer.is_finite, answer.text) for i, k, answer in cells}

    found = run(engine)
    assert found == run(FullEngine(inner))
    assert [key for key, (finite, _) in found.items() if not finite] == [(0, 1)]


def test_a_sweep_marks_them_and_goes_on(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    texts = [bytes(prompt).decode() for prompt in PROMPTS]
    path.write_text("\n".join(json.dumps({"prompt": t, "answers": ["x"]}) for t in texts), "utf-8")
    experiment = Experiment("jsonl", ("random", "skip"), data=path, all_examples=True, max_tokens=2)
    with RunningSweep(model, experiment, tmp_path / "out") as running:
        rows = [row for row in running.rows() if row]
    bad = [row for row in rows if row.not_finite]
    assert [(row.example, row.patch, row.used) for row in bad] == [
        (1, "clean", False),
        (2, "clean", False),
    ]
    assert all(not row.scores and not row.top for row in bad)
    tally = running.sweep.tally
    assert (tally.n_not_finite, tally.clean.n, tally.baseline.n) == (2, 2, 2)
    whole = (tmp_path / "out" / "rows.jsonl").read_bytes()
    assert whole.count(b'"not_finite":true') == 2
    again = sweep(
        model,
        "jsonl",
        ["random", "skip"],
        data=path,
        all_examples=True,
        max_tokens=2,
        out=tmp_path / "out",
        progress=False,
    )
    assert again.tally.n_not_finite == 2


def test_one_prompt_says_so(model: Model) -> None:
    with pytest.raises(NotFiniteError, match="not finite"):
        probe(model, "one Z two", ["skip"])
    assert Random().name in {row.patch for row in probe(model, "one two", ["random"]).rows}


@pytest.mark.parametrize("batch", [1, 4])
def test_a_donor_without_finite_states_spoils_its_own_rows(
    batch: int, model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "own.jsonl"
    swaps = [("one", "six"), ("two", "Z"), ("six", "one")]
    with path.open("w", encoding="utf-8") as file:
        for old, new in swaps:
            record = {"prompt": f"{old} or four", "answers": ["x"], "old": old, "new": new}
            file.write(json.dumps({**record, "new_answers": ["y"]}) + "\n")
    experiment = Experiment("jsonl", ("swap",), "1:", data=path, all_examples=True, max_tokens=2)
    with RunningSweep(model, experiment, tmp_path / "out", batch=batch) as running:
        rows = [row for row in running.rows() if row]
    assert len(rows) == 3 * (1 + 3)
    bad = {(row.example, row.patch, row.layer) for row in rows if row.not_finite}
    assert bad == {(1, "swap", layer) for layer in (1, 2, 3)}
    run = load_run(tmp_path / "out")
    assert run.is_finished
    score = run.tally.score("swap", "original", 1)
    assert score is not None
    assert score.n == 2


def test_a_model_that_has_no_finite_numbers_in_the_self_check(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bits of weights that were turned can leave it: fine for one prompt, and not for others."""
    inner = model.loaded.model
    text = _text(inner)
    # Of the first prompt, of the second one, and of those that are measured in company.
    for token in (text[0], text[5], text[100]):

        def clean(*given: Any, token: int = token) -> Any:
            if any(token in prompt for prompt in given[3]):
                raise NotFiniteError("poison")
            return clean_together(*given)

        with monkeypatch.context() as patch:
            patch.setattr("localprobe.engine.resume.clean_together", clean)
            with pytest.raises(ModelError, match="no finite logits"):
                check_resume(inner)
