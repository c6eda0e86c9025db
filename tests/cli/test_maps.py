"""`localprobe map` and `localprobe lens`: what is shown, and what is written."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localprobe.cli.app import main

PROMPT = "in Chad, now"


@pytest.fixture
def run(
    tiny_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def call(command: str, *arguments: str) -> tuple[int, str, str]:
        model = str(tiny_file("llama"))
        code = main([command, PROMPT, "-m", model, "--threads", "1", *arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


Run = Callable[..., tuple[int, str, str]]


def document(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_the_document_holds_every_cell(run: Run) -> None:
    found = document(run, "map")
    assert [token["text"] for token in found["tokens"]] == ["in", " ", "Chad", ",", " ", "no"]
    assert found["layers"] == [0, 1, 2, 3]
    assert np.array(found["values"]).shape == np.array(found["effect"]).shape == (4, 6)
    assert found["values"] == found["probs"] and found["metric"] == "prob"
    assert found["model"]["n_layer"] == 4 and found["words"]
    seen = document(run, "lens", "--top", "2")
    assert np.array(seen["top_ids"]).shape == (4, 12, 2)
    assert seen["token"]["id"] == found["clean"]["id"]
    together = document(run, "map", "--lens", "--layers", "2:")
    assert together["lens"]["layers"] == together["layers"] == [2, 3]


def test_generated_maps_are_a_list(run: Run) -> None:
    found = document(run, "map", "--generated", "--max-tokens", "2")
    assert len(found["maps"]) == 2
    assert len(found["maps"][1]["token_ids"]) == len(found["maps"][0]["token_ids"]) + 1


@pytest.mark.parametrize("columns", [20, 40, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_it_fits_and_reads_without_colour(
    run: Run, columns: int, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    if encoding == "ascii":
        monkeypatch.setattr("localprobe.report.map_view.speaks_unicode", lambda console: False)
    code, out, _ = run("map", "--lens", "--patch", "random")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in out
    (row,) = [line for line in lines if line.startswith("Chad") and "P" not in line]
    marks = row.removeprefix("Chad").strip()
    assert set(marks) <= set("·░▒▓█ " if encoding == "utf-8" else ".:=*# ")
    assert any(line.startswith("clean answer") for line in lines)
    if encoding == "ascii":
        assert "≥" not in out


@pytest.mark.parametrize(("columns", "kept"), [(40, 1), (80, 4), (200, 8)])
def test_of_the_likeliest_tokens_whole_numbers_are_shown_or_none(
    run: Run, columns: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = run("lens", "--top", "8", "--layers", "3")
    (row,) = [line for line in out.splitlines() if line.startswith("    3  ")]
    assert code == 0 and len(re.findall(r" 0\.\d\d\b", row)) == kept + 1
    assert (f"no room for {8 - kept} more" in out) == (kept < 8)


def test_layers_that_do_not_fit_share_a_column() -> None:
    from rich.console import Console

    from localprobe.report.map_view import heat_map

    shares = np.zeros((64, 1))
    shares[33, 0] = 1
    lines = heat_map(Console(width=40), ["Chad"], np.arange(64), shares)
    assert max(line.cell_len for line in lines[:-1]) <= 40
    assert "2 layers" in lines[-1].plain
    assert lines[1].plain.removeprefix("Chad  ").index("█") == 16


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html", "csv", "npz"])
@pytest.mark.parametrize("command", ["map", "lens"])
def test_files(run: Run, tmp_path: Path, command: str, suffix: str) -> None:
    path = tmp_path / f"found.{suffix}"
    found = document(run, command)
    code, _, err = run(command, "-o", str(path))
    assert code == 0 and f"wrote {path}" in err
    name = "values" if command == "map" else "token_probs"
    expected = np.array(found[name])
    if suffix == "csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
        column = "value" if command == "map" else "p_token"
        written = [float(row[column]) for row in rows]
        np.testing.assert_allclose(np.reshape(written, expected.T.shape).T, expected)
    elif suffix == "npz":
        with np.load(path) as arrays:
            name = name if command == "map" else f"lens_{name}"
            np.testing.assert_allclose(arrays[name], expected)
    elif suffix == "html":
        page = path.read_text("utf-8")
        assert page.count("<td ") == expected.size and "<script" not in page
    else:
        start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
        assert path.read_bytes().startswith(start)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_until_is_of_layers_that_were_computed(run: Run) -> None:
    for layers, last in (("0", 0), ("3", 3)):
        found = document(run, "map", "--layers", layers, "--metric", "kl", "--patch", "random")
        for each in found["needed"]:
            assert each["until"] == (4 if last == 3 else None)


def test_strange_text_is_shown_and_not_obeyed(
    tiny_file: Callable[[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, path = str(tiny_file("llama")), tmp_path / "found.html"
    prompt = "a\x1b[31m<b>$x$ \u202e now"
    for output in (path, tmp_path / "found.png"):
        assert main(["map", prompt, "-m", model, "--threads", "1", "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    for text in (shown, path.read_text("utf-8")):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<b>$x" not in path.read_text("utf-8")


def test_wrong_use_is_said_before_anything_is_computed(run: Run, tmp_path: Path) -> None:
    for arguments, said in (
        (("map", "-o", str(tmp_path / "found.jpg")), ".png"),
        (("lens", "-o", str(tmp_path / "no" / "found.png")), "No such file"),
        (("map", "--patch", "knockut"), "did you mean knockout"),
        (("map", "--metric", "prop"), "did you mean prob"),
        (("map", "--generated", "--patch", "swap", "--against", "by Peru, now"), "--generated"),
        (("lens", "--top", "0"), "top"),
        (("map", "--window", "5"), "--window 5 is more than the 4 layers of the model"),
    ):
        code, out, err = run(*arguments)
        assert code == 2 and out == "" and said in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_attention_as_document_map_and_heads(run: Run, tmp_path: Path) -> None:
    found = document(run, "attention", "--layer", "1", "--head", "2", "--to", "Chad")
    weights = np.array(found["weights"])
    assert weights.shape == (12, 12) and found["to"] == [3, 4, 5, 6]
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert found["heads"][0]["weight"] >= found["heads"][-1]["weight"]
    code, out, _ = run("attention")
    assert code == 0 and "the mean over layers" in out
    code, out, _ = run("attention", "--to", "Chad")
    assert code == 0 and "looks most at `Chad`" in out
    for suffix in ("png", "html", "csv", "npz"):
        path = tmp_path / f"found.{suffix}"
        assert run("attention", "--layer", "1", "--head", "2", "-o", str(path))[0] == 0
        assert path.stat().st_size > 100
    with np.load(tmp_path / "found.npz") as arrays:
        np.testing.assert_allclose(arrays["weights"][0, 2], weights)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "found.csv").read_text("utf-8"))))
    assert len(rows) == 12 * 13 // 2 and float(rows[0]["weight"]) == 1
    for arguments, said in ((("--layer", "9"), "no layer 9"), (("--head", "9"), "no head 9")):
        code, _, err = run("attention", *arguments)
        assert code == 2 and said in err
