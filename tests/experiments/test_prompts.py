"""--prompts model: what models.toml has for a model is asked, said, and part of what a run was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localprobe.api import Model, RunningMaps, RunningSweep
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.experiments.map import MapPlan
from localprobe.models import registry
from localprobe.models.registry import Prompting
from localprobe.runs.manifest import differences

EXPERIMENT = Experiment("capitals", ("skip",), n=2, all_examples=True, prompts="model")
KNOWN = {"capitals": Prompting(shots=3)}


def test_what_is_said_wins_and_the_papers_is_the_default() -> None:
    paper = Experiment("capitals", ("skip",))
    assert paper.prompted(KNOWN) == paper
    found = EXPERIMENT.prompted(KNOWN)
    assert (found.shots, found.template, found.prompts) == (3, None, "paper")
    own = Experiment("capitals", ("skip",), shots=2, prompts="model").prompted(KNOWN)
    assert own.shots == 2
    own = Experiment("capitals", ("skip",), template="{country}", prompts="model").prompted(KNOWN)
    assert (own.shots, own.template) == (None, "{country}")
    assert Experiment("math", ("skip",), prompts="model").prompted(KNOWN).shots is None
    with pytest.raises(LocalprobeError, match="unknown prompts 'modle'; did you mean model"):
        Experiment("capitals", ("skip",), prompts="modle")


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"capitols": Prompting(shots=1)}, "unknown task 'capitols'; did you mean capitals"),
        ({"capitals": Prompting(shots=99)}, "prompt for capitals in models.toml: --shots must be"),
        ({"capitals": Prompting(template="x")}, r"must hold \{country\} once"),
    ],
)
def test_prompts_that_a_task_does_not_take(known: dict[str, Prompting], message: str) -> None:
    with pytest.raises(LocalprobeError, match=message):
        EXPERIMENT.prompted(known)


def test_those_that_come_with_localprobe_are_taken(own_cache: Path) -> None:
    tried = 0
    for entry in registry.entries().values():
        for task in entry.prompts:
            found = Experiment(task, ("skip",), prompts="model").prompted(entry.prompts)
            assert len(found.build_task().examples()) > 100
            tried += 1
    assert tried


def test_a_run_says_how_it_asked(
    tiny_file: Callable[[str], Path], own_cache: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with Model(str(tiny_file("llama")), threads=1, warn=said.append) as model:
        with RunningSweep(model, EXPERIMENT) as running:
            assert running.manifest.title.startswith("capitals · ")
        assert said == ["models.toml has no prompt for capitals that suits llama: its own is used"]
        Path("models.toml").write_text(
            f"""
[tiny]
architecture = "llama"
wheel = "tiny==1"
member = "tiny.gguf"
sha256 = "{model.loaded.sha256}"
license = "none"
size = 1
note = "a tiny one"
[tiny.prompts.capitals]
shots = 3
""",
            encoding="utf-8",
        )
        with RunningSweep(model, EXPERIMENT) as running:
            manifest, rows = running.manifest, [row for row in running.rows() if row]
        with RunningMaps(model, EXPERIMENT, MapPlan("freeze")) as maps:
            assert maps.manifest.data["experiment"]["shots"] == 3
        assert len(said) == 1
        asked = Experiment("capitals", ("skip",), n=2, all_examples=True, shots=3)
        with RunningSweep(model, asked) as running:
            assert differences(running.manifest, manifest) == []
    assert manifest.title.startswith("capitals, 3-shot · llama (")
    assert rows[0].prompt.count("\nA:") == 4
