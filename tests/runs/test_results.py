"""Runs on disk: written as they come, gone on with after a kill, sharded and merged."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localprobe import load_run
from localprobe.api import Model, RunningSweep
from localprobe.engine.answers import Token
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.runs.folder import ROWS
from localprobe.runs.manifest import MANIFEST, Manifest, differences, read_manifest
from localprobe.runs.merging import merge
from localprobe.runs.results import run_folders
from localprobe.runs.rows import Row, from_json, to_json
from localprobe.runs.shard import Shard, parse_shard
from localprobe.tasks.base import Example
from localprobe.tasks.jsonl import Jsonl

BASE = Experiment("capitals", ("random", "swap"), "1:", n=5, all_examples=True, max_tokens=3)


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task of which the model gets two in three right, by decree."""

    def score(_task: Jsonl, text: str, example: Example) -> dict[str, float]:
        return {"exact_match": float(example.number % 3 != 1), "prefix_match": len(text) % 2}

    monkeypatch.setattr(Jsonl, "score", score)
    lines = []
    for word in ("AA", "BB", "CC", "DD", "EE", "FF", "GG", "HH", "II"):
        swapped = {"old": word, "new": "zz", "new_answers": ["zz"]}
        lines.append(json.dumps({"prompt": f"say {word} now:", "answers": ["x"], **swapped}))
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(model: Model, experiment: Experiment, out: Path, batch: int | None = None) -> None:
    with RunningSweep(model, experiment, out, batch=batch) as running:
        for _ in running.rows():
            pass


def rows(out: Path) -> bytes:
    return (out / ROWS).read_bytes()


@pytest.mark.parametrize("batch", [None, 4])
def test_killed_anywhere_and_gone_on_with(batch: int | None, model: Model, tmp_path: Path) -> None:
    run(model, BASE, tmp_path / "whole", batch)
    whole = rows(tmp_path / "whole")
    assert len(whole.splitlines()) == 5 * (1 + 2 * 3)
    rng = np.random.default_rng(0)
    for number, length in enumerate([0, len(whole), *rng.integers(0, len(whole), 8)]):
        out = tmp_path / f"killed-{number}"
        shutil.copytree(tmp_path / "whole", out)
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        manifest["ended"] = None
        (out / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        (out / ROWS).write_bytes(whole[:length] + bytes(number % 2 * 9))
        run(model, BASE, out, batch)
        assert rows(out) == whole
        assert load_run(out).is_finished


def test_stopped_after_any_row(model: Model, tmp_path: Path) -> None:
    run(model, BASE, tmp_path / "whole")
    for stop in (1, 2, 8, 20, 34):
        out = tmp_path / f"stopped-{stop}"
        with RunningSweep(model, BASE, out) as running:
            for _ in islice(running.rows(), stop):
                pass
        assert not load_run(out).is_finished
        assert rows(tmp_path / "whole").startswith(rows(out))
        run(model, BASE, out)
        assert rows(out) == rows(tmp_path / "whole")


def test_a_finished_run_is_not_computed_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, BASE, tmp_path / "out")
    before = (tmp_path / "out" / MANIFEST).read_bytes(), rows(tmp_path / "out")
    monkeypatch.setattr("localprobe.engine.resume.ResumeEngine.run", None)
    monkeypatch.setattr("localprobe.engine.resume.ResumeEngine.clean", None)
    run(model, BASE, tmp_path / "out")
    assert before == ((tmp_path / "out" / MANIFEST).read_bytes(), rows(tmp_path / "out"))


def test_shards_merged_are_the_whole_run(model: Model, answers: Path, tmp_path: Path) -> None:
    """Also where examples are passed over, and -n counts those that are used."""
    for n in (4, None):
        experiment = Experiment("jsonl", ("random", "swap"), "0,2", n=n, data=answers, max_tokens=3)
        run(model, experiment, tmp_path / f"whole-{n}")
        whole = load_run(tmp_path / f"whole-{n}")
        assert whole.tally.baseline.n == (n or 6)
        assert whole.tally.clean.n > whole.tally.baseline.n
        parts = []
        for number in (1, 2, 3):
            parts.append(tmp_path / f"part-{n}-{number}")
            shard = Experiment(**{**vars(experiment), "shard": Shard(number, 3)})
            run(model, shard, parts[-1])
        for some in ([2, 0, 1], [0, 1, 2]):
            merged = tmp_path / f"merged-{n}-{some[0]}"
            merge([parts[i] for i in some], merged)
            assert rows(merged) == rows(tmp_path / f"whole-{n}")
            assert load_run(merged).manifest.title == whole.manifest.title


def test_what_does_not_belong_together(model: Model, tmp_path: Path) -> None:
    def made(name: str, **changes: object) -> Path:
        run(model, Experiment(**{**vars(BASE), **changes}), tmp_path / name)  # type: ignore[arg-type]
        return tmp_path / name

    one = made("one", shard=Shard(1, 2))
    other_seed = made("seed", shard=Shard(2, 2), seed=4)
    with pytest.raises(LocalprobeError, match="experiment seed is 0, not 4"):
        merge([one, other_seed], tmp_path / "joined")
    other = made("other", shard=Shard(2, 2))
    # The same examples twice are one, unless they say different things.
    merge([one, one, other], tmp_path / "twice")
    changed = tmp_path / "changed"
    shutil.copytree(one, changed)
    text = rows(one).decode().replace('"exact_match":0.0', '"exact_match":1.0', 1)
    (changed / ROWS).write_text(text, encoding="utf-8")
    with pytest.raises(LocalprobeError, match="different things of example 0"):
        merge([one, changed], tmp_path / "joined")
    with pytest.raises(LocalprobeError, match="not empty"):
        merge([one, other], tmp_path / "seed")
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "experiment seed is 0, not 1"),
        ({"n": 4}, "the run there is of 5 examples, not 4"),
        ({"shard": Shard(1, 2)}, "experiment shard is '1/1', not '1/2'"),
        ({"patches": ("skip",)}, "interventions"),
    ],
)
def test_a_folder_of_another_run_is_refused(
    changes: dict[str, object], message: str, model: Model, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with RunningSweep(model, BASE, out) as running:
        for _ in islice(running.rows(), 12):
            pass
    before = rows(out)
    with pytest.raises(LocalprobeError, match=message):
        run(model, Experiment(**{**vars(BASE), **changes}), out)  # type: ignore[arg-type]
    assert rows(out) == before


def test_a_folder_of_another_model_is_refused(
    model: Model, tiny_file: Callable[[str], Path], tmp_path: Path
) -> None:
    run(model, BASE, tmp_path / "out")
    with (
        Model(tiny_file("qwen2"), threads=1) as other,
        pytest.raises(LocalprobeError, match="model sha256 is"),
    ):
        run(other, BASE, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(model: Model, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(LocalprobeError, match="is not empty and holds no run"):
        run(model, BASE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(LocalprobeError, match="is not empty and holds no run"):
        run(model, BASE, tmp_path / "thesis.txt")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (ROWS, ('"layer":1', '"layer":7'), "line 2: damaged: the row does not follow"),
        (ROWS, ('"patch":"clean"', '"patch":"skip"'), "line 1: damaged"),
        (ROWS, ('"exact_match":', '"exact_match":9'), "line 1: damaged: a row's scores"),
        (ROWS, ("{", ""), "line 1: damaged"),
        (ROWS, ('"logit":', f'"logit":1{"0" * 400}'), "line 1: damaged: a row's top"),
        (ROWS, ('"logit":', '"logit":1e999,"x":'), "line 1: damaged: not a row"),
        (MANIFEST, ('"format": 2', '"format": 3'), "of format 3"),
        (MANIFEST, ('"columns"', '"kolumns"'), "damaged: columns is missing"),
        (MANIFEST, ("{", "["), "not valid JSON"),
    ],
)
def test_damage_is_named(
    file: str, change: tuple[str, str], message: str, model: Model, tmp_path: Path
) -> None:
    run(model, BASE, tmp_path / "out")
    path = tmp_path / "out" / file
    text = path.read_text(encoding="utf-8")
    assert change[0] in text
    path.write_text(text.replace(*change, 1), encoding="utf-8")
    with pytest.raises(LocalprobeError, match=message):
        load_run(tmp_path / "out")


def test_scores_as_arrays(model: Model, tmp_path: Path) -> None:
    experiment = Experiment("capitals", ("freeze", "skip"), "0:3", n=3, all_examples=True)
    run(model, experiment, tmp_path / "out")
    found = load_run(tmp_path / "out")
    assert found.layers == (0, 1, 2)
    freeze = found.scores("freeze")
    assert freeze.shape == (3,)
    assert np.isnan(freeze[0])
    by_hand = [
        np.mean([r.scores["exact_match"] for r in found.rows if (r.patch, r.layer) == ("skip", k)])
        for k in found.layers
    ]
    assert found.scores("skip") == pytest.approx(by_hand)
    with pytest.raises(LocalprobeError, match="no scores of random"):
        found.scores("random")


def test_folders_of_runs(model: Model, tmp_path: Path) -> None:
    for name in ("b", "a"):
        run(model, BASE, tmp_path / "many" / name)
    assert [path.name for path in run_folders(tmp_path / "many")] == ["a", "b"]
    assert run_folders(tmp_path / "many" / "a") == [tmp_path / "many" / "a"]
    with pytest.raises(LocalprobeError, match="holds no run"):
        run_folders(tmp_path / "nowhere")


floats = st.floats(0, 1)
tokens = st.builds(
    Token,
    st.integers(0, 10**6),
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
    floats,
)


@given(
    st.builds(
        Row,
        st.integers(0, 10**9),
        st.sampled_from(["skip", "swap"]),
        st.integers(0, 99),
        st.text(),
        st.dictionaries(st.text(), floats),
        st.lists(tokens, max_size=3).map(tuple),
        st.booleans(),
        st.booleans(),
        st.none() | st.integers(0, 9),
    )
)
def test_a_row_comes_back_as_it_was(row: Row) -> None:
    line = to_json(row)
    assert "\n" not in line
    assert from_json(line) == row


@settings(max_examples=200)
@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(json.dumps)
)
def test_garbage_is_no_row(line: str) -> None:
    with pytest.raises(ValueError):
        from_json(line)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "1/3/3", "-1/3", "²/3"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(LocalprobeError, match="--shard must be like 1/3"):
        parse_shard(text)


def test_two_writers_of_one_folder(model: Model, tmp_path: Path) -> None:
    with RunningSweep(model, BASE, tmp_path / "out") as running:
        next(running.rows())
        with pytest.raises(LocalprobeError, match="another process is writing"):
            run(model, BASE, tmp_path / "out")
    run(model, BASE, tmp_path / "out")
    assert load_run(tmp_path / "out").is_finished


def test_a_finished_run_that_lost_rows_is_damaged(model: Model, tmp_path: Path) -> None:
    run(model, BASE, tmp_path / "out")
    whole = rows(tmp_path / "out")
    for lost in (whole[: len(whole) // 2], b""):
        (tmp_path / "out" / ROWS).write_bytes(lost)
        with pytest.raises(LocalprobeError, match="the run ended with 35"):
            load_run(tmp_path / "out")
        with pytest.raises(LocalprobeError, match="the run ended with 35"):
            merge([tmp_path / "out"], tmp_path / "joined")


def test_shards_whose_clean_models_differ_are_not_joined(
    model: Model, answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(number: int) -> Path:
        shard = Experiment("jsonl", ("skip",), data=answers, max_tokens=1, shard=Shard(number, 2))
        run(model, shard, tmp_path / f"s{number}")
        return tmp_path / f"s{number}"

    one = made(1)
    right = Jsonl.score
    wrong = {"exact_match": 0.0, "prefix_match": 0.0}
    monkeypatch.setattr(Jsonl, "score", lambda t, s, e: wrong if e.number == 2 else right(t, s, e))
    with pytest.raises(LocalprobeError, match="answer differently"):
        merge([one, made(2)], tmp_path / "joined")


def test_what_this_run_would_not_have_written_is_not_gone_on_from(
    model: Model, tmp_path: Path
) -> None:
    run(model, BASE, tmp_path / "whole")
    lines = rows(tmp_path / "whole").decode().splitlines(keepends=True)
    manifest = json.loads((tmp_path / "whole" / MANIFEST).read_text(encoding="utf-8"))
    columns = [{**column, "layers": [1]} for column in manifest["columns"]]
    foreign = [line.replace('"example":0,', '"example":180,') for line in lines[:7]]
    unused = lines[0].replace('"layer":null,', '"layer":null,"used":false,')
    tampered: list[tuple[list[str], dict[str, object], str]] = [
        (lines[:7] + lines[14:21], {}, "holds example 2 in a place where this run has another"),
        (foreign, {}, "holds example 180 in a place where this run has another"),
        (lines[:7] + foreign, {}, "holds example 180 in a place where this run has another"),
        ([unused], {}, "example 0 is not used there"),
        (lines[:7], {"chance": {"exact_match": 0.9}}, "its chance cannot be"),
        ([], {"columns": columns}, "its columns cannot be"),
    ]
    assert unused != lines[0]
    for number, (there, changes, message) in enumerate(tampered):
        out = tmp_path / str(number)
        out.mkdir()
        text = json.dumps({**manifest, "ended": None, "counts": None, **changes})
        (out / MANIFEST).write_text(text, encoding="utf-8")
        (out / ROWS).write_text("".join(there), encoding="utf-8", newline="\n")
        before = rows(out)
        with pytest.raises(LocalprobeError, match=message):
            run(model, BASE, out)
        assert rows(out) == before


def test_shards_that_contradict_each_other_are_not_joined(model: Model, tmp_path: Path) -> None:
    for number in (1, 2):
        run(model, Experiment(**{**vars(BASE), "shard": Shard(number, 2)}), tmp_path / str(number))
    manifest = json.loads((tmp_path / "2" / MANIFEST).read_text(encoding="utf-8"))
    manifest["chance"] = {"exact_match": 0.9}
    (tmp_path / "2" / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(LocalprobeError, match="contradict each other: chance"):
        merge([tmp_path / "1", tmp_path / "2"], tmp_path / "joined")


def test_an_answer_too_long_to_be_read_back_is_not_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localprobe.runs.folder.LONGEST_LINE", 100)
    with pytest.raises(LocalprobeError, match="answer to example 0 is too long"):
        run(model, BASE, tmp_path / "out")
    assert rows(tmp_path / "out") == b""


def test_a_manifest_is_a_file_and_not_a_large_one(model: Model, tmp_path: Path) -> None:
    run(model, BASE, tmp_path / "out")
    with (tmp_path / "out" / MANIFEST).open("r+b") as file:
        file.truncate(1 << 32)  # a hole, which takes no space
    with pytest.raises(LocalprobeError, match="is larger than 16 MB"):
        load_run(tmp_path / "out")


def test_near_ties_of_machines_that_measured_otherwise(model: Model, tmp_path: Path) -> None:
    def noise(out: Path) -> object:
        return json.loads((out / MANIFEST).read_text(encoding="utf-8"))["noise"]

    def rewrite(out: Path, **changes: object) -> None:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        (out / MANIFEST).write_text(json.dumps({**manifest, **changes}), encoding="utf-8")

    shards = [tmp_path / "1", tmp_path / "2"]
    for number, shard in enumerate(shards, 1):
        run(model, Experiment(**{**vars(BASE), "shard": Shard(number, 2)}), shard)
    measured = noise(shards[0])
    for other, joint in ((99.0, 99.0), (None, None)):
        rewrite(shards[0], noise=other)
        assert noise(merge(shards, tmp_path / f"joined {other}").path) == joint
        assert noise(merge(shards[::-1], tmp_path / f"reversed {other}").path) == joint
        # The same of a run that is begun on one machine and gone on with on another.
        rewrite(shards[0], ended=None)
        run(model, Experiment(**{**vars(BASE), "shard": Shard(1, 2)}), shards[0])
        assert noise(shards[0]) == joint
        assert load_run(shards[0]).tally.knows_near_ties == (joint is not None)
    assert measured is not None


def test_merging_in_steps(model: Model, tmp_path: Path) -> None:
    run(model, BASE, tmp_path / "whole")
    for number in (1, 2, 3):
        run(model, Experiment(**{**vars(BASE), "shard": Shard(number, 3)}), tmp_path / str(number))
    merge([tmp_path / "1", tmp_path / "3"], tmp_path / "most")
    found = merge([tmp_path / "most", tmp_path / "2"], tmp_path / "all")
    assert rows(tmp_path / "all") == rows(tmp_path / "whole")
    assert found.manifest.data["experiment"]["shard"] == "1/1"
    assert load_run(tmp_path / "most").manifest.data["counts"]["tried"] == 5


def test_swaps_keep_the_metric_that_they_were_scored_by(
    model: Model, answers: Path, tmp_path: Path
) -> None:
    experiment = Experiment("jsonl", ("skip", "swap"), "2", data=answers, max_tokens=1)
    run(model, experiment, tmp_path / "out")
    found = load_run(tmp_path / "out")
    other = found.by_metric("prefix_match")
    assert (other.tally.metric, other.tally.swap_metric) == ("prefix_match", "exact_match")
    for metric in ("original", "modified"):
        assert other.tally.score("swap", metric, 2) == found.tally.score("swap", metric, 2)


def test_a_bad_example_is_named_before_anything_is_computed(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    swap = {"answers": ["x"], "old": "AA", "new": "BB", "new_answers": ["y"]}
    prompts = ["say AA now", "say AB now"]
    path.write_text("\n".join(json.dumps({"prompt": p, **swap}) for p in prompts), "utf-8")
    with pytest.raises(LocalprobeError, match="example 1: 'AA' is not in the prompt"):
        run(model, Experiment("jsonl", ("swap",), data=path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class NearlyFull(io.FileIO):
    """A file on a disk that has so many bytes left: writes are cut short, then refused."""

    left = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if NearlyFull.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(data[: NearlyFull.left])
        NearlyFull.left -= written
        return written


def test_a_disk_that_gets_full_at_any_byte(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, nothing lost, and the same command goes on when there is room again."""
    run(model, BASE, tmp_path / "whole")
    whole = rows(tmp_path / "whole")
    out = tmp_path / "out"
    real = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if path.name == ROWS and mode == "ab":
            return NearlyFull(path, mode)
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    fails = 0
    while not (out / MANIFEST).exists() or not load_run(out).is_finished:
        # More than an example takes, so that every try comes further.
        NearlyFull.left = len(whole) // 4
        try:
            run(model, BASE, out)
        except LocalprobeError as error:
            assert str(error).startswith(f"cannot write to {out}: No space left")
            fails += 1
        assert whole.startswith(rows(out))
    assert fails >= 4
    assert rows(out) == whole


def test_a_disk_that_has_no_room_for_a_manifest(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, BASE, tmp_path / "whole")
    calls = [0]

    def full(_handle: int) -> None:
        # The first one is that of the beginning, the second that of the end.
        calls[0] += 1
        if calls[0] in (1, 3):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("localprobe.files.cache.os.fsync", full)
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(LocalprobeError, match=f"cannot write to {re.escape(str(out))}: No sp"):
            run(model, BASE, out)
        assert not list(out.glob("*.part"))
    run(model, BASE, out)
    assert rows(out) == rows(tmp_path / "whole")
    assert load_run(out).is_finished


def test_a_merge_without_room_leaves_nothing(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        run(model, Experiment(**{**vars(BASE), "shard": Shard(number, 2)}), part)
    for fails in (1, 2):
        calls = [0]

        def full(_handle: int, fails: int = fails, calls: list[int] = calls) -> None:
            calls[0] += 1
            if calls[0] == fails:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr("localprobe.files.cache.os.fsync", full)
            merge(parts, tmp_path / "merged")
        assert not list((tmp_path / "merged").iterdir())
    merge(parts, tmp_path / "merged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines, *lines[:7]], "line 36: damaged: example 0 is out of its order"),
        (lambda lines: [lines[0].replace("exact_match", "other"), *lines[1:]], "scores cannot be"),
        (lambda lines: [lines[0], lines[1].replace("exact_match", "f1"), *lines[2:]], "scores"),
        (lambda lines: [*lines[:4], lines[4].replace('"modified"', '"mod"'), *lines[5:]], "scores"),
    ],
)
def test_rows_that_would_count_otherwise_are_refused(
    change: Callable[[list[str]], list[str]], message: str, model: Model, tmp_path: Path
) -> None:
    run(model, BASE, tmp_path / "out")
    path = tmp_path / "out" / ROWS
    lines = path.read_text(encoding="utf-8").splitlines()
    assert change(lines) != lines
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    with pytest.raises(LocalprobeError, match=message):
        load_run(tmp_path / "out")


def test_runs_of_before_devices_had_names_are_gone_on_with(model: Model, tmp_path: Path) -> None:
    with RunningSweep(model, BASE, tmp_path / "run") as running:
        for _ in running.rows():
            pass
        now = running.manifest
    assert now.data["devices"] == "cpu" and "blocks_on" not in now.data["model"]
    assert differences(Manifest({**now.data, "devices": "gpu 0"}), now) == []
    elsewhere = Manifest({**now.data, "devices": "4 CUDA0 (CUDA, a card)"})
    assert differences(elsewhere, now) == ["devices is '4 CUDA0 (CUDA, a card)', not 'cpu'"]


def test_where_blocks_were_is_a_text_or_nothing(model: Model, tmp_path: Path) -> None:
    with RunningSweep(model, BASE, tmp_path / "run") as running:
        for _ in running.rows():
            pass
    file = tmp_path / "run" / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    data["model"]["blocks_on"] = "2 CPU + 2 CUDA0"
    file.write_text(json.dumps(data), encoding="utf-8")
    assert read_manifest(tmp_path / "run").title.endswith("4 blocks: 2 CPU + 2 CUDA0)")
    data["model"]["blocks_on"] = ["CUDA0"]
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LocalprobeError, match="blocks_on cannot be"):
        read_manifest(tmp_path / "run")
