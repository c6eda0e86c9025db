"""Maps over a task: the means are those of single maps, and folders those of one whole run."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe import token_map
from localprobe.api import Model, RunningMaps, map_task
from localprobe.cli.app import main
from localprobe.engine.answers import softmax
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Random, only_at
from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.experiments.map import MapPlan
from localprobe.experiments.roles import ROLES, roles_of
from localprobe.report.maps_view import what_they_show
from localprobe.runs.intervals import bootstrap
from localprobe.runs.maps import Maps, merge_maps, read_maps
from localprobe.runs.shard import Shard
from localprobe.tasks.base import Example
from localprobe.tasks.jsonl import Jsonl

WORDS = ("AA", "BBBB", "C", "DDD", "EE", "FF", "GG", "HHHH", "II")
WRONG = (1, 4)
ROWS, MANIFEST = "rows.jsonl", "manifest.json"
TOLD = [
    Example(n, f"say {word}: {word[-1]}{n}", ("x",), word)
    for n, word in enumerate(("AA", "BBBB", "C", "DDD", "EE", "FF", "GG", "HHHH", "II"))
]
SWAPPED = MapPlan("swap", over_task=True)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A task of nine examples, of which the model gets all but WRONG right, by decree."""

    def examples(_task: Jsonl) -> list[Example]:
        return [Example(n, f"say {word} now:", ("x",), word) for n, word in enumerate(WORDS)]

    def score(task: Jsonl, _text: str, example: Example) -> dict[str, float]:
        return dict.fromkeys(task.metrics, float(example.number not in WRONG))

    monkeypatch.setattr(Jsonl, "examples", examples)
    monkeypatch.setattr(Jsonl, "score", score)
    data = tmp_path / "own.jsonl"
    data.write_text("{}\n")
    return {"task": "jsonl", "data": data}


def experiment(own: dict[str, Any], **more: Any) -> Experiment:
    return Experiment(patches=(), **{**own, **more})


def whole(model: Model, own: dict[str, Any], out: Path | None, **more: Any) -> Maps:
    plan = more.pop("plan", MapPlan())
    with RunningMaps(model, experiment(own, **more), plan, out) as running:
        for _ in running.rows():
            pass
        return running.found()


@given(st.integers(2, 40), st.data())
def test_every_past_token_has_one_role(n_tokens: int, data: st.DataObject) -> None:
    last = data.draw(st.integers(0, n_tokens - 2))
    start = data.draw(st.integers(0, last))
    found = roles_of(n_tokens, range(start, last + 1))
    places = [place for at in found.values() for place in at]
    assert places == list(range(n_tokens - 1))
    assert list(found) == [role for role in ROLES if role in found]
    subject = [place for role, at in found.items() if "subject " in role for place in at]
    assert subject == list(range(start, last + 1))


def test_roles_are_those_of_causal_tracing() -> None:
    assert roles_of(12, range(4, 8)) == {
        "first token": (0,),
        "before subject": (1, 2, 3),
        "subject first": (4,),
        "subject middle": (5, 6),
        "subject last": (7,),
        "first after": (8,),
        "further after": (9,),
        "next to last": (10,),
    }
    assert roles_of(3, [0]) == {"subject last": (0,), "first after": (1,)}


@pytest.mark.parametrize("metric", ["prob", "logprob", "rank", "kl"])
def test_means_are_those_of_single_maps(model: Model, own: dict[str, Any], metric: str) -> None:
    found = map_task(model, own["task"], "knockout", metric, data=own["data"], progress=False)
    used = [n for n in range(len(WORDS)) if n not in WRONG]
    assert [row.example for row in found.used] == used and len(found.rows) == len(WORDS)
    assert found.roles == list(ROLES)
    single = [
        token_map(model, f"say {WORDS[n]} now:", "knockout", metric, group="tokens") for n in used
    ]
    assert found.clean[0] == pytest.approx(np.mean([each.clean for each in single]), abs=1e-12)
    for role in ("first token", "subject first", "subject last", "first after", "next to last"):
        column = found.roles.index(role)
        there = [(n, each) for n, each in zip(used, single, strict=True) if len(WORDS[n]) > 1]
        if role != "subject first":
            there = list(zip(used, single, strict=True))
        at = {
            "first token": lambda n: 0,
            "subject first": lambda n: 4,
            "subject last": lambda n: 3 + len(WORDS[n]),
            "first after": lambda n: 4 + len(WORDS[n]),
            "next to last": lambda n: 7 + len(WORDS[n]),
        }[role]
        for mean, name in ((found.values, "values"), (found.effects, "effect")):
            cells = np.array(
                [
                    (each.effect() if name == "effect" else each.values)[:, at(n)]
                    for n, each in there
                ]
            )
            np.testing.assert_allclose(mean.mean[:, column], cells.mean(axis=0), atol=1e-6)
            assert (mean.n[:, column] == len(there)).all()
        assert found.n_of(role) == len(there)
        low, high = bootstrap(Counter(_column(found, role, 2)))
        assert (found.values.low[2, column], found.values.high[2, column]) == (low, high)


def _column(found: Maps, role: str, row: int) -> list[float]:
    return [float(each.values[role][row] or 0.0) for each in found.used if role in each.values]


def test_several_tokens_of_a_role_are_drawn_as_in_a_sweep(
    model: Model, own: dict[str, Any]
) -> None:
    found = whole(model, own, None, plan=MapPlan("random"), layers="1,3", seed=5)
    engine = FullEngine(model.loaded.model)
    for row in found.used:
        tokens = model.loaded.model.tokenize(row.prompt)
        answer_id = int(engine.answer(tokens, max_tokens=1).logits.argmax())
        for role, at in row.roles.items():
            for place, layer in enumerate((1, 3)):
                answer = engine.answer(
                    tokens,
                    max_tokens=1,
                    intervention=only_at(Random(5), at),
                    layer=layer,
                    example=row.example,
                )
                expected = softmax(answer.logits)[answer_id]
                assert row.values[role][place] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("patch", ["knockout", "random", "shuffle", "freeze"])
def test_both_engines_say_the_same(
    model: Model, slow: Model, own: dict[str, Any], patch: str
) -> None:
    one, other = (whole(each, own, None, plan=MapPlan(patch), n=4) for each in (model, slow))
    assert one.layers.tolist() == list(range(1 if patch == "freeze" else 0, 4))
    np.testing.assert_allclose(one.values.mean, other.values.mean, atol=2e-4)
    np.testing.assert_allclose(one.effects.mean, other.effects.mean, atol=2e-3)
    assert [row.answer for row in one.rows] == [row.answer for row in other.rows]


@pytest.mark.parametrize("patch", ["knockout", "random", "swap"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    model: Model, tiny_file: Callable[[str], Path], told: dict[str, Any], tmp_path: Path, patch: str
) -> None:
    plan, own = MapPlan(patch, over_task=True), told
    found = whole(model, own, tmp_path / "whole", plan=plan)
    expected = (tmp_path / "whole" / ROWS).read_bytes()
    lines = expected.splitlines(keepends=True)
    assert len(lines) == len(WORDS)
    for n_kept in range(0, len(WORDS), 3 if patch == "swap" else 1):
        out = tmp_path / f"killed-{n_kept}"
        with RunningMaps(model, experiment(own), plan, out) as running:
            list(islice(running.rows(), n_kept))
        with (out / ROWS).open("ab") as torn:
            torn.write(lines[n_kept][: len(lines[n_kept]) // 2])
        assert len(read_maps(out).rows) == n_kept and read_maps(out).so_far
        # A model opened anew, as after a kill.
        with Model(tiny_file("llama"), threads=1) as again:
            resumed = whole(again, own, out, plan=plan)
        assert (out / ROWS).read_bytes() == expected
        n_used = 4 if patch == "swap" else 7
        assert read_maps(out).manifest.data["counts"] == {"rows": 9, "tried": 9, "used": n_used}
        np.testing.assert_array_equal(resumed.values.low, found.values.low)
    # Ended, it is only read.
    assert whole(model, own, tmp_path / "whole", plan=plan).rows == found.rows
    assert (tmp_path / "whole" / ROWS).read_bytes() == expected


def test_more_examples_with_the_same_folder(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    whole(model, own, tmp_path / "grown", n=2)
    whole(model, own, tmp_path / "grown", n=5)
    whole(model, own, tmp_path / "five", n=5)
    grown, five = (tmp_path / name / ROWS for name in ("grown", "five"))
    assert grown.read_bytes() == five.read_bytes()
    with pytest.raises(LocalprobeError, match="cannot become one of 2"):
        whole(model, own, tmp_path / "grown", n=2)


@pytest.mark.parametrize(("n", "plan"), [(None, MapPlan()), (5, MapPlan()), (None, SWAPPED)])
def test_shards_are_the_whole(
    model: Model, told: dict[str, Any], tmp_path: Path, n: int | None, plan: MapPlan
) -> None:
    own = told
    whole(model, own, tmp_path / "whole", n=n, plan=plan)
    shards = [tmp_path / f"shard-{number}" for number in (1, 2, 3)]
    for number, out in enumerate(shards):
        whole(model, own, out, n=n, plan=plan, shard=Shard(number + 1, 3))
        assert len(read_maps(out).used) in (1, 2, 3)
    assert main(["merge", *map(str, shards), "-o", str(tmp_path / "merged")]) == 0
    merged = tmp_path / "merged"
    assert (merged / ROWS).read_bytes() == (tmp_path / "whole" / ROWS).read_bytes()
    one, other = (read_maps(each).manifest.data for each in (merged, tmp_path / "whole"))
    assert {**one, "started": "", "ended": ""} == {**other, "started": "", "ended": ""}
    with pytest.raises(LocalprobeError, match="not all shards of one run"):
        merge_maps(shards[:2], tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_a_folder_of_another_run_is_refused(
    model: Model, own: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    whole(model, own, out, n=2)
    before = (out / ROWS).read_bytes()
    with pytest.raises(LocalprobeError, match="experiment seed is 0, not 1"):
        whole(model, own, out, n=2, seed=1)
    with pytest.raises(LocalprobeError, match="experiment metric is 'prob', not 'kl'"):
        whole(model, own, out, n=2, plan=MapPlan(metric="kl"))
    assert (out / ROWS).read_bytes() == before


@pytest.fixture
def told(own: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The same nine examples, their prompts with ends of their own, so that answers differ."""
    monkeypatch.setattr(Jsonl, "examples", lambda _task: TOLD)
    return own


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("metric", ["logit-diff", "prob", "kl"])
def test_swaps_are_those_of_single_maps(
    model: Model, told: dict[str, Any], direction: str, metric: str
) -> None:
    plan = MapPlan("swap", metric, direction=direction, over_task=True)
    found = whole(model, told, None, plan=plan)
    assert [row.example for row in found.used] == [0, 5, 6, 8]
    assert [row.example for row in found.rows if row.without_donor] == [2, 3, 7]
    for row in found.used:
        donor = TOLD[row.donor or 0]
        assert row.donor_prompt == donor.prompt and row.new == donor.subject
        assert len(row.new) == len(row.subject) and donor.number not in WRONG
        one = token_map(
            model,
            row.prompt,
            "swap",
            metric,
            "tokens",
            against=donor.prompt,
            direction=direction,
        )
        assert (row.first, row.donor_first) == (one.answer, one.other) and one.answer != one.other
        assert (row.clean, row.there) == pytest.approx((one.clean, one.there), abs=1e-9)
        alone = {role: at[0] for role, at in row.roles.items() if len(at) == 1}
        assert {"subject first", "subject last", "next to last"} <= alone.keys()
        for role, at in alone.items():
            np.testing.assert_allclose(row.values[role], one.values[:, at], atol=1e-5)
            np.testing.assert_allclose(row.effects[role], one.effect()[:, at], atol=1e-5)
    assert found.there[0] == pytest.approx(np.mean([row.there for row in found.used]))


@pytest.mark.parametrize("patch", ["knockout", "random"])
def test_logit_differences_are_those_of_single_maps(
    model: Model, told: dict[str, Any], patch: str
) -> None:
    found = whole(model, told, None, plan=MapPlan(patch, "logit-diff", over_task=True), seed=3)
    assert len(found.used) == 4 and found.manifest.data["experiment"]["metric"] == "logit-diff"
    for row in found.used:
        assert row.there is None and row.donor_first is not None and row.donor_first.isascii()
        if patch == "knockout":
            one = token_map(
                model, row.prompt, patch, group="tokens", against_answer=row.donor_first
            )
            assert one.metric == "logit-diff" and one.other == row.donor_first
            assert row.clean == pytest.approx(one.clean, abs=1e-9)
            for role in ("subject first", "subject last"):
                (at,) = row.roles[role]
                np.testing.assert_allclose(row.values[role], one.values[:, at], atol=1e-5)
            continue
        engine = FullEngine(model.loaded.model)
        (other,) = model.loaded.model.tokenize(row.donor_first, begin=False)
        (own,) = model.loaded.model.tokenize(row.first, begin=False) if row.first.isascii() else [0]
        if not own:
            continue
        for role, at in row.roles.items():
            answer = engine.answer(
                model.loaded.model.tokenize(row.prompt),
                max_tokens=1,
                intervention=only_at(Random(3), at),
                layer=1,
                example=row.example,
            )
            expected = float(answer.logits[own] - answer.logits[other])
            assert row.values[role][1] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_both_engines_swap_alike(
    model: Model, slow: Model, told: dict[str, Any], direction: str
) -> None:
    plan = MapPlan("swap", direction=direction, over_task=True)
    one, other = (whole(each, told, None, plan=plan) for each in (model, slow))
    np.testing.assert_allclose(one.values.mean, other.values.mean, atol=1e-3)
    np.testing.assert_allclose(one.effects.mean, other.effects.mean, atol=2e-3)
    # All of a role's tokens swapped at once are more than nothing.
    assert one.effects.mean.max() > 0.1


def test_donors_hang_on_the_seed_and_on_nothing_else(model: Model, told: dict[str, Any]) -> None:
    plan = SWAPPED

    def donors(**more: Any) -> dict[int, int | None]:
        found = whole(model, told, None, plan=plan, layers="0", **more)
        return {row.example: row.donor for row in found.used}

    everywhere = donors()
    assert donors(n=2).items() <= everywhere.items()
    assert donors(shard=Shard(2, 2)).items() <= everywhere.items()
    others = [donors(seed=seed) for seed in range(1, 6)]
    assert all(each.keys() == everywhere.keys() for each in others)
    assert any(each != everywhere for each in others)


def test_a_line_that_names_its_words_is_its_own_donor(
    model: Model, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    partners = {0: "ZZ", 5: "ZZZ", 6: "YY"}
    examples = [
        replace(TOLD[n], partner=Example(n, "", ("y",), subject=word))
        for n, word in partners.items()
    ]
    monkeypatch.setattr(Jsonl, "examples", lambda _task: examples)
    found = whole(model, told, None, plan=SWAPPED)
    assert [row.example for row in found.used] == [0, 6]
    assert [row.example for row in found.rows if row.without_donor] == [5]
    for row in found.used:
        assert row.donor is None and row.new == partners[row.example]
        assert row.donor_prompt == row.prompt.replace(row.subject, row.new)
    # What the model says to that prompt has to be right, too.
    monkeypatch.setattr(
        Jsonl, "score", lambda task, _, e: dict.fromkeys(task.metrics, float(e.answers == ("x",)))
    )
    with pytest.raises(LocalprobeError, match=r"none of the 3 examples .* has a donor") as caught:
        whole(model, told, None, plan=SWAPPED)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_a_swap_is_shown_in_its_own_words(
    tiny_file: Callable[[str], Path],
    told: dict[str, Any],
    tmp_path: Path,
    direction: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = str(tiny_file("llama")), str(tmp_path / "maps")
    command = ["map", "--task", "jsonl", "--data", str(told["data"]), "-m", path, "--threads", "1"]
    command += ["--patch", "swap", "--direction", direction, "--out", out]
    assert main(command) == 0
    typed = " ".join(capsys.readouterr().out.split())
    mine, other = ("donor's", "example's") if direction == "noising" else ("example's", "donor's")
    assert f"state is that of the {mine} prompt, in the run of the {other}; tokens" in typed
    assert re.search(r"4 examples; clean lead 4\.\d.*, of the donors -[34]\.", typed)
    assert "3 that it answers right have no donor, and so no map" in typed
    way = "to the donor's run" if direction == "noising" else "back to the example's run"
    assert f"of the way {way}, by logit(answer) - logit(donor's answer); mean" in typed
    assert main(["show", out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["direction"] == direction and document["without_donor"] == 3
    assert document["there"]["mean"] == read_maps(Path(out)).there[0]


@pytest.mark.parametrize("command", ["show --metric f1", "show --misses"])
def test_what_is_for_sweeps_refuses_in_a_sentence(
    model: Model,
    own: dict[str, Any],
    tmp_path: Path,
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole(model, own, tmp_path / "maps", n=2)
    name, *options = command.split()
    capsys.readouterr()
    assert main([name, str(tmp_path / "maps"), *options]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "holds maps over a task and no sweep" in err


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"example": 2', '"example": 0'),
        ('"used": true', '"used": 1'),
        ('"clean": ', '"clean": "'),
        ('"values": {', '"values": {"z": [], '),
        ('"effects": {"first token": [', '"effects": {"first token": [7, '),
        ('"roles": {', '"roles": {"z": [1], '),
    ],
)
def test_damage_is_said_with_its_line(
    model: Model, own: dict[str, Any], tmp_path: Path, old: str, new: str
) -> None:
    out = tmp_path / "maps"
    whole(model, own, out, n=3)
    lines = (out / ROWS).read_text("utf-8").splitlines(keepends=True)
    assert old in lines[2]
    lines[2] = lines[2].replace(old, new, 1)
    (out / ROWS).write_text("".join(lines), "utf-8")
    with pytest.raises(LocalprobeError, match=r"rows\.jsonl, line 3: damaged: "):
        read_maps(out)


@pytest.mark.parametrize("key", ["layers", "roles", "experiment", "model", "counts", "engine"])
def test_a_damaged_manifest_is_said(
    model: Model, own: dict[str, Any], tmp_path: Path, key: str
) -> None:
    out = tmp_path / "maps"
    whole(model, own, out, n=1)
    for change in (lambda data: data.pop(key), lambda data: data.update({key: [3, 1]})):
        data = json.loads((out / MANIFEST).read_text("utf-8"))
        change(data)
        other = tmp_path / "other"
        shutil.copytree(out, other)
        (other / MANIFEST).write_text(json.dumps(data), "utf-8")
        with pytest.raises(LocalprobeError, match=r"manifest\.json is damaged"):
            read_maps(other)
        shutil.rmtree(other)


def test_words_claim_only_what_the_intervals_carry(model: Model, own: dict[str, Any]) -> None:
    found = whole(model, own, None)
    first = found.used[0]

    def made(effect: Callable[[int, int], float], n: int = 20) -> str:
        """What is said where n examples have these effects, (example, layer), of all roles."""
        rows = []
        for number in range(n):
            shares = {role: tuple(effect(number, k) for k in range(4)) for role in first.roles}
            rows.append(replace(first, example=number, effects=shares))
        return "\n".join(what_they_show(Maps(found.manifest, rows)))

    sure = made(lambda number, k: 0.9 if k < 2 else 0.1 + number / 1000)
    assert "subject last is needed until layer 2 (50% of depth); hidden from layer 0" in sure
    open_end = made(lambda number, k: 0.9 if k < 2 or (k == 2 and number % 2) else 0.0)
    assert "subject last is needed until layer 2 (50% of depth) [2, 3]; hidden" in open_end
    unsure = made(lambda number, k: 0.0 if number % 5 > 2 else 0.9)
    assert "needed" not in unsure and "no role surely costs more than half" in unsure
    assert "subject last is needed" in made(lambda number, k: 0.9, 6)
    for n in (1, 5):
        said = made(lambda number, k: 0.9, n)
        assert said == "of fewer than 6 examples nothing is claimed: take more with -n"


@pytest.mark.parametrize("columns", [40, 80])
def test_shown_and_written(
    tiny_file: Callable[[str], Path],
    own: dict[str, Any],
    tmp_path: Path,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = str(tiny_file("llama"))
    command = ["map", "--task", "jsonl", "--data", str(own["data"]), "-m", path, "--threads", "1"]
    out = str(tmp_path / "maps")
    assert main([*command, "--out", out, "-o", str(tmp_path / "maps.csv")]) == 0
    typed = capsys.readouterr().out
    assert main(["show", out]) == 0
    assert capsys.readouterr().out == typed
    assert max(map(len, typed.splitlines())) <= columns
    assert "7 examples; clean P" in typed
    assert "subject first: 6, subject middle: 2" in " ".join(typed.split())
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert np.array(document["values"]["mean"]).shape == (4, len(document["roles"]))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "maps.csv").read_text("utf-8"))))
    values = [float(row["value"]) for row in rows]
    np.testing.assert_allclose(np.reshape(values, (-1, 4)).T, document["values"]["mean"])
    assert main(["plot", out, "-o", str(tmp_path / "maps.png")]) == 0
    assert (tmp_path / "maps.png").stat().st_size > 10_000
    assert main([*command, "-o", str(tmp_path / "maps.npz")]) == 0
    with np.load(tmp_path / "maps.npz") as arrays:
        np.testing.assert_array_equal(arrays["effects_low"], document["effects"]["low"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["in Chad", "--task", "capitals"], "PROMPT is for the map of one prompt"),
        (["--task", "capitals", "--lens"], "--lens is for the map of one prompt"),
        (["--task", "capitals", "--patch", "swap", "--against", "x"], "--against is for the map"),
        (["--task", "capitals", "--direction", "denoising"], "--direction is for --patch swap"),
        (["--task", "capitals", "--window", "99"], "--window 99 is more than the 4 layers of"),
        (["--task", "capitols"], "did you mean capitals"),
        (["--task", "math"], "aligned by a subject"),
        (["--task", "capitals", "-o", "x.html"], "written as .png"),
        (["--task", "capitals", "--shard", "4/3"], "--shard must be like 1/3"),
        (["--task", "capitals", "--template", "Q {country}"], "ends with the last token"),
        (["--task", "capitals", "--patch", "freeze", "--layers", "0"], "from layer 1 on"),
        (["in Chad", "-n", "3"], "-n is for maps over a task"),
        (["in Chad", "--out", "x"], "--out is for maps over a task"),
        ([], "there is no PROMPT, and no --task"),
    ],
)
def test_bad_input_gets_a_sentence(
    tiny_file: Callable[[str], Path],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["map", *options, "-m", str(tiny_file("llama")), "--threads", "1"]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_nothing_right_is_nothing_to_see(
    model: Model, own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jsonl, "score", lambda task, *_: dict.fromkeys(task.metrics, 0.0))
    with pytest.raises(LocalprobeError, match="none of the 9 examples right") as caught:
        whole(model, own, None)
    assert caught.value.exit_code == 1
