"""An adaptive sweep has the rows of a whole one, byte for byte, of fewer examples a layer."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localprobe import load_run, sweep
from localprobe.api import Model, RunningSweep
from localprobe.cli.app import main
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.report.comparison import Comparison
from localprobe.runs.folder import ROWS, GrowingRows
from localprobe.runs.manifest import MANIFEST
from localprobe.runs.merging import merge
from localprobe.runs.rows import CLEAN, from_json, to_json
from localprobe.runs.shard import Shard
from localprobe.runs.stages import is_narrow
from localprobe.tasks.base import Example
from localprobe.tasks.jsonl import Jsonl

METRIC = "exact_match"
N_LAYER = 5
PATCHES = ("freeze", "skip")
WIDTH = 0.25


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers import tiny

    path = tmp_path_factory.mktemp("deep") / "deep.gguf"
    return tiny.write(tiny.build("llama", n_layer=N_LAYER), path)


@pytest.fixture(scope="module")
def model(file: Path) -> Iterator[Model]:
    with Model(file, threads=1) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is right hangs on what is said, so that some layers are soon known and others not."""

    def examples(_task: Jsonl) -> list[Example]:
        return [Example(n, f"say {n} now:", ("x",)) for n in range(34)]

    def score(_task: Jsonl, text: str, _example: Example) -> dict[str, float]:
        total = sum(text.encode())
        return {METRIC: float(total % 8 > 0), "prefix_match": float(total % 8 > 1)}

    monkeypatch.setattr(Jsonl, "score", score)
    monkeypatch.setattr(Jsonl, "examples", examples)
    monkeypatch.setattr(Jsonl, "is_settled", lambda *_: False)
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "answers": ["x"]}\n', encoding="utf-8")
    return {"data": path, "max_tokens": 1}


def run(model: Model, own: dict[str, Any], out: Path, batch: int = 1, **changes: Any) -> bytes:
    settings = {"task": "jsonl", "patches": PATCHES, "adaptive": True, "width": WIDTH}
    experiment = Experiment(**{**settings, **own, **changes})
    with RunningSweep(model, experiment, out, batch=batch) as running:
        for _ in running.rows():
            pass
    return (out / ROWS).read_bytes()


WHOLE = {"adaptive": False, "width": None}


@pytest.mark.parametrize("batch", [1, 5])
def test_rows_are_those_of_a_whole_sweep(
    batch: int, model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(model, own, tmp_path / "whole", batch, **WHOLE).splitlines()
    found = run(model, own, tmp_path / "adaptive", batch).splitlines()
    scores: dict[tuple[str, int | None], list[float]] = defaultdict(list)
    expected = []
    for line in whole:
        row = from_json(line.decode())
        cell = scores[row.patch, row.layer]
        if row.used:
            n = len(cell)
            ended = [k for k in (15, 31) if k <= n and is_narrow(Counter(cell[:k]), WIDTH)]
            cell.append(row.scores[METRIC])
        if row.patch == CLEAN or not ended:
            expected.append(line)
    assert found == expected
    assert len(found) < len(whole)
    counts = Counter((row.patch, row.layer) for row in load_run(tmp_path / "adaptive").rows)
    assert len(set(counts.values())) > 2


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_and_grown_it_is_the_same(
    batch: int, model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    expected = run(model, own, whole, batch)
    for part in (0.3, 0.62):
        killed = tmp_path / f"killed-{part}"
        shutil.copytree(whole, killed)
        (killed / ROWS).write_bytes(expected[: int(part * len(expected))])
        data = json.loads((killed / MANIFEST).read_text(encoding="utf-8"))
        text = json.dumps({**data, "ended": None, "counts": None})
        (killed / MANIFEST).write_text(text, encoding="utf-8")
        growing = GrowingRows(killed)
        growing.look()
        assert run(model, own, killed, batch) == expected
        growing.look()
        assert growing.rows == load_run(whole).rows
    run(model, own, tmp_path / "grown", batch, n=18)
    assert run(model, own, tmp_path / "grown", batch) == expected
    assert merge([whole], tmp_path / "merged").rows == load_run(whole).rows
    # A row that the rule does not ask for is damage, and so is one that it misses.
    lines = expected.splitlines(keepends=True)
    inner = next(n for n, line in enumerate(lines) if n > len(lines) / 2 and b'"skip"' in line)
    (whole / ROWS).write_bytes(b"".join(lines[:inner] + lines[inner + 1 :]))
    with pytest.raises(LocalprobeError, match="damaged"):
        load_run(whole)
    rows = [from_json(line.decode()) for line in lines]
    last = max(row.example for row in rows if row.layer is not None)
    mine = {(row.patch, row.layer) for row in rows if row.example == last}
    gone = next(row for row in rows if row.layer is not None and (row.patch, row.layer) not in mine)
    more = {**json.loads(to_json(gone)), "example": last}
    (whole / ROWS).write_bytes(expected + json.dumps(more).encode() + b"\n")
    with pytest.raises(LocalprobeError, match="damaged"):
        load_run(whole)


def test_it_ends_where_all_layers_are_known(
    model: Model, own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jsonl, "score", lambda *_: {METRIC: 1.0, "prefix_match": 1.0})
    settings = {**own, "adaptive": True, "n": 30}
    going = Experiment("jsonl", PATCHES, **settings).sweep(model.engine())
    assert going.going_on == (9, 9)
    shares = [going.done for _ in going.run()]
    assert all(0 <= share <= 1 for share in shares)
    assert (going.done, going.used, going.tried, going.going_on) == (1, 15, 15, (0, 9))
    first = run(model, own, tmp_path / "few", n=30)
    assert first == run(model, own, tmp_path / "few")
    assert load_run(tmp_path / "few").tally.too_wide() == {}


def test_it_is_read_like_any_other(
    model: Model,
    own: dict[str, Any],
    tmp_path: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(model, own, tmp_path / "whole", **WHOLE)
    arguments = ["-m", str(file), "--threads", "1", "--task", "jsonl", "-p", ",".join(PATCHES)]
    arguments += ["--data", str(own["data"]), "--max-tokens", "1", "--adaptive"]
    arguments += ["--width", str(WIDTH), "--out", str(tmp_path / "adaptive"), "--json"]
    assert main(["sweep", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    runs = [str(tmp_path / name) for name in ("whole", "adaptive")]
    least, most = found["adaptive"]["n_fewest"], found["adaptive"]["n_most"]
    assert {row["n"] for row in found["rows"]} >= {least, most}
    assert least == 15 < 31 < most == found["n"]
    methods = {(row["metric"], row["interval"]) for row in found["rows"]}
    assert methods == {(METRIC, "stages"), ("prefix_match", "shared")}
    assert main(["show", runs[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["show", runs[1]]) == 0
    shown = capsys.readouterr().out
    assert f"n: {least} to {most} examples a layer; at 15, 31, 63 …" in " ".join(shown.split())
    assert f"wider than {WIDTH} after all {most} examples: " in shown
    layers = [line.split() for line in shown.splitlines() if line.split()[:1] == ["4"]]
    by_cell = Counter((row.patch, row.layer) for row in load_run(Path(runs[1])).rows)
    assert [int(each) for each in layers[0][2::4]] == [by_cell[patch, 4] for patch in PATCHES]
    assert main(["show", runs[1], "--metric", "prefix_match"]) == 0
    assert "Another metric ended them" in capsys.readouterr().out
    for name in ("figure.png", "page.html"):
        command = "plot" if name.endswith("png") else "report"
        assert main([command, *runs, "-o", str(tmp_path / name)]) == 0
    assert f"n {least}" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main(["export", runs[1], "--rows"]) == 0
    capsys.readouterr()
    assert main(["compare", *runs]) == 0
    assert f"{most} used, {least} to {most} at each layer" in capsys.readouterr().out
    # Only examples that have all layers have a layer of their own.
    shared = Comparison.of([load_run(Path(each)) for each in runs])[0].moved(1)
    assert shared is not None
    assert (shared.n, shared.n_moved, shared.p) == (least, 0, 1)
    whole, adaptive = (load_run(Path(each)).own_transitions("freeze") for each in runs)
    assert len(adaptive) == least < len(whole)
    assert adaptive.items() <= whole.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patches": ("freeze", "swap"), "task": "capitals"}, "a swap has two; sweep swap alone"),
        ({"shard": Shard(1, 2)}, "a shard does not have them"),
        ({"width": 0.0}, "width must be above 0 and below 1, not 0.0"),
        ({"adaptive": False}, "width is for a sweep that is adaptive"),
        ({"patience": 2}, "a transition leaves layers out by itself"),
    ],
)
def test_what_cannot_be_done(
    changes: dict[str, Any], message: str, model: Model, own: dict[str, Any]
) -> None:
    settings = {"task": "jsonl", "patches": PATCHES, "adaptive": True, "width": 0.2, **changes}
    settings |= own if settings["task"] == "jsonl" else {}
    with pytest.raises(LocalprobeError, match=message):
        sweep(model, progress=False, **settings)


def test_it_is_another_run_than_a_whole_one(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    run(model, own, tmp_path / "a", n=2)
    for changes in (WHOLE, {"width": 0.3}):
        with pytest.raises(LocalprobeError, match=r"another run: experiment (adaptive|width)"):
            run(model, own, tmp_path / "a", n=2, **changes)
