"""A transition is read off fewer cells, which are those of a whole sweep, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from localprobe import load_run, sweep, transition
from localprobe.api import Model, RunningSweep
from localprobe.cli.app import main
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.runs.descent import Descent, Walk, held
from localprobe.runs.folder import ROWS
from localprobe.runs.manifest import MANIFEST
from localprobe.runs.merging import merge
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN, from_json
from localprobe.runs.shard import Shard
from localprobe.tasks.base import Example
from localprobe.tasks.jsonl import Jsonl

METRIC = "exact_match"
N_LAYER = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    from helpers import tiny

    path = tmp_path_factory.mktemp("deep") / "deep.gguf"
    with Model(tiny.write(tiny.build("llama", n_layer=N_LAYER), path), threads=1) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Twenty examples; what counts as right hangs on what is said, and on nothing that is so
    simple that answers would not come back."""

    def examples(_task: Jsonl) -> list[Example]:
        return [Example(n, f"say {n} now:", ("x",)) for n in range(20)]

    def score(_task: Jsonl, text: str, example: Example) -> dict[str, float]:
        right = sum(text.encode()) % 2 == 0
        return {METRIC: float(right), "prefix_match": 1.0}

    monkeypatch.setattr(Jsonl, "score", score)
    monkeypatch.setattr(Jsonl, "examples", examples)
    monkeypatch.setattr(Jsonl, "is_settled", lambda *_: False)
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "answers": ["x"]}\n', encoding="utf-8")
    return {"data": path, "max_tokens": 2, "progress": False}


PATCHES = ("freeze", "skip", "random")


def both(model: Model, out: Path, own: dict[str, Any], **settings: Any) -> tuple[Run, Run]:
    whole = sweep(model, "jsonl", PATCHES, out=out / "whole", **own)
    return whole, transition(model, "jsonl", PATCHES, out=out / "down", **own, **settings)


@pytest.mark.parametrize(("patience", "check"), [(1, 0.0), (2, 0.0), (3, 0.25)])
def test_rows_are_those_of_a_sweep_as_far_as_layers_go_down(
    patience: int, check: float, model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    whole, down = both(model, tmp_path, own, patience=patience, check=check)
    of_sweep = {(row.example, row.patch, row.layer): row for row in whole.rows}
    expected = set()
    descent = Descent(patience, check)
    for example in {row.example for row in whole.rows}:
        clean = of_sweep[example, CLEAN, None]
        expected.add((example, CLEAN, None))
        for patch in PATCHES if clean.used else ():
            walk = Walk(descent, example, patch)
            for layer in reversed(range(patch == "freeze", N_LAYER)):
                if walk.wants(layer):
                    expected.add((example, patch, layer))
                    walk.saw(layer, held(of_sweep[example, patch, layer], METRIC))
    assert {(row.example, row.patch, row.layer) for row in down.rows} == expected
    for row in down.rows:
        there = of_sweep[row.example, row.patch, row.layer]
        assert (row.answer, row.top, row.near_tie) == (there.answer, there.top, there.near_tie)
        assert row.scores[METRIC] == there.scores[METRIC]
    assert len(down.rows) < len(whole.rows)
    for patch in PATCHES:
        assert down.own_transitions(patch, patience) == whole.own_transitions(patch, patience)


def test_with_patience_for_all_layers_it_is_the_sweep(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    whole, down = both(model, tmp_path, own, patience=N_LAYER)
    assert len(down.rows) == len(whole.rows)
    for patch in PATCHES:
        assert down.transition(patch) == whole.transition(patch)
        assert down.limits(patch) == whole.limits(patch)
        assert down.tally.reach(patch) == whole.tally.reach(patch)
        for layer in range(patch == "freeze", N_LAYER):
            one, other = (run.tally.score(patch, METRIC, layer) for run in (down, whole))
            assert one == other


def test_what_counts_as_lost_is_said(model: Model, own: dict[str, Any], tmp_path: Path) -> None:
    _, down = both(model, tmp_path, own, patience=1)
    n = down.tally.baseline.n
    assert n > 3
    tried = {(row.example, row.layer) for row in down.rows if row.patch == "skip"}
    for layer in range(N_LAYER):
        score = down.tally.score("skip", METRIC, layer)
        assert score is not None
        assert score.n == n
        assert score.assumed == n - sum(1 for _, at in tried if at == layer)
    assert sum(row.layer == 0 for row in down.rows if row.patch == "skip") < n
    # If all that was not tried were right, the transition could lie lower, and never higher.
    for patch in PATCHES:
        layer, possible = down.transition(patch), down.tally.transition_if_back(patch, 1.0)
        assert layer is None or (possible is not None and possible <= layer)
        assert down.tally.transition_if_back(patch, 0.0) == layer
    # Only the metric that layers were tried by is known.
    with pytest.raises(LocalprobeError, match="no metric 'prefix_match'"):
        down.by_metric("prefix_match")
    with pytest.raises(LocalprobeError, match="gave examples up after 1 lost layers"):
        down.own_transitions("skip", 2)


@pytest.mark.parametrize("batch", [1, 4])
def test_killed_grown_and_in_shards_it_is_the_same(
    batch: int, model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"task": "jsonl", "patches": PATCHES, "patience": 2, "check": 0.2}
    settings |= {"data": own["data"], "max_tokens": 2}

    def run(out: Path, **changes: Any) -> bytes:
        experiment = Experiment(**{**settings, **changes})
        with RunningSweep(model, experiment, out, batch=batch) as running:
            for _ in running.rows():
                pass
        return (out / ROWS).read_bytes()

    expected = run(tmp_path / "whole")
    lines = expected.splitlines(keepends=True)
    for cut in range(0, len(expected), len(expected) // 17):
        killed = tmp_path / f"killed-{cut}"
        shutil.copytree(tmp_path / "whole", killed)
        (killed / ROWS).write_bytes(expected[:cut])
        data = json.loads((killed / MANIFEST).read_text(encoding="utf-8"))
        (killed / MANIFEST).write_text(json.dumps({**data, "ended": None, "counts": None}))
        assert len(load_run(killed).rows) <= len(lines)
        assert run(killed) == expected
    run(tmp_path / "grown", n=3)
    assert run(tmp_path / "grown") == expected
    if batch == 1:
        shards = [tmp_path / f"shard-{number}" for number in (1, 2)]
        for number, shard in enumerate(shards, 1):
            run(shard, shard=Shard(number, 2))
        assert merge(shards, tmp_path / "merged").rows == load_run(tmp_path / "whole").rows
    # A row that the rule does not ask for, or that it misses, is damage.
    rows = [from_json(line.decode()) for line in lines]
    inner = next(n for n, row in enumerate(rows) if row.patch == "skip")
    (tmp_path / "whole" / ROWS).write_bytes(b"".join(lines[:inner] + lines[inner + 1 :]))
    with pytest.raises(LocalprobeError, match="damaged"):
        load_run(tmp_path / "whole")


def test_until_the_interval_is_narrow(
    model: Model, own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Examples go on as long as it takes, and end where they are enough."""
    many = [Example(n, f"say {n} now:", ("x",)) for n in range(60)]
    monkeypatch.setattr(Jsonl, "examples", lambda _: many)
    monkeypatch.setattr(Jsonl, "score", lambda *_: {METRIC: 1.0, "prefix_match": 1.0})
    experiment = Experiment(
        "jsonl", ("skip",), data=own["data"], max_tokens=2, patience=1, check=0.3, until_width=0
    )
    going = experiment.sweep(model.engine())
    shares = [going.done for _ in going.run()]
    assert all(0 <= share <= 1 for share in shares)
    assert going.done == 1
    run = transition(model, "jsonl", "skip", until_width=0, out=tmp_path / "a", **own)
    # 29 examples that all survive everywhere; the next one was begun by then.
    assert 29 <= run.tally.baseline.n <= 30
    limits = run.limits("skip")
    assert limits is not None
    assert (limits.low, limits.high) == (0, 0)
    assert run.tally.wider_than_asked() == []
    again = (tmp_path / "a" / ROWS).read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / ROWS).write_bytes(again[: len(again) // 2])
    data = json.loads((tmp_path / "b" / MANIFEST).read_text(encoding="utf-8"))
    text = json.dumps({**data, "ended": None, "counts": None})
    (tmp_path / "b" / MANIFEST).write_text(text, encoding="utf-8")
    transition(model, "jsonl", "skip", until_width=0, out=tmp_path / "b", **own)
    assert (tmp_path / "b" / ROWS).read_bytes() == again


def test_examples_that_run_out_before_the_interval_is_narrow(
    model: Model, own: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transition(model, "jsonl", PATCHES, until_width=0, out=tmp_path / "few", n=3, **own)
    said = "--until-width 0: not reached with the 3 examples there were, by freeze, skip, random"
    assert main(["show", str(tmp_path / "few")]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["show", str(tmp_path / "few"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["descent"]
    assert (found["until_width"], found["wider"]) == (0, list(PATCHES))
    # It may get more, so nothing is said of one that is not at its end.
    data = json.loads((tmp_path / "few" / MANIFEST).read_text(encoding="utf-8"))
    text = json.dumps({**data, "ended": None, "counts": None})
    (tmp_path / "few" / MANIFEST).write_text(text, encoding="utf-8")
    assert main(["show", str(tmp_path / "few")]) == 0
    assert "not reached" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("squad", {"metric": "f1"}, "f1 has degrees; take --metric exact_match"),
        ("cnn_dailymail", {}, "rouge1 has degrees; take localprobe sweep"),
        ("capitals", {"patches": ("swap",)}, "sweep --patch swap"),
        ("capitals", {"all_examples": True}, "nothing to lose"),
        ("capitals", {"until_width": 1, "shard": Shard(1, 2)}, "a shard does not have them"),
        ("capitals", {"patience": 0}, "patience must be at least 1"),
        ("capitals", {"check": 1.5}, "check must be a share"),
        ("capitals", {"keep": 1.0}, "keep must be a share"),
        ("capitals", {"until_width": -1}, "until_width must be"),
        ("capitals", {"patience": None, "keep": 0.8}, "are for a transition"),
    ],
)
def test_what_cannot_be_done(
    task: str, changes: dict[str, Any], message: str, model: Model
) -> None:
    settings = {"task": task, "patches": ("freeze",), "patience": 2, **changes}
    with pytest.raises(LocalprobeError, match=message):
        Experiment(**settings).sweep(model.engine())
