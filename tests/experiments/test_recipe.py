from __future__ import annotations

import re
from pathlib import Path

import pytest

from localprobe.errors import LocalprobeError
from localprobe.experiments.recipe import recipe
from localprobe.files.resources import recipe_files
from localprobe.runs.tally import patches as sweepable

GOOD = """\
# a comment
description = "d"
model = "m"
interventions = ["freeze"]
n = 7

[tasks.capitals]
layers = "::3"

[tasks.math]
n = 9
digits = 2
interventions = ["skip", "random"]
"""


def test_one_for_every_experiment_of_the_paper() -> None:
    found = {path.stem: recipe(path.stem) for path in recipe_files()}
    for patch in sweepable():
        experiments = found[f"paper-{patch}"].experiments
        assert all(each.patches == (patch,) for each in experiments)
        assert all(each.layers in ("all", "::3") for each in experiments)
        asked = [(each.template, each.shots, each.prompts) for each in experiments]
        assert set(asked) == {(None, None, "paper")}
    assert {"quick", "all", "demo"} <= set(found)
    for each in found.values():
        assert each.description
        for experiment in each.experiments:
            assert experiment.build_task().examples()
    assert [each.task for each in found["paper-swap"].experiments] == ["capitals"]


def test_what_stands_above_the_tasks_holds_for_all(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + 'data = "own.jsonl"\n', encoding="utf-8")
    found = recipe(str(path))
    capitals, math = found.experiments
    assert (found.name, found.model) == ("mine", "m")
    assert (capitals.n, capitals.layers, capitals.patches) == (7, "::3", ("freeze",))
    assert (math.n, math.digits, math.patches) == (9, 2, ("skip", "random"))
    assert math.data == tmp_path / "own.jsonl"


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("n = 7", "m = 7"), 5, "unknown key 'm'"),
        (("n = 9", "nn = 9"), 11, "unknown key 'nn'"),
        (("n = 9", "n = 0"), 11, "at least 1"),
        (("n = 9", "n = 'x'"), 11, "must be a whole number"),
        (("n = 9", "n = true"), 11, "must be a whole number"),
        (('["freeze"]', '["frezee"]'), 4, "did you mean freeze"),
        (('["skip", "random"]', "[3]"), 13, "unknown intervention 3"),
        (("[tasks.math]", "[tasks.maths]"), 10, "did you mean math"),
        (("model = ", "# "), 1, "lacks model"),
        (('interventions = ["freeze"]', ""), 7, "lacks interventions"),
        (("digits = 2", "digits = "), 12, "not valid TOML"),
        (("digits = 2", "shots = -1"), 12, "shots must be at least 0"),
        (("digits = 2", "prompts = 'modle'"), 12, "unknown prompts 'modle'; did you mean model"),
    ],
)
def test_a_broken_recipe_is_named_with_the_line(
    change: tuple[str, str], line: int, message: str, tmp_path: Path
) -> None:
    assert change[0] in GOOD
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(*change, 1), encoding="utf-8")
    with pytest.raises(LocalprobeError) as caught:
        recipe(str(path))
    assert re.search(message, str(caught.value))
    assert re.search(rf"mine\.toml, line {line}\b", str(caught.value))


def test_unknown_names_and_files() -> None:
    with pytest.raises(LocalprobeError, match="did you mean paper-freeze"):
        recipe("paper-freze")
    with pytest.raises(LocalprobeError, match="cannot read"):
        recipe("nowhere.toml")


def test_a_recipe_without_tasks(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    path.write_text('description = "d"\nmodel = "m"\n', encoding="utf-8")
    with pytest.raises(LocalprobeError, match=re.escape("lacks [tasks.NAME]")):
        recipe(str(path))


def test_a_transition_in_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "down.toml"
    path.write_text(
        'description = "d"\nmodel = "m"\ninterventions = ["skip"]\npatience = 2\nkeep = 0.8\n'
        "check = 1\n\n[tasks.capitals]\nuntil_width = 2\n\n[tasks.math]\ncheck = 0.1\n",
        encoding="utf-8",
    )
    capitals, math = recipe(str(path)).experiments
    assert (capitals.patience, capitals.keep, capitals.check) == (2, 0.8, 1)
    assert (capitals.until_width, math.until_width, math.check) == (2, None, 0.1)
    path.write_text(path.read_text("utf-8").replace("patience = 2", "patience = 0"), "utf-8")
    with pytest.raises(LocalprobeError, match="patience must be at least 1"):
        recipe(str(path))


def test_an_adaptive_sweep_in_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "d"\nmodel = "m"\ninterventions = ["skip"]\nadaptive = true\n'
        "[tasks.capitals]\n[tasks.math]\nadaptive = false\n[tasks.squad]\nwidth = 0.1\n",
        encoding="utf-8",
    )
    capitals, math, squad = recipe(str(path)).experiments
    assert [each.adaptive for each in (capitals, math, squad)] == [True, False, True]
    assert (capitals.width, squad.width) == (None, 0.1)
    found = {key: squad.record()[key] for key in ("adaptive", "width")}
    assert found == {"adaptive": True, "width": 0.1}
    assert capitals.record()["width"] == 0.2
    assert "width" not in math.record()
    path.write_text(path.read_text("utf-8").replace("= true", "= 0.2"), "utf-8")
    with pytest.raises(LocalprobeError, match=r"adaptive must be true or false, not 0\.2"):
        recipe(str(path))
