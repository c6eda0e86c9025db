"""What a transition says, and how: tables, sentences, JSON, figures."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers import made_runs
from rich.console import Console

from localprobe.cli.app import main
from localprobe.report.documents import sweep_document
from localprobe.report.run_page import run_page
from localprobe.report.score_table import report
from localprobe.report.transition import OwnLayers, _most, between, is_before, sentences
from localprobe.runs.descent import Descent, Own, Walk
from localprobe.runs.manifest import Manifest
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.transitions import Limits

L = 20
METRIC = "exact_match"


def descended(
    own: dict[str, Sequence[int]], *, patience: int = 2, check: float = 0.0, back: bool = False
) -> Run:
    """A run whose examples hold from their own layers on; back: and at layer 0 again."""
    experiment = {"task": "capitals", "seed": 0, "shard": "1/1", "layers": "all"}
    data = {
        "format": 2,
        "localprobe": "1",
        "llama_cpp_python": "1",
        "numpy": "1",
        "engine": "resume",
        "devices": "cpu",
        "batch": 1,
        "model": {"name": "m", "architecture": "llama", "file_type": "Q8_0", "n_layer": L},
        "experiment": {**experiment, "patience": patience, "check": check, "keep": 0.9},
        "metric": METRIC,
        "chance": {},
        "columns": [{"patch": patch, "metric": METRIC, "layers": list(range(L))} for patch in own],
        "noise": 0.0,
        "started": "",
        "ended": "now",
        "counts": None,
    }
    n = len(next(iter(own.values())))
    rows = [Row(each, CLEAN, None, "a", {METRIC: 1.0}, ()) for each in range(n)]
    for patch, layers in own.items():
        for each, mine in enumerate(layers):
            walk = Walk(Descent(patience, check), each, patch)
            for layer in reversed(range(L)):
                holds = layer >= mine or (back and layer == 0)
                if walk.wants(layer):
                    rows.append(Row(each, patch, layer, "a", {METRIC: float(holds)}, ()))
                    walk.saw(layer, holds)
    return Run(Manifest(data), rows)


def shown(run: Run, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report(console, run.tally, run.manifest.title, L))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def words(text: str) -> str:
    return " ".join(text.split())


EARLY, LATE = [10 + n % 3 for n in range(40)], [15 + n % 3 for n in range(40)]


def test_the_table() -> None:
    run = descended({"freeze": EARLY, "skip": LATE})
    text = shown(run)
    assert [line for line in text.splitlines() if line.startswith("freeze  ")][-2:] == [
        "freeze     12  12–12      11    60%      10–12",
        "freeze   own layer:examples  10:14 11:13 12:13",
    ]
    # Layers that no example came to are left out, and said to be lost.
    assert words("\n8 0.00") in words(text)
    assert "\n    7  " not in text
    assert "until its answer is lost at 2 layers in a row" in words(text)
    assert "was not tried; --check 0.1" in words(text)
    assert run.transition("freeze") == 12
    narrow = words(shown(run, 40))
    assert "freeze 12 12–12 11 skip 17 17–17 16 " in narrow


def test_answers_that_come_back_are_counted_and_what_they_could_change() -> None:
    text = words(shown(descended({"freeze": EARLY}, check=0.5, back=True)))
    assert "tried below at random: " in text
    own = OwnLayers.of(descended({"freeze": EARLY}, check=0.5, back=True).tally.own("freeze"))
    assert own.checked > own.back > 10
    assert f"right again: {own.back} (" in text
    assert "--check" not in text


def test_few_examples_have_no_upper_end() -> None:
    text = words(shown(descended({"freeze": EARLY[:20]})))
    assert "With 20 examples an interval has no upper end: that takes 29" in text
    held = [5] * 34 + [L] * 6
    text = words(shown(descended({"freeze": held})))
    assert "No upper end for freeze: with 40 examples" in text
    assert "∅:6" in text


def test_sentences_say_only_what_intervals_tell_apart() -> None:
    said = sentences(descended({"skip": LATE, "freeze": EARLY}).tally, L)
    assert said == [
        "From layer 12 of 20 on (60% of depth), past tokens need not change any more for at least "
        "90% of the answers (40 examples; 95 % 12–12).",
        "Skip is survived later than freeze: from layer 17 on (95 % 12–12 and 17–17).",
        "It is a matter of few layers: under freeze, 1.00 are right at layer 12 (95 % 0.91–1.00), "
        "and two layers below 0.35 (0.22–0.50).",
    ]
    close = [k + (n % 6 == 2) for n, k in enumerate(EARLY)]
    said = sentences(descended({"skip": close, "freeze": EARLY}).tally, L)
    assert "That skip (from layer 13 on) is survived later than freeze is not shown" in said[1]
    assert sentences(descended({"skip": LATE}).tally, L) == []
    assert sentences(descended({"skip": LATE[:9], "freeze": EARLY[:9]}).tally, L) == []
    nowhere = descended({"skip": [L] * 40, "freeze": EARLY}).tally
    assert "at no layer (95 % 12–12 and none)" in sentences(nowhere, L)[1]
    assert sentences(descended({"skip": [L] * 40, "freeze": [L] * 40}).tally, L) == []


def test_sentences_hold_where_little_is_known() -> None:
    # Ties: neither is said to be later.
    same = sentences(descended({"skip": EARLY, "freeze": EARLY}).tally, L)
    assert same[1] == "Skip and freeze are survived from the same layer on (95 % 12–12 and 12–12)."
    # Too few examples for an upper end: both may be survived nowhere.
    few = descended({"skip": [L] * 20, "freeze": EARLY[:20]}).tally
    assert sentences(few, L)[1] == (
        "That skip (at no layer) is survived later than freeze is not shown: freeze, too, may be "
        "survived at none (95 % 12– and none)."
    )
    late = descended({"skip": LATE[:20], "freeze": EARLY[:20]}).tally
    assert "is not shown: their intervals share layers (95 % 12– and 17–)" in sentences(late, L)[1]
    # What was lost at layers above may be right two layers below: nothing is said of few layers.
    own = {"skip": LATE, "freeze": [10] * 10 + [12] * 30}
    assert [len(sentences(descended(own, patience=n).tally, L)) for n in (1, 3)] == [2, 3]
    lost = descended(own, patience=1).tally.score("freeze", METRIC, 10)
    assert lost is not None and lost.assumed == 30
    assert _most(lost) == 1.0 > lost.high


def test_sentences_of_a_sweep_say_what_was_not_shown(tmp_path: Path) -> None:
    """As those of a transition, of the layers that there are; none of scores by degrees."""
    run = made_runs.write(tmp_path / "whole", n=40, n_layer=L)
    said = sentences(run.tally, L)
    assert len(said) == 3 and said[0].startswith(
        "From layer 10 of 20 on (50% of depth), noise may "
    )
    assert "as far as shown" not in said[0]
    assert "".join("".join(said).split()) in "".join(shown(run).split())
    assert all(each in html.unescape(run_page([run])) for each in said)
    thin = run.manifest.data["columns"]
    for column in thin:
        column["layers"] = column["layers"][1::2]
    rows = [row for row in run.rows if row.layer is None or row.layer % 2]
    some = sentences(Run(Manifest(run.manifest.data), rows).tally, L)
    assert "on (55% of depth), as far as shown, noise" in some[0]
    wrong = made_runs.write(tmp_path / "degrees", n=40, metrics=("f1",), task="squad")
    assert sentences(wrong.tally, 6) != []
    wrong.rows[0].scores["f1"] = 0.5
    assert sentences(Run(wrong.manifest, wrong.rows).tally, 6) == []


def test_intervals_in_words() -> None:
    assert [
        between(each) for each in (None, Limits(3, 5), Limits(3, None), Limits(None, None))
    ] == [
        "?",
        "3–5",
        "3–",
        "none",
    ]
    assert is_before(Limits(1, 2), Limits(3, None))
    assert is_before(Limits(1, 2), Limits(None, None))
    assert not is_before(Limits(1, 3), Limits(3, 4))
    assert not is_before(Limits(1, None), Limits(3, 4))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([5], [5, 5, 5]),
        ([3, 4, 5, 6], [3, 4, 5]),
        ([4, 4, 9, None], [4, 4, 9]),
        ([None, None, 2], [2, None, None]),
        ([], [None, None, None]),
    ],
)
def test_quartiles(layers: list[int | None], expected: list[int | None]) -> None:
    own = OwnLayers.of([Own(layer, False, 0, 0) for layer in layers])
    assert own.quantiles() == expected


def test_the_document() -> None:
    run = descended({"freeze": EARLY}, check=0.2)
    document = sweep_document(run.manifest, run.tally)
    assert document["transitions"] == {"freeze": 12}
    assert document["transition_limits"] == {"freeze": [12, 12]}
    found = document["descent"]["freeze"]
    assert found["own"] == sorted(EARLY)
    assert (found["median"], found["quartiles"], found["never"]) == (11, [10, 12], 0)
    lost = {row["layer"]: row["assumed"] for row in document["rows"]}
    assert lost[0] == 40
    assert lost[19] == 0


def test_the_command_line(
    own_cache: Path, tiny_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        return code, *capsys.readouterr()

    lines = [{"prompt": f"say {n}:", "answers": ["x"]} for n in range(40)]
    Path("own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = str(tiny_file("llama"))
    common = ("transition", "--task", "jsonl", "--data", "own.jsonl", "-m", model, "--max-tokens")
    code, _, err = run(*common, "1", "-p", "skip", "--out", "nothing")
    assert code == 1
    assert "nothing to lose" in err
    # What the model says is right by definition.
    swept = run("sweep", *common[1:], "1", "-p", "skip", "--all-examples", "--out", "said")
    assert swept[0] == 0
    said = [json.loads(line) for line in Path("said/rows.jsonl").read_text().splitlines()]
    clean = [row["answer"] for row in said if row["patch"] == "clean"]
    lines = [
        {**line, "answers": [answer]}
        for line, answer in zip(lines, clean, strict=True)
        if any(map(str.isalnum, answer))
    ]
    assert len(lines) > 2
    Path("own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for metric in ("exact_match", "first_token"):
        out = f"runs-{metric}"
        settings = (*common, "1", "-p", "freeze,skip", "--metric", metric, "--out", out)
        code, text, _ = run(*settings)
        assert code == 0
        code, again, _ = run("show", out)
        assert code == 0
        assert again.strip() in text
        document = json.loads(run("show", out, "--json")[1])
        assert document["descent"]["patience"] == 3
        assert document["metric"] == metric
        code, exported, _ = run("export", out)
        assert code == 0
        assert "assumed" in exported.splitlines()[0]
        assert run("plot", out, "-o", "figure.png")[0] == 0
        assert run("plot", out, out, "-o", "forest.svg", "--transitions")[0] == 0
        assert Path("forest.svg").read_bytes().startswith(b"<?xml")
        assert run("compare", out, out)[0] == 0
    code, _, err = run(*common, "1", "-p", "swap")
    assert code == 2
    assert "sweep --patch swap" in err
    assert run(*common, "1", "--keep", "1.5")[0] == 2
