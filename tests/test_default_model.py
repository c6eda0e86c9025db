"""The whole tool on the real default model: the shapes that the paper leads one to expect."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.helps import COMMANDS, EXAMPLE

from localprobe.cli.app import main
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Random
from localprobe.llama.model import Model
from localprobe.models import opening as models
from localprobe.models.prepare import measured, prepare
from localprobe.models.registry import DEFAULT_MODEL
from localprobe.tasks.squad import plain_text

DOCS = Path(__file__).parents[1] / "docs"
PROMPT = r"Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of France?\nA:"

pytestmark = pytest.mark.usefixtures("default_model")


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_france_to_italy_flips_at_24(capsys: pytest.CaptureFixture[str]) -> None:
    result = document(capsys, "swap", PROMPT, "France", "Italy")
    first_line = {row["layer"]: row["text"].partition("\n")[0].strip() for row in result["rows"]}
    assert sorted(first_line) == list(range(30))
    assert all(first_line[layer] == "Rome" for layer in range(20))
    assert all(first_line[layer] == "Paris" for layer in range(26, 30))
    assert abs(result["flip_layer"] - 24) <= 1
    for row in result["rows"]:
        followed = "original" if row["p_original"] > row["p_modified"] else "modified"
        assert row["follows"] == followed
        assert (row["layer"] >= result["flip_layer"]) == (followed == "original")
    assert result["model"]["source"]["sha256"].startswith("b179c952")


def test_unpacked_weights_are_nearer_to_the_file_than_its_own_product(
    default_model: Path, float32_model: Path
) -> None:
    """Why the default is not computed in Q4_1: logits against those in float32, on plain text."""
    logits = {}
    for path in (float32_model, default_model, models.find(DEFAULT_MODEL)[1]):
        with models.open_model(str(path)) as loaded:
            model = loaded.model
            tokens = model.tokenize(plain_text())[:160]
            logits[path] = np.concatenate([each.copy() for each in model.next_logits(tokens, 40)])
    exact, packed, unpacked = logits.values()

    def off(found: np.ndarray) -> float:
        return float(np.sqrt(np.mean((found - exact) ** 2)))

    assert 0 < off(unpacked) < 0.4 * off(packed)
    kept = [np.mean(each.argmax(axis=1) == exact.argmax(axis=1)) for each in (packed, unpacked)]
    assert kept[0] <= kept[1] >= 0.97


@pytest.mark.usefixtures("as_in_the_manual")
def test_the_demo_is_that_of_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    """Line for line; the numbers in it may be rounded otherwise on another machine.

    And near ties may be others, so what is said of them is left out.
    """
    shown = (DOCS / "demo.md").read_text("utf-8").split("```\n")[3]
    assert main(["demo"]) == 0

    assert first_words(capsys.readouterr().out) == first_words(shown)


def first_words(text: str) -> list[str]:
    text = re.sub(r"~ near ties(.|\n)*?Near ties fall", "Near ties fall", text)
    left_out = re.compile(r"elapsed|used or not by a near tie|^         ")
    found = [line for line in text.strip().splitlines() if line and not left_out.search(line)]
    return [line if line.startswith("capitals") else line.split()[0] for line in found]


def test_the_probe_is_that_of_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "how-to/one-answer.md").read_text("utf-8")
    _, command, _, shown, *_ = page.partition("<!-- probe -->")[2].split("```\n")
    assert main(shlex.split(command)[1:]) == 0
    assert first_words(capsys.readouterr().out) == first_words(shown)


def test_a_small_sweep_has_the_papers_shape(capsys: pytest.CaptureFixture[str]) -> None:
    result = document(
        capsys, "sweep", "-p", "random,freeze,skip", "-n", "6", "--layers", "0:2,18:30"
    )
    scores = {(row["patch"], row["layer"]): row["relative"] for row in result["rows"]}
    for patch in ("random", "freeze", "skip"):
        assert scores[patch, 1] <= 0.2
        assert scores[patch, 29] >= 0.8
    assert result["transitions"]["freeze"] < result["transitions"]["skip"]
    kept = {
        patch: sum(score for (name, _), score in scores.items() if name == patch)
        for patch in ("random", "freeze", "skip")
    }
    assert kept["freeze"] > kept["skip"] > kept["random"]


def test_generation_with_the_cache_equals_recomputing(float32_model: Path) -> None:
    """On the real model: one whole pass over prompt and answer, all but the newest past."""
    with Model(float32_model) as model:
        engine = FullEngine(model)
        prompt = model.tokenize(PROMPT.replace("\\n", "\n"))
        for intervention, layer in ((Random(3), 25), (Freeze(), 20)):
            said = engine.answer(
                prompt, max_tokens=4, intervention=intervention, layer=layer, example=1
            )
            sequence = list(prompt)
            for token in said.tokens:
                again = engine.answer(
                    sequence, max_tokens=1, intervention=intervention, layer=layer, example=1
                )
                assert int(np.argmax(again.logits)) == token
                sequence.append(token)


@pytest.fixture(scope="module")
def folder_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs that examples of the help speak of."""
    folder = tmp_path_factory.mktemp("runs")
    few = ["sweep", "-p", "freeze", "--layers", "28:", "-n", "2"]
    assert main([*few, "--out", str(folder / "runs/quick")]) == 0
    for name in ("q4", "bf16"):
        shutil.copytree(folder / "runs/quick", folder / "runs" / name)
    for number in (1, 2):
        out = str(folder / f"shard-{number}")
        assert main([*few, "--shard", f"{number}/2", "--out", out]) == 0
    return folder


@pytest.mark.parametrize(("kind", "figures"), [("q8_0", (98.5, 0.005)), ("q4_0", (68.5, 0.33))])
def test_what_other_weights_change_is_what_the_readme_says(
    kind: str, figures: tuple[float, float], own_cache: Path, default_model: Path
) -> None:
    kept, kl = figures
    page = (DOCS / "how-to/own-model.md").read_text("utf-8")
    assert f"{kept} % " in page
    assert f"({kl} nats" in page
    _, path = prepare(*models.find(str(default_model)), kind)
    found = measured(path, default_model, plain_text(), lambda decodes, total: decodes)
    assert found.quantized == "Q4_1"
    assert found.change is not None
    # Processors round in other ways.
    assert abs(100 * found.change.kept - kept) <= 3
    assert found.change.kl == pytest.approx(kl, rel=0.2)


SILENT = ("models pull", "models prepare", "models remove", "states")


# A benchmark takes too long, a worker does not end, and browse needs a terminal: they have tests of
# their own.
@pytest.mark.parametrize(
    "command", [each for each in COMMANDS if each not in ("bench", "worker", "browse")]
)
def test_the_example_of_every_help_works(
    command: str,
    folder_of_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder_of_runs)
    main([*command.split(), "--help"])
    (example,) = EXAMPLE.findall(capsys.readouterr().out)
    # A part of what is long.
    example += {"demo": " --short", "run": " -n 1", "sweep": " -n 5"}.get(command, "")
    if command == "models remove":
        # Not what was really prepared here.
        monkeypatch.setenv("LOCALPROBE_CACHE", str(folder_of_runs / "cache"))
        prepared = folder_of_runs / f"cache/prepared/{shlex.split(example)[3]}.gguf"
        prepared.parent.mkdir(parents=True)
        prepared.write_bytes(b"GGUF")
    assert main(shlex.split(example)[1:]) == 0
    captured = capsys.readouterr()
    assert captured.out or command in (*SILENT, "plot", "report", "merge")
    assert "\x1b" not in captured.out
