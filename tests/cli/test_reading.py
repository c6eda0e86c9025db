"""show, export, compare, plot, merge, and run: through the command line, on a tiny model."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import made_runs

from localprobe.cli.app import main

RECIPE = """\
description = "two tasks"
model = "nothing of this name"
interventions = ["freeze", "swap"]
all_examples = true
n = 3

[tasks.capitals]
max_tokens = 2

[tasks.squad]
interventions = ["skip"]
layers = "2:"
max_tokens = 4
template = "{passage}{question}"
data = "squad.json"
"""
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": f"Ulm {n}",
                    "qas": [{"question": "Who?", "answers": [{"text": f"{n}"}]}],
                }
                for n in range(4)
            ]
        }
    ]
}
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def tiny_run(
    own_cache: Path, tiny_file: Callable[[str], Path], command: Command
) -> Callable[..., tuple[int, str, str]]:
    """tiny_run(*arguments, model="llama"): localprobe run of the recipe above."""
    Path("two.toml").write_text(RECIPE, encoding="utf-8")
    Path("squad.json").write_text(json.dumps(SQUAD), encoding="utf-8")

    def call(*arguments: str, model: str = "llama") -> tuple[int, str, str]:
        return command("run", "two.toml", "-m", str(tiny_file(model)), *arguments)

    return call


def test_a_run_is_written_and_shown_again(tiny_run: Command, command: Command) -> None:
    code, out, err = tiny_run("--out", "runs/one")
    assert code == 0
    assert "writing to" in err
    assert sorted(path.name for path in Path("runs/one").iterdir()) == ["capitals", "squad"]
    code, shown, _ = command("show", "runs/one")
    assert code == 0

    def tables(text: str) -> list[str]:
        return [line.rstrip() for line in text.splitlines() if line and "elapsed" not in line]

    assert tables(shown) == tables(out)
    assert "capitals · llama" in shown
    assert "squad, another template · llama" in shown
    (capitals, squad) = json.loads(command("show", "runs/one", "--json")[1])
    assert {row["patch"] for row in capitals["rows"]} == {"freeze", "swap"}
    assert {row["metric"] for row in squad["rows"]} == {"exact_match", "f1"}
    assert squad["metric"] == "exact_match"
    by_f1 = json.loads(command("show", "runs/one/squad", "--metric", "f1", "--json")[1])
    assert by_f1["metric"] == "f1"


def test_a_fresh_folder_under_runs(tiny_run: Command) -> None:
    code, out, _ = tiny_run("--task", "squad", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["out"].startswith(str(Path("runs") / "two-"))
    assert (Path(found["out"]) / "squad" / "rows.jsonl").is_file()
    assert len(found["runs"]) == 1


def test_the_command_line_wins(tiny_run: Command) -> None:
    wins = ("--seed", "5", "--layers", "1", "-p", "random", "-n", "2", "--max-tokens", "1")
    assert tiny_run("--out", "one", *wins)[0] == 0
    manifest = json.loads(Path("one/capitals/manifest.json").read_text(encoding="utf-8"))
    experiment = manifest["experiment"]
    assert (experiment["seed"], experiment["layers"], experiment["n"]) == (5, "1", 2)
    assert (experiment["interventions"], experiment["max_tokens"]) == (["random"], 1)


def test_shards_of_a_recipe_merged(tiny_run: Command, command: Command) -> None:
    assert tiny_run("--out", "whole")[0] == 0
    for number in (1, 2):
        assert tiny_run("--shard", f"{number}/2", "--out", f"s{number}")[0] == 0
    code, _, err = command("merge", "s1", "s2", "-o", "joined")
    assert (code, err.count("wrote")) == (0, 2)
    for task in ("capitals", "squad"):
        file = f"{task}/rows.jsonl"
        assert Path("joined", file).read_bytes() == Path("whole", file).read_bytes()
    _, _, err = command("merge", "s2", "-o", "half")
    assert "not all shards, only 2/2" in err


def on_a_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def test_exports_hold_every_score(tiny_run: Command, command: Command) -> None:
    tiny_run("--out", "one")
    document: list[dict[str, Any]] = json.loads(command("show", "one", "--json")[1])
    scores = [row["score"] for each in document for row in each["rows"]]
    lines = [
        json.loads(line)
        for line in command("export", "one", "--format", "jsonl")[1].split("\n")[:-1]
    ]
    assert [line["score"] for line in lines if line["patch"] != "clean"] == scores
    records = list(csv.DictReader(io.StringIO(command("export", "one")[1])))
    assert [float(each["score"]) for each in records if each["patch"] != "clean"] == scores
    markdown = command("export", "one", "--format", "md")[1].splitlines()
    assert len(markdown) == 2 + len(lines)
    assert len({line.count("|") for line in markdown}) == 1
    answers = command("export", "one/squad", "--rows")[1]
    rows = Path("one/squad/rows.jsonl").read_text(encoding="utf-8").splitlines()
    found = [each["answer"] for each in csv.DictReader(io.StringIO(answers, newline=""))]
    assert found == [on_a_line(json.loads(row)["answer"]) for row in rows]


def test_answers_with_any_kind_of_line_end_are_one_record(
    tiny_run: Command, command: Command
) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--out", "one")
    (file,) = Path("one").rglob("rows.jsonl")
    text = re.sub(
        r'"answer":"[^"]*', r'"answer":"a\\rb\\r\\nc\\n', file.read_text(encoding="utf-8")
    )
    file.write_text(text, encoding="utf-8")
    answers = command("export", "one", "--rows")[1]
    found = list(csv.DictReader(io.StringIO(answers, newline="")))
    assert len(found) == len(text.splitlines())
    assert {each["answer"] for each in found} == {r"a\rb\r\nc\n"}
    assert answers.count("\n") == 1 + len(found)
    lines = command("export", "one", "--rows", "--format", "jsonl")[1].splitlines()
    assert {json.loads(line)["answer"] for line in lines} == {"a\rb\r\nc\n"}


def test_compare_shows_how_the_transition_moves(tiny_run: Command, command: Command) -> None:
    tiny_run("--out", "one")
    tiny_run("--out", "two", model="qwen2")
    code, out, _ = command("compare", "one", "two")
    assert code == 0
    assert "[1] llama" in out
    assert "[2] qwen2" in out
    comparisons = json.loads(command("compare", "one", "two", "--json")[1])
    assert [(each["task"], each["patch"]) for each in comparisons] == [
        ("capitals", "freeze"),
        ("capitals", "swap"),
        ("squad", "skip"),
    ]
    for each in comparisons:
        first, other = each["depths"]
        assert each["n_layer"] == [4, 3]
        assert each["shifts"][1] is None
        assert each["depth_shifts"][1] == (None if None in (first, other) else other - first)
    assert command("compare", "one/squad", "two/capitals")[0] == 2


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure(kind: str, tiny_run: Command, command: Command) -> None:
    tiny_run("--out", "one")
    code, out, err = command("plot", "one", "-o", f"figure.{kind}")
    assert (code, out) == (0, "")
    assert f"wrote figure.{kind}" in err
    data = Path(f"figure.{kind}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    assert not list(Path().glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere"], "holds no run"),
        (["show", "one", "--metric", "f2"], "no metric 'f2'"),
        (["export", "one", "--format", "xml"], "unknown format 'xml'"),
        (["plot", "one", "-o", "figure.gif"], "must be one of .png"),
        (["plot", "one", "-o", "no/such/folder/figure.png"], "No such file or directory"),
        (["compare", "one"], "name two runs or more"),
        (["merge", "one", "nowhere", "-o", "x"], "holds no run"),
        (["run", "quik"], "did you mean quick"),
        (["run", "two.toml", "--task", "maths"], "has no task 'maths'"),
        (["run", "two.toml"], "nothing of this name"),
        (["sweep", "--shard", "3/2"], "--shard must be like"),
        (["sweep", "--task", "math", "-p", "swap"], "needs words to swap"),
        (["sweep", "--metric", "f1"], "no metric 'f1'"),
        (["sweep", "--max-prompt-tokens", "9"], "--max-prompt-tokens is not for"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    message: str,
    tiny_run: Command,
    command: Command,
    tiny_file: Callable[[str], Path],
) -> None:
    if arguments[1] == "one":
        tiny_run("--task", "squad", "--out", "one")
    if arguments[0] == "sweep":
        arguments = [*arguments, "-m", str(tiny_file("llama"))]
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("localprobe: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_task_without_a_right_answer_does_not_stop_the_others(
    tiny_run: Command, tiny_file: Callable[[str], Path], command: Command
) -> None:
    Path("two.toml").write_text(RECIPE.replace("all_examples = true", ""), encoding="utf-8")
    code, out, err = tiny_run("--out", "one", "--json")
    assert code == 1
    assert "2 of 2 tasks could not be probed" in err
    assert json.loads(out)["runs"] == []
    assert (Path("one") / "squad" / "rows.jsonl").stat().st_size > 0


def test_runs_of_other_layers_are_compared_each_by_its_own(
    tiny_run: Command, command: Command
) -> None:
    tiny_run("--task", "squad", "--layers", "0:4", "--out", "all")
    tiny_run("--task", "squad", "--layers", "0,3", "--seed", "3", "--out", "some")
    (found,) = json.loads(command("compare", "all", "some", "--json")[1])
    assert found["layers"] == [[0, 1, 2, 3], [0, 3]]
    for number, name in enumerate(("all", "some")):
        shown = json.loads(command("show", name, "--json")[1])
        assert found["transitions"][number] == shown["transitions"]["skip"]
    assert found["differences"] == [[], ["layers 0,3, not 0:4", "seed 3, not 0"]]
    text = command("compare", "all", "some")[1]
    assert "    seed 3, not 0 as in [1]" in text
    assert "that of the layers which its run has: [1] 0–3; [2] 0, 3" in " ".join(text.split())


def test_unlike_depths_are_compared_by_depth(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "--layers", "0:", "--out", "four")
    tiny_run("--task", "squad", "--layers", "0:", "--out", "seven", model="gemma3")
    for folder, transition in (("four", 2), ("seven", 5)):
        (file,) = Path(folder).rglob("rows.jsonl")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            good = row["patch"] == "clean" or row["layer"] >= transition
            row["scores"] = dict.fromkeys(row["scores"], float(good))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = " ".join(command("compare", "four", "seven")[1].split())
    assert "[1] transition at layer 2 (50% of depth)" in text
    assert "[2] transition at layer 5 (71% of depth), +21.4 points of depth against [1]" in text
    for folder, claim in (("four", "layer 2 on (50%"), ("seven", "layer 5 on (71%")):
        assert f"from {claim} of depth)" in command("show", folder)[1]


def test_a_later_task_that_cannot_be_done_is_told_at_once(tiny_run: Command) -> None:
    Path("squad.json").write_text('{"data": []}', encoding="utf-8")
    code, out, err = tiny_run("--out", "one")
    assert (code, out) == (2, "")
    assert err.startswith("localprobe: squad: squad.json")
    assert not Path("one").exists()


def test_shards_of_different_splits_are_not_merged(tiny_run: Command, command: Command) -> None:
    for shard in ("1/2", "3/3"):
        tiny_run("--task", "squad", "--shard", shard, "--out", shard.replace("/", "of"))
    code, _, err = command("merge", "1of2", "3of3", "-o", "joined")
    assert code == 2
    assert "the shards 1/2, 3/3 are not of one split" in err
    assert not Path("joined").exists()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (b"text.usetex: True\nfont.size: 1e9\npath.simplify: bogus\nbackend: module://stranger", 0),
        (b"\xff\xfe", 2),
    ],
)
def test_settings_of_a_stranger_do_not_change_a_figure(
    settings: bytes, code: int, tiny_run: Command
) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--out", "one")
    plot = [sys.executable, "-m", "localprobe", "plot", "one", "-o", "figure.png"]
    subprocess.run(plot, check=True, capture_output=True)
    expected = Path("figure.png").read_bytes()
    Path("matplotlibrc").write_bytes(settings)
    done = subprocess.run(plot, capture_output=True, env={**os.environ, "MPLBACKEND": "none"})
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert Path("figure.png").read_bytes() == expected


def test_a_merge_that_was_killed_is_done_again(tiny_run: Command, command: Command) -> None:
    for number in (1, 2):
        tiny_run("--task", "squad", "--shard", f"{number}/2", "--out", f"s{number}")
    for name in ("rows.jsonl.whole.part", "rows.jsonlabc.part", "manifest.jsonabc.part"):
        Path(name).mkdir()
        Path(name, name).write_text("{", encoding="utf-8")
        assert command("merge", "s1/squad", "s2/squad", "-o", name)[0] == 0
        assert command("show", name)[0] == 0
    Path("own", "manifest.json").parent.mkdir()
    shutil.copy("s1/squad/manifest.json", "own/manifest.json")
    Path("own", "rows.jsonl.whole.part").write_text("{", encoding="utf-8")
    assert command("merge", "s1/squad", "s2/squad", "-o", "own")[0] == 0
    shutil.rmtree("own")
    Path("own").mkdir()
    Path("own", "rows.jsonl").write_text("{", encoding="utf-8")
    assert "not empty" in command("merge", "s1/squad", "s2/squad", "-o", "own")[2]


def test_scores_that_would_take_other_columns_places(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--out", "one")
    (file,) = Path("one").rglob("rows.jsonl")
    text = file.read_text(encoding="utf-8")
    for name in ("example", "answer", "model", "first_token"):
        file.write_text(text.replace('"f1":', f'"{name}":0.5,"f1":', 1), encoding="utf-8")
        code, out, err = command("export", "one", "--rows")
        assert (code, out) == (2, "")
        assert f"no score can be called '{name}'" in err


def test_nothing_is_concluded_from_no_examples(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "--shard", "3/3", "-n", "2", "--out", "none")
    shown = command("show", "none")[1]
    assert "no example was used, so there is nothing to conclude" in shown
    assert "baseline: exact_match – on the 0 examples used" in " ".join(shown.split())
    found = json.loads(command("show", "none", "--json")[1])
    assert (found["used"]["score"], found["used"]["n"]) == (None, 0)
    shutil.copytree("none", "other")
    assert json.loads(command("compare", "none", "other", "--json")[1])[0]["baseline"] == [None] * 2
    exported = command("export", "none", "--format", "jsonl")[1].splitlines()
    assert {json.loads(line)["score"] for line in exported[:2]} == {None}


@pytest.mark.parametrize(
    ("layers", "known"),
    [("0:", True), ("3:", False), ("0:3", False), ("1:", False), ("0,3", False)],
)
def test_what_is_not_shown_is_not_claimed(
    layers: str, known: bool, tiny_run: Command, command: Command
) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--layers", layers, "--out", "one")
    (rows,) = Path("one").rglob("rows.jsonl")
    text = re.sub(r'"(exact_match|f1)":[0-9.]+', r'"\1":1.0', rows.read_text(encoding="utf-8"))
    rows.write_text(text, encoding="utf-8")
    shown = " ".join(command("show", "one")[1].split())
    limit = "" if known else ", as far as shown"
    assert re.search(rf"from layer {layers[0]} on \(\d+% of depth\){limit}( |$)", shown)
    shutil.copytree("one", "two")
    compared = command("compare", "one", "two")[1]
    assert compared.count(f"transition at layer {layers[0]} (") == 2
    assert compared.count(", as far as shown") == (0 if known else 2)


def test_a_run_of_before_noise_was_written_down(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "--out", "one")
    (file,) = Path("one").rglob("manifest.json")
    data = json.loads(file.read_text(encoding="utf-8"))
    assert data["noise"] >= 0
    for noise in (None, 0.5):
        file.write_text(json.dumps({**data, "noise": noise}), encoding="utf-8")
        assert ("not measured" in command("show", "one")[1]) == (noise is None)
        found = json.loads(command("show", "one", "--json")[1])
        assert (found["near_ties"] is None) == (noise is None)
    del data["noise"]
    file.write_text(json.dumps(data), encoding="utf-8")
    assert "not measured" not in command("show", "one")[1]


def test_exported_rows_say_what_was_asked_and_what_is_right(
    tiny_run: Command, command: Command
) -> None:
    tiny_run("--task", "capitals", "--layers", "1", "--out", "one")
    text = command("export", "one", "--rows")[1]
    for each in csv.DictReader(io.StringIO(text, newline="")):
        assert each["subject"] in ("Afghanistan", "Albania", "Algeria")
        assert each["prompt"].endswith(f"What is the capital of {each['subject']}?\\nA:")
        assert each["accepted"] in ("Kabul", "Tirana | Tiranë", "Algiers")
        swapped = each["patch"] == "swap"
        assert (each["new"] == "") == (each["new_accepted"] == "") == (not swapped)
        for metric in ("original", "modified") if swapped else ("exact_match",):
            low, high = each[f"{metric}_ties_low"], each[f"{metric}_ties_high"]
            assert 0 <= float(low) <= float(each[metric]) <= float(high) <= 1
    lines = command("export", "one", "--rows", "--format", "jsonl")[1].splitlines()
    assert json.loads(lines[4])["accepted"] == ["Tirana", "Tiranë"]
    markdown = command("export", "one", "--rows", "--format", "md")[1].splitlines()
    assert "Tirana \\| Tiranë" in "".join(markdown)


def test_misses(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "capitals", "-p", "freeze,swap", "--layers", "1:3", "--out", "one")
    code, out, _ = command("show", "one", "--misses")
    assert code == 0
    assert "the clean model: 3 wrong of the 3 answers" in out
    (line,) = (line for line in out.splitlines() if "Albania" in line)
    assert re.match(r" +1  Albania +Tirana \| Tiranë  ", line)
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads(command("show", "one", "--misses", "--json")[1])
    assert [each["example"] for each in found["misses"]] == [0, 1, 2]
    assert found["misses"][1]["right"] == ["Tirana", "Tiranë"]
    assert found["misses"][1]["prompt"].endswith("What is the capital of Albania?\nA:")
    assert "\n" not in command("show", "one", "--misses", "--json")[1].replace("\n", "", 1)[:0]
    arguments = ["show", "one", "--misses", "-p", "swap", "--layers", "2", "--json"]
    swaps = json.loads(command(*arguments)[1])["misses"]
    assert [(each["patch"], each["layer"]) for each in swaps] == [("swap", 2)] * 3
    assert [each["new"] for each in swaps] == ["Albania", "Algeria", "Afghanistan"]
    code, out, _ = command("show", "one", "--misses", "-p", "swap")
    assert "swap: 6 wrong answers at 2 layers" in out
    assert "Albania → Algeria" in out
    # Layers that were not swept have no wrong answers, and no right ones.
    for wrong, message in (
        (["--misses", "-p", "freeze", "--layers", "0,3"], "no freeze at these layers; it has 1, 2"),
        (["--misses", "-p", "skip"], "this run has no skip; it has freeze, swap"),
        (["--misses", "--layers", "1"], "add --patch NAME"),
        (["--patch", "freeze"], "are for --misses"),
    ):
        code, out, err = command("show", "one", *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_right_answers_are_no_misses(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--layers", "2", "--out", "one")
    (rows,) = Path("one").rglob("rows.jsonl")
    text = re.sub(r'"exact_match":[0-9.]+', '"exact_match":1.0', rows.read_text(encoding="utf-8"))
    rows.write_text(text.replace('"exact_match":1.0', '"exact_match":0.0', 1), encoding="utf-8")
    (each,) = json.loads(command("show", "one", "--misses", "--json")[1])["misses"]
    assert (each["example"], each["score"]) == (0, 0.0)
    assert json.loads(command("show", "one", "--misses", "-p", "skip", "--json")[1])["misses"] == []
    assert "no wrong answer" in command("show", "one", "--misses", "-p", "skip")[1]


def test_what_is_not_finite_is_no_wrong_answer(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "capitals", "-p", "freeze", "--layers", "1:3", "--out", "one")
    (file,) = Path("one").rglob("rows.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["example"] == 1 and row["layer"] in (None, 2):
            row.update(answer="", scores={}, top=[], not_finite=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lost = "not finite, so that there is no answer: 1 (example 1)"
    for more, said in (
        ([], "the clean model: 2 wrong of the 2 answers"),
        (["-p", "freeze"], "freeze: 5 wrong answers at 2 layers"),
    ):
        out = command("show", "one", "--misses", *more)[1]
        assert said in out and lost in out
    arguments = ["show", "one", "--misses", "-p", "freeze", "--layers", "2", "--json"]
    found = json.loads(command(*arguments)[1])
    assert [each["example"] for each in found["misses"]] == [0, 2]
    assert found["not_finite"] == [{"patch": "freeze", "layer": 2, "example": 1}]
    assert lost not in command("show", "one", "--misses", "-p", "freeze", "--layers", "1")[1]


def unfinished(folder: str, examples: int) -> None:
    """As if it had been killed after so many examples."""
    for manifest in Path(folder).rglob("manifest.json"):
        data = json.loads(manifest.read_text(encoding="utf-8"))
        data.update(ended=None, counts=None)
        manifest.write_text(json.dumps(data), encoding="utf-8")
        rows = manifest.with_name("rows.jsonl")
        lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["example"] < examples]
        rows.write_text("".join(kept), encoding="utf-8", newline="\n")


def test_an_unfinished_run_says_how_much_there_is(tiny_run: Command, command: Command) -> None:
    tiny_run("--out", "one")
    before = command("show", "one/squad")[1]
    assert "so far" not in before
    assert json.loads(command("show", "one/squad", "--json")[1])["finished"] is True
    unfinished("one", 2)
    code, out, err = command("show", "one/squad")
    assert (code, "is unfinished" in err) == (0, True)
    assert out.splitlines()[1] == "unfinished: 2 of 3 examples so far"
    (claim,) = (line for line in out.splitlines() if line.startswith("skip "))
    assert claim.startswith("skip     so far ")
    found = json.loads(command("show", "one/squad", "--json")[1])
    assert (found["finished"], found["n"], found["n_wanted"]) == (False, 2, 3)
    assert command("plot", "one/squad", "-o", "figure.svg")[0] == 0
    from localprobe import load_run
    from localprobe.report import plot

    said = list[str]()
    plot._name(
        SimpleNamespace(set_title=lambda text, **_: said.append(text)), load_run("one/squad")
    )
    assert said == ["squad · llama\nunfinished: 2 of 3 examples so far"]
    assert repr(load_run("one/squad")) == (
        f"<Run squad, llama: skip at 2 layers, 2 of 3 examples in {Path('one/squad')}>"
    )


def test_signs_in_the_table_are_explained(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "-p", "freeze,skip", "--layers", "0:2", "--out", "one")
    shown = command("show", "one")[1]
    assert "– not defined at this layer\n" in shown
    assert "·" not in shown.split("layer", 1)[1]
    tiny_run("--task", "squad", "-p", "skip", "--layers", "1", "--out", "two")
    assert "not defined" not in command("show", "two")[1]
    unfinished("one", 0)
    assert "– not defined at this layer   · no answer to score" in command("show", "one")[1]


def with_ties(folder: str, at: tuple[int, ...]) -> None:
    """All answers right, and at some layers near ties that could make the first one wrong."""
    for file in Path(folder).rglob("rows.jsonl"):
        lines = []
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            row["scores"] = dict.fromkeys(row["scores"], 1.0)
            row.pop("ties", None)
            row.pop("near_tie", None)
            if row["layer"] in at and row["example"] == 0:
                row |= {"near_tie": True, "ties": {"exact_match": [0.0, 1.0]}}
            lines.append(json.dumps(row) + "\n")
        file.write_text("".join(lines), encoding="utf-8", newline="\n")


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ((), None),
        ((2,), "near ties could move that to 2–3"),
        ((3,), "near ties could move that to a later layer, or undo it"),
    ],
)
def test_claims_say_whether_they_survive_near_ties(
    at: tuple[int, ...], words: str | None, tiny_run: Command, command: Command
) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--layers", "2:", "--out", "one")
    with_ties("one", at)
    shown = command("show", "one")[1]
    found = json.loads(command("show", "one", "--json")[1])
    assert found["transitions"] == {"skip": 2}
    assert found["near_ties_changing"] == len(at)
    if words is None:
        assert "~" not in shown
        assert "near ties" not in shown
        assert found["transition_ranges"] == {"skip": [2, 2]}
        return
    assert words in shown
    assert f"  skip     {at[0]}:0.67–1.00" in shown
    (line,) = (line for line in shown.splitlines() if line.startswith(f"    {at[0]}  "))
    assert line.startswith(f"    {at[0]}  1.00~")
    assert found["transition_ranges"] == {"skip": [2, 3 if at == (2,) else None]}
    cell = {row["layer"]: row for row in found["rows"] if row["metric"] == "exact_match"}[at[0]]
    assert (cell["ties_low"], cell["ties_high"]) == (pytest.approx(2 / 3), 1)


def test_a_claim_that_no_near_tie_moves(tiny_run: Command, command: Command) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--layers", "1:", "-n", "3", "--out", "one")
    with_ties("one", (1,))
    for file in Path("one").rglob("rows.jsonl"):
        # At the lowest layer the score is too low in any case.
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in lines:
            if row["layer"] == 1 and row["example"] > 0:
                row["scores"] = dict.fromkeys(row["scores"], 0.0)
        text = "".join(json.dumps(row) + "\n" for row in lines)
        file.write_text(text, encoding="utf-8", newline="\n")
    shown = command("show", "one")[1]
    assert "holds however near ties fall" in shown
    assert "near ties that could change a score: 8.3% of the answers" in shown
    assert "~" not in shown


def test_growing_by_the_command_line(tiny_run: Command) -> None:
    few = ("--task", "capitals", "--layers", "1")
    assert tiny_run(*few, "-n", "5", "--out", "five")[0] == 0
    assert tiny_run(*few, "-n", "2", "--out", "grown")[0] == 0
    assert tiny_run(*few, "-n", "5", "--out", "grown")[0] == 0
    rows = [Path(name, "capitals/rows.jsonl").read_bytes() for name in ("five", "grown")]
    assert rows[0] == rows[1]
    code, out, err = tiny_run(*few, "-n", "2", "--out", "grown")
    assert (code, out) == (2, "")
    assert "it can grow, but not shrink" in err.splitlines()[-1]


def test_near_ties_of_a_version_that_did_not_look_at_them(
    tiny_run: Command, command: Command
) -> None:
    tiny_run("--task", "squad", "-p", "skip", "--layers", "2:", "--out", "one")
    with_ties("one", (2,))
    (file,) = Path("one").rglob("rows.jsonl")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(', "ties": {"exact_match": [0.0, 1.0]}', ""), encoding="utf-8")
    shown = command("show", "one")[1]
    assert "near ties taken to change any score: 11.1% of the answers" in shown
    assert "did not note which scores they could change" in shown
    assert "near ties could move that to 2–3" in shown


@pytest.mark.parametrize(
    ("arguments", "environment", "colored"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {"FORCE_COLOR": "1"}, False),
        (["--color", "auto"], {"FORCE_COLOR": "1"}, True),
        ([], {"FORCE_COLOR": "0"}, False),
        ([], {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ([], {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
    ],
)
def test_when_there_is_colour_in_a_pipe(
    arguments: list[str], environment: dict[str, str], colored: bool, tmp_path: Path
) -> None:
    """The words are the same, and nothing redraws itself."""
    made_runs.write(tmp_path / "run", n=3, n_layer=4)
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "localprobe", *arguments, "show", str(tmp_path / "run")]
    shown = subprocess.run(
        command, capture_output=True, encoding="utf-8", env={**kept, **environment}, check=True
    ).stdout
    assert ("\x1b[" in shown) == colored
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "baseline: 1.00 on the 3 examples used" in plain and "\x1b" not in plain


def test_color_goes_before_the_command(command: Command, tmp_path: Path) -> None:
    run = str(made_runs.write(tmp_path / "run", n=1, n_layer=2).path)
    code, _, err = command("show", run, "--color", "always")
    assert code == 2 and "before the command: localprobe --color" in err
    code, _, err = command("--color", "sometimes", "show", run)
    assert code == 2 and "'sometimes' is not one of" in err


def test_what_cannot_be_followed(command: Command, tmp_path: Path) -> None:
    for name in ("one", "two"):
        made_runs.write(tmp_path / "runs" / name, n=1, n_layer=2, ended=False)
    code, _, err = command("show", str(tmp_path / "runs"), "--follow")
    assert code == 2 and "name one to follow" in err
    code, _, err = command("show", str(tmp_path / "runs" / "one"), "--follow", "--json")
    assert code == 2 and "--follow is for the table" in err


def test_a_finished_run_is_shown_at_once(command: Command, tmp_path: Path) -> None:
    run = str(made_runs.write(tmp_path / "run", n=2, n_layer=3).path)
    assert command("show", run, "--follow")[1] == command("show", run)[1]
