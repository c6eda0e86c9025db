"""An intervention is one class in one place: engines, recipes, sweeps and tables then know it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from localprobe.api import Model, load_run
from localprobe.cli.app import main
from localprobe.engine import interventions
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Edit, FloatArray, Intervention, Plain, register
from localprobe.engine.proof import check_resume
from localprobe.engine.resume import ResumeEngine

RECIPE = """\
description = "Zeros"
model = "{model}"
interventions = ["zero", "freeze"]
layers = "1:"
all_examples = true

[tasks.jsonl]
data = "questions.jsonl"
n = 3
max_tokens = 3
"""


@pytest.fixture(params=[False, True], ids=["once", "held"])
def zero(request: pytest.FixtureRequest) -> Iterator[type[Intervention]]:
    """Past states become 0: at the input of block k, or of every block from k on."""

    @register
    @dataclass(frozen=True)
    class Zero(Plain):
        name: ClassVar[str] = "zero"
        holds_past: ClassVar[bool] = request.param

        def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
            def past(_layer: int, past: FloatArray) -> FloatArray:
                return np.zeros_like(past)

            last = n_layer if self.holds_past else layer + 1
            return Edit(frozenset(range(layer, last)), past)

    yield Zero
    interventions.forget("zero")


def test_both_engines_agree_on_it(
    zero: type[Intervention], tiny_engine: Callable[[str], FullEngine]
) -> None:
    model = tiny_engine("qwen3").model
    full, resume = FullEngine(model), ResumeEngine(model)
    prompts = [[3, 9, 4, 11, 6], [5, 2, 8]]
    stops = [None, None]
    layers = range(model.n_layer)
    runs = resume.clean(prompts, layers, max_tokens=4, stops=stops)
    kind = zero.build(0, None)
    cells = list(resume.run(runs, [kind, kind], layers, max_tokens=4, examples=[0, 1], stops=stops))
    assert len(cells) == 2 * model.n_layer
    differs = False
    for i, layer, answer in cells:
        expected = full.answer(prompts[i], max_tokens=4, intervention=kind, layer=layer, example=i)
        np.testing.assert_allclose(answer.logits, expected.logits, atol=1e-3)
        assert answer.tokens == expected.tokens
        differs |= not np.allclose(answer.logits, runs[i].answer.logits, atol=1e-2)
    assert differs
    check_resume(model)


def test_it_runs_through_a_recipe_a_sweep_a_table_and_a_figure(
    zero: type[Intervention],
    tiny_file: Callable[[str], Path],
    own_cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [{"prompt": f"the {word} is", "answers": ["x"]} for word in ("one", "two", "three")]
    Path("questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = tiny_file("llama").as_posix()
    Path("zero.toml").write_text(RECIPE.format(model=model))
    assert main(["run", "zero.toml", "--out", "found"]) == 0
    shown = capsys.readouterr().out
    assert "zero" in next(line for line in shown.splitlines() if line.startswith("layer"))
    run = load_run("found")
    with Model(model) as opened:
        n_layer = opened.n_layer
    assert [row.layer for row in run.rows if row.patch == "zero"] == 3 * list(range(1, n_layer))
    assert main(["show", "found"]) == 0
    assert "\nzero " in capsys.readouterr().out
    assert main(["plot", "found", "-o", "found.png"]) == 0
    assert Path("found.png").stat().st_size > 1000
    assert main(["probe", "a b c", "-m", model, "-p", "zero", "--max-tokens", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["patch"] for row in rows} == {"zero"}
    assert main(["sweep", "--help"]) == 0
    assert "zero" in capsys.readouterr().out
