"""Maps side by side: what is called sure is so; what cannot be compared is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import made_maps, made_runs

from localprobe.cli.app import main
from localprobe.report.maps_comparison import MapsComparison, Pair, words_of


def noise(example: int, layer: int, role: str) -> float:
    return ((example * 7 + layer * 3 + len(role)) % 10) / 20


def more(example: int, layer: int, role: str) -> float:
    """At layers 1 and 2, 30 to 34 points more of subject last; 10 less of the first token at 3."""
    base = noise(example, layer, role)
    if role == "subject last" and layer in (1, 2):
        return base + 0.3 + example % 5 / 100
    if role == "first token" and layer == 3:
        return max(0.0, base - 0.1)
    return base + (0.01 if example % 2 else -0.01) * (base > 0.1)


def test_sure_differences_are_said_with_their_layers(tmp_path: Path) -> None:
    one = made_maps.write(tmp_path / "one", noise, n=14)
    other = made_maps.write(tmp_path / "other", more, n=12)
    pair = Pair(one, other, 2)
    assert len(pair.shared) == 12 and pair.places == [(k, k) for k in range(4)]
    assert pair.roles == ["first token", "subject middle", "subject last", "next to last"]
    by = [
        [more(e, k, "subject last") - noise(e, k, "subject last") for k in (1, 2)]
        for e in range(12)
    ]
    np.testing.assert_allclose(pair.effects.mean[1:3, 2], np.mean(by, axis=0))
    np.testing.assert_allclose(pair.values.mean, -0.8 * pair.effects.mean, atol=1e-12)
    assert pair.effects.sure[:, 2].tolist() == [False, True, True, False]
    lines = words_of(pair)
    low, high = pair.effects.low[1, 2], pair.effects.high[1, 2]
    assert lines[1].startswith(
        "subject last: more of the answer is lost in [2] at layers 1, 2: +32 points "
        f"[{100 * low:+.0f}, {100 * high:+.0f}] at layer "
    )
    assert lines[0].startswith("first token: less of the answer is lost in [2] at layer 3: -")
    assert lines[2].startswith("nothing sure at any layer: next to last; what difference")
    assert lines[3] == "too few examples to say anything of subject middle (3)"
    assert "of all 12 cells together" in lines[4] and len(lines) == 5


def test_the_same_maps_differ_nowhere(tmp_path: Path) -> None:
    one = made_maps.write(tmp_path / "one", noise)
    pair = Pair(one, one, 2)
    assert not pair.effects.sure.any()
    assert words_of(pair)[0].endswith("is between +0 and +0 points")
    assert words_of(pair)[0].startswith(
        "nothing sure at any layer: first token, subject last, next to last; what"
    )


def test_of_few_examples_nothing_is_claimed(tmp_path: Path) -> None:
    one = made_maps.write(tmp_path / "one", lambda *_: 0.0, n=5)
    other = made_maps.write(tmp_path / "other", lambda *_: 1.0)
    assert words_of(Pair(one, other, 2)) == ["of 5 shared examples nothing is claimed: it takes 6"]


def test_layers_that_only_one_has_are_said(tmp_path: Path) -> None:
    one = made_maps.write(tmp_path / "one", noise, layers=[0, 1, 2])
    other = made_maps.write(tmp_path / "other", more, layers=[1, 2, 3])
    lines = words_of(Pair(one, other, 2))
    assert lines[-2:] == [
        "not compared, since only [1] has them: layers 0",
        "not compared, since only [2] has them: layers 3",
    ]
    assert "subject last: more of the answer is lost in [2] at layers 1, 2" in "\n".join(lines)


def test_models_of_unlike_depth_are_compared_by_depth(tmp_path: Path) -> None:
    one = made_maps.write(tmp_path / "one", lambda e, k, r: noise(e, k // 2, r), n_layer=8)
    other = made_maps.write(tmp_path / "other", more, n_layer=4)
    pair = Pair(one, other, 2)
    assert pair.places == [(0, 0), (2, 1), (4, 2), (6, 3)]
    words = "\n".join(words_of(pair))
    assert "in [2] at layers 2, 4 ([2]: 1, 2): +" in words
    assert "unlike numbers of blocks" in words
    assert "only [1] has them: layers 1–7 in steps of 2" in words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "kl"}, "its metric is kl, not prob"),
        ({"interventions": ["random"]}, "its patch is random, not knockout"),
        (
            {"task": "jsonl", "window": 3},
            "its task is jsonl, not capitals; its window is 3, not none",
        ),
        ({"accepted": "London"}, "there is no example that both use"),
        ({"layers": [3]}, "there is no layer that both have"),
        ({"n": 0}, "no example of it is done yet"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made_maps.write(tmp_path / "one", layers=[0, 1])
    made_maps.write(tmp_path / "other", **{"layers": [0, 1], **changes})  # type: ignore[arg-type]
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "other")]) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and not out


def test_one_run_or_another_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_maps.write(tmp_path / "maps")
    made_runs.write(tmp_path / "sweep", n=4, n_layer=4)
    assert main(["compare", str(tmp_path / "maps")]) == 2
    assert "name two runs or more" in capsys.readouterr().err
    for command in (["compare"], ["show"], ["plot", "-o", str(tmp_path / "x.png")]):
        assert main([*command, str(tmp_path / "maps"), str(tmp_path / "sweep")]) == 2
        out, err = capsys.readouterr()
        assert "holds maps over a task, and " in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize("columns", [40, 80])
def test_shown_and_as_json(
    tmp_path: Path,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    one = made_maps.write(tmp_path / "one", noise, n_layer=40, layers=list(range(40)))
    made_maps.write(tmp_path / "other", more, n_layer=40, n=9, ended=False, seed=1)
    paths = [str(tmp_path / name) for name in ("one", "other")]
    assert main(["compare", *paths]) == 0
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= columns and "other is unfinished" in err
    typed = " ".join(out.split())
    assert "9 also in [1]" in typed and "seed 1, not 0 as in [1]" in typed
    (row,) = [line for line in out.splitlines() if line.startswith("subject l") and ":" not in line]
    # Of 40 columns, two layers share one.
    assert row.split()[-1][:3] == (".##" if columns > 40 else "##.")
    assert main(["compare", *paths, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    nothing, pair = document["pairs"]
    assert nothing is None and document["n"] == [12, 9] and document["finished"] == [True, False]
    assert pair["n_shared"] == 9 and np.array(pair["effects"]["mean"]).shape == (40, 4)
    place = [each["role"] for each in pair["roles"]].index("subject last")
    assert [row[place] for row in pair["effects"]["sure"]][:4] == [False, True, True, False]
    # Of roles that are not tested there is no p.
    assert {row[1] for row in pair["effects"]["p"]} == {None} and pair["roles"][1]["n"] == 3
    assert len(one.used) == 12


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_exported_means_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = made_maps.write(tmp_path / "one", noise, without=2)
    path = str(tmp_path / "one")
    assert main(["export", path]) == 0
    clean, *cells = table(capsys.readouterr().out)
    assert clean["role"] == clean["layer"] == "" and float(clean["value"]) == pytest.approx(0.8)
    assert len(cells) == 4 * 4 and cells[0]["metric"] == "prob" and cells[0]["patch"] == "knockout"
    for cell in cells:
        row, column = int(cell["layer"]), found.roles.index(cell["role"])
        for name, mean in (("value", found.values), ("effect", found.effects)):
            assert float(cell[name]) == mean.mean[row, column]
        assert float(cell["effect_low"]) == found.effects.low[row, column]
        assert int(cell["n"]) == found.n_of(cell["role"])
    assert main(["export", path, "--rows"]) == 0
    cells = table(capsys.readouterr().out)
    assert len(cells) == (3 * 4 + 9 * 3) * 4 + 2
    first = cells[0]
    assert first["prompt"] == "Q: what of 0?\\nA:" and first["accepted"] == "Paris | Paname"
    assert (first["role"], first["positions"], first["layer"]) == ("first token", "0", "0")
    assert float(first["effect"]) == noise(0, 0, "first token")
    assert cells[-1]["answer"] == " Rome" and cells[-1]["role"] == cells[-1]["value"] == ""
    assert main(["export", path, "--rows", "--format", "jsonl"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(cells) and lines[0]["accepted"] == ["Paris", "Paname"]
    assert main(["export", path, "--format", "md"]) == 0
    assert re.match(r"\| run \| task \|", capsys.readouterr().out)


def test_maps_and_sweeps_are_exported_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_maps.write(tmp_path / "maps")
    made_runs.write(tmp_path / "sweep", n=4, n_layer=4)
    assert main(["export", str(tmp_path), "--format", "jsonl"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(each["run"]).name for each in records} == {"maps", "sweep"}


def test_comparison_of_three(tmp_path: Path) -> None:
    runs = [made_maps.write(tmp_path / name, noise, model=name) for name in "abc"]
    comparison = MapsComparison.of(runs)
    assert comparison.names == ("a", "b", "c")
    assert [pair.number for pair in comparison.pairs] == [2, 3]
