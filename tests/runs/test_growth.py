"""A run of which more examples are wanted has the rows of one that was of so many at once."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from localprobe import load_run
from localprobe.api import Model, RunningSweep
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.runs.folder import ROWS
from localprobe.runs.manifest import MANIFEST
from localprobe.runs.merging import merge
from localprobe.runs.rows import CLEAN
from localprobe.runs.shard import Shard
from localprobe.tasks.base import Example
from localprobe.tasks.jsonl import Jsonl


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A task of nine examples of which the model gets two in three right, by decree."""

    def examples(_task: Jsonl) -> list[Example]:
        words = ("AA", "BB", "CC", "DDD", "EE", "FF", "GG", "HHHH", "II")
        return [Example(n, f"say {word} now:", ("x",), word) for n, word in enumerate(words)]

    def score(_task: Jsonl, text: str, example: Example) -> dict[str, float]:
        return {"exact_match": float(example.number % 3 != 1), "prefix_match": len(text) % 2}

    monkeypatch.setattr(Jsonl, "score", score)
    monkeypatch.setattr(Jsonl, "examples", examples)
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a", "answers": ["x"]}\n', encoding="utf-8")
    return {"task": "jsonl", "patches": ("random", "swap"), "layers": "0,2", "data": path}


def run(model: Model, out: Path, batch: int | None = None, **settings: Any) -> bytes:
    with RunningSweep(model, Experiment(**settings, max_tokens=2), out, batch=batch) as running:
        for _ in running.rows():
            pass
    return (out / ROWS).read_bytes()


def manifest(out: Path) -> dict[str, Any]:
    """What is in it, but for when it was made."""
    data: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    return {**data, "started": None, "ended": data["ended"] is not None}


@pytest.mark.parametrize("batch", [None, 2, 4])
@pytest.mark.parametrize("all_examples", [True, False])
def test_a_grown_run_is_the_run_of_so_many(
    batch: int | None, all_examples: bool, model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    own["all_examples"] = all_examples
    for start, *steps in ((2, 3), (2, 5, None), (3, 4), (4, 6), (3, 99, None)):
        out = tmp_path / f"{start}-{steps}"
        run(model, out, batch, n=start, **own)
        for n in steps:
            whole = tmp_path / f"whole-{n}"
            expected = run(model, whole, batch, n=n, **own)
            assert run(model, out, batch, n=n, **own) == expected
            assert manifest(out) == manifest(whole)
            assert load_run(out).is_finished


def test_shards_grow_each_by_itself(model: Model, own: dict[str, Any], tmp_path: Path) -> None:
    expected = run(model, tmp_path / "whole", n=5, **own)
    for start in (2, 3, 4):
        parts = []
        for number in (1, 2):
            parts.append(tmp_path / f"{start}-{number}")
            for n in (start, 5):
                run(model, parts[-1], n=n, shard=Shard(number, 2), **own)
        merge(parts, tmp_path / f"merged-{start}")
        assert (tmp_path / f"merged-{start}" / ROWS).read_bytes() == expected


def test_what_stays_is_not_computed_again(
    model: Model, own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the swap of the last example, which had the words of the first one."""
    from localprobe.engine.resume import ResumeEngine

    real, computed = ResumeEngine.run, list[int]()

    def spied(engine: ResumeEngine, *arguments: Any, **named: Any) -> Any:
        computed.extend(named["examples"])
        return real(engine, *arguments, **named)

    monkeypatch.setattr(ResumeEngine, "run", spied)
    for patches, expected in ((("random", "swap"), {3, 5, 6}), (("random",), {5, 6})):
        out = tmp_path / "-".join(patches)
        run(model, out, n=3, **{**own, "patches": patches})
        computed.clear()
        run(model, out, n=5, **{**own, "patches": patches})
        assert set(computed) == expected


def test_interrupted_while_it_grows(
    model: Model, own: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is written last, what is there is a run that can be gone on with, or grow again."""
    expected = run(model, tmp_path / "whole", n=5, **own)
    run(model, tmp_path / "three", n=3, **own)
    three = (tmp_path / "three" / ROWS).read_bytes()
    for step in ("write_manifest", "truncate"):
        for call in (1, 2):
            out = tmp_path / f"{step}-{call}"
            shutil.copytree(tmp_path / "three", out)
            calls = [0]
            from localprobe.runs import folder

            real = getattr(folder, step)

            def stops(*arguments: Any, real: Any = real, call: int = call) -> None:
                calls[0] += 1  # noqa: B023
                if calls[0] == call:  # noqa: B023
                    raise KeyboardInterrupt
                real(*arguments)

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(folder, step, stops)
                run(model, out, n=5, **own)
            load_run(out)
            again = tmp_path / f"{step}-{call}-three"
            shutil.copytree(out, again)
            assert run(model, out, n=5, **own) == expected
            if manifest(again)["experiment"]["n"] == 3:
                assert run(model, again, n=3, **own) == three


def test_stopped_anywhere_then_grown(model: Model, own: dict[str, Any], tmp_path: Path) -> None:
    expected = run(model, tmp_path / "whole", n=5, **own)
    for stop in (1, 6, 9, 14):
        out = tmp_path / f"stopped-{stop}"
        experiment = Experiment(**own, n=3, max_tokens=2)
        with RunningSweep(model, experiment, out) as running:
            for _ in islice(running.rows(), stop):
                pass
        assert run(model, out, n=5, **own) == expected


@pytest.mark.parametrize(
    ("there", "wanted", "message"),
    [
        (4, 3, "of 4 examples, not 3; it can grow, but not shrink: give -n 4 or more, or choose"),
        (None, 3, "of all examples, not 3; it can grow, but not shrink: give no -n, or choose"),
    ],
)
def test_a_run_does_not_shrink(
    there: int | None,
    wanted: int,
    message: str,
    model: Model,
    own: dict[str, Any],
    tmp_path: Path,
) -> None:
    before = run(model, tmp_path / "out", n=there, **own)
    data = (tmp_path / "out" / MANIFEST).read_bytes()
    with pytest.raises(LocalprobeError, match=message):
        run(model, tmp_path / "out", n=wanted, **own)
    assert (tmp_path / "out" / ROWS).read_bytes() == before
    assert (tmp_path / "out" / MANIFEST).read_bytes() == data


def as_of_before(out: Path) -> None:
    """As version 0.2 wrote it."""
    file = out / MANIFEST
    data = json.loads(file.read_text(encoding="utf-8"))
    del data["examples"]
    file.write_text(json.dumps({**data, "format": 1, "localprobe": "0.2.0"}), encoding="utf-8")
    new = ("ties", "used_by_tie", "prompt", "accepted", "subject", "new", "new_accepted")
    lines = []
    for line in (out / ROWS).read_text(encoding="utf-8").splitlines():
        record = {key: value for key, value in json.loads(line).items() if key not in new}
        lines.append(json.dumps(record) + "\n")
    (out / ROWS).write_text("".join(lines), encoding="utf-8", newline="\n")


def test_a_run_of_before_is_read_but_not_gone_on_with(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    own["n"] = 3
    run(model, tmp_path / "out", **own)
    new = load_run(tmp_path / "out")
    as_of_before(tmp_path / "out")
    old = load_run(tmp_path / "out")
    assert [row.scores for row in old.rows] == [row.scores for row in new.rows]
    assert old.is_finished
    for row, now in zip(old.rows, new.rows, strict=True):
        for metric in row.scores:
            # What near ties could do was not noted, so it could be anything.
            low, high = now.could_score(metric)
            assert row.could_score(metric) == ((0, 1) if row.near_tie else (low, high))
    with pytest.raises(LocalprobeError, match=r"a run of localprobe 0\.2\.0, whose rows say less"):
        run(model, tmp_path / "out", **own)
    merge([tmp_path / "out"], tmp_path / "merged")
    assert (tmp_path / "merged" / ROWS).read_text("utf-8").count("\n") == len(old.rows)


def test_how_much_there_is_of_an_unfinished_run(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    for n, shard, there, expected in (
        (3, Shard(1, 1), 2, "2 of 3 examples"),
        (5, Shard(1, 2), 1, "1 of 3 examples"),
        (None, Shard(1, 1), 2, "2 of at most 9 examples"),
        (99, Shard(1, 1), 2, "2 of at most 9 examples"),
    ):
        out = tmp_path / f"{n}-{shard.count}"
        experiment = Experiment(**own, n=n, shard=shard, max_tokens=2)
        with RunningSweep(model, experiment, out) as running:
            for _ in running.rows():
                if load_run(out).tally.baseline.n == there:
                    break
        assert load_run(out).so_far == expected
    with RunningSweep(model, Experiment(**own, n=3, max_tokens=2)) as running:
        assert running.found().so_far == "0 of 3 examples"
        for _ in running.rows():
            pass
        assert running.found().so_far is None


def test_rows_say_what_was_asked_and_what_is_right(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    run(model, tmp_path / "out", n=3, **own)
    for row in load_run(tmp_path / "out").rows:
        if row.patch == CLEAN:
            assert row.prompt == f"say {row.subject} now:"
            assert row.accepted == ("x",)
        else:
            assert (row.prompt, row.subject, row.accepted) == ("", "", ())
            swapped = row.patch == "swap"
            assert bool(row.new) == bool(row.new_accepted) == swapped
