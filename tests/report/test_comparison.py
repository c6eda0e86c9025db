"""Runs side by side say of each run what its own table says."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, Group

from localprobe.engine.interventions import first_layer
from localprobe.report.comparison import Comparison, comparison_table
from localprobe.report.score_table import summary
from localprobe.runs.manifest import Manifest
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN, Row

N = 10
Share = Callable[[int], float]


def made(
    n_layer: int,
    layers: Sequence[int],
    share: Share,
    *,
    patch: str = "skip",
    model: dict[str, Any] | None = None,
    **experiment: Any,
) -> Run:
    """A run of ten examples. share: of them that are right, by layer."""
    settings = {"task": "capitals", "seed": 0, "shard": "1/1", "layers": "all"}
    data = {
        "format": 1,
        "localprobe": "1",
        "llama_cpp_python": "1",
        "numpy": "1",
        "engine": "resume",
        "devices": "cpu",
        "batch": 1,
        "model": {
            "name": f"m{n_layer}",
            "architecture": "llama",
            "file_type": "Q8_0",
            "sha256": f"{n_layer}",
            "n_layer": n_layer,
            **(model or {}),
        },
        "experiment": {**settings, **experiment},
        "metric": "exact_match",
        "chance": {},
        "columns": [{"patch": patch, "metric": "exact_match", "layers": list(layers)}],
        "noise": 0.0,
        "started": "",
        "ended": "now",
        "counts": None,
    }
    rows = [Row(each, CLEAN, None, "a", {"exact_match": 1.0}, ()) for each in range(N)]
    for layer in layers:
        right = round(N * share(layer))
        rows += [
            Row(each, patch, layer, "a", {"exact_match": float(each < right)}, ())
            for each in range(N)
        ]
    return Run(Manifest(data), rows)


def from_layer(transition: int) -> Share:
    return lambda layer: float(layer >= transition)


def shown(comparison: Comparison, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(comparison_table(console, comparison))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return text


def words(text: str) -> str:
    return " ".join(text.split())


def test_models_of_unlike_depth_are_compared_by_depth() -> None:
    """0.2.0 cut both to the layers below 24: "no transition" for the second, "+5" for others."""
    runs = made(24, range(24), from_layer(18)), made(30, range(30), from_layer(25))
    (found,) = Comparison.of(runs)
    assert (found.is_by_depth, found.transitions) == (True, [18, 25])
    text = words(shown(found))
    assert "[1] transition at layer 18 (75% of depth) [2] transition at layer 25 (83% of" in text
    assert "+8.3 points of depth against [1]" in text
    assert "unlike numbers of blocks" in text
    assert "4.2 in [1], 3.3 in [2]" in text
    document = found.document()
    assert document["shifts"] == [0, None]
    assert document["depth_shifts"] == pytest.approx([0, 100 * (25 / 30 - 18 / 24)])
    assert document["n_layer"] == [24, 30]
    # Each row says between which depths it lies, and each cell of which layer it is.
    (row,) = re.findall(r"^ 73–77 .*$", shown(found), re.MULTILINE)
    assert re.fullmatch(r" 73–77 +18 1\.00 .* 22 0\.00 .*", row)


def test_models_of_like_depth_are_compared_in_layers() -> None:
    runs = made(30, range(30), from_layer(20)), made(30, range(30), from_layer(25))
    (found,) = Comparison.of(runs)
    text = words(shown(found))
    assert "transition at layer 25 (83% of depth), +5 against [1]" in text
    assert "points" not in text
    assert "each transition is that" not in text
    document = found.document()
    assert (document["shifts"], document["shift_ranges"]) == ([0, 5], [[0, 0], [5, 5]])
    assert [row["layer"] for row in document["rows"]] == list(range(30))


def test_like_models_with_other_layers_say_so() -> None:
    runs = made(30, range(30), from_layer(22)), made(30, range(1, 30, 4), from_layer(22))
    (found,) = Comparison.of(runs)
    assert found.transitions == [22, 25]
    text = words(shown(found))
    assert "+3 against [1] (from +0 to +3, since layers right below were not swept)" in text
    assert "its run has: [1] 0–29; [2] 1–29 in steps of 4" in text
    document = found.document()
    assert (document["shifts"], document["shift_ranges"]) == ([0, 3], [[0, 0], [0, 3]])
    assert document["layers"] == [list(range(30)), list(range(1, 30, 4))]


swept = st.integers(2, 40).flatmap(
    lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 1), min_size=1).map(sorted))
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(swept, st.lists(st.sampled_from([0, 0.8, 0.9, 1]), min_size=40)), min_size=2)
)
def test_what_is_claimed_is_what_each_runs_own_table_claims(
    shapes: list[tuple[tuple[int, list[int]], list[float]]],
) -> None:
    runs = [made(n, layers, shares.__getitem__) for (n, layers), shares in shapes[:4]]
    (found,) = Comparison.of(runs)
    claim = (
        r"(transition at )?(no transition|layer \d+) ?(\(\d+% of depth\)(?:, as far as shown)?)?"
    )
    text = words(shown(found))
    for number, run in enumerate(runs, 1):
        claimed = re.search(rf"\[{number}\] {claim}", text)
        own = re.search(
            r"from (layer \d+) on (\(\d+% of depth\)(?:, as far as shown)?)",
            words(summary(run.tally, run.manifest.n_layer).plain),
        )
        assert claimed is not None
        assert claimed.groups()[1:] == (own.groups() if own else ("no transition", None))
    # Every layer of every run is in one row, its own: the one in whose span its depth lies.
    for number, run in enumerate(runs):
        layers = [place.layers[number] for place in found.places]
        assert [layer for layer in layers if layer is not None] == list(run.layers)
    for place in found.places:
        for layer, n_layer in zip(place.layers, found.n_layers, strict=True):
            if layer is not None:
                assert place.row * n_layer <= layer * place.n_rows < (place.row + 1) * n_layer


@settings(deadline=None)
@given(swept, swept, st.data())
def test_the_true_shift_is_within_the_range(
    one: tuple[int, list[int]], other: tuple[int, list[int]], data: st.DataObject
) -> None:
    """Where the score crosses once, whatever layers were swept, if the last one was."""
    runs, true = [], []
    for n, layers in (one, other):
        transition = data.draw(st.integers(first_layer("skip"), n - 1))
        true.append(transition)
        runs.append(made(n, sorted({*layers, n - 1}), from_layer(transition)))
    (found,) = Comparison.of(runs)
    shift = found.shift(1)
    assert shift is not None
    units = [1.0, 1.0] if one[0] == other[0] else [100 / one[0], 100 / other[0]]
    actual = true[1] * units[1] - true[0] * units[0]
    assert shift.least - 1e-9 <= actual <= shift.most + 1e-9
    assert shift.least <= shift.by <= shift.most
    whole = [made(n, range(n), from_layer(t)) for (n, _), t in zip((one, other), true, strict=True)]
    exact = Comparison.of(whole)[0].shift(1)
    assert exact is not None
    assert [exact.least, exact.by, exact.most] == pytest.approx([actual] * 3)


def test_intervals_are_shown_where_there_is_room() -> None:
    runs = made(4, range(4), lambda layer: 0.9), made(4, range(4), lambda layer: 1.0, seed=1)
    (found,) = Comparison.of(runs)
    assert re.search(r"^ +0  0\.90 [█▏▎▍▌▋▊▉]+ +60–98 ", shown(found), re.MULTILINE)
    assert "60–98" not in shown(found, 30)
    assert "clean 1.00 of 10 (95 % 72–100 %), 10 used" in shown(found)
    row = found.document()["rows"][0]
    assert row["scores"] == [0.9, 1.0]
    assert row["intervals"][0] == pytest.approx([0.596, 0.982], abs=1e-3)


def test_differences_are_words() -> None:
    one = made(4, range(4), from_layer(1), n=None, all_examples=False, max_tokens=8)
    other = made(4, range(4), from_layer(1), n=7, all_examples=True, seed=3, template="a\n{b}")
    shots = made(4, range(4), from_layer(1), n=None, all_examples=False, max_tokens=8, shots=4)
    assert shots.differences(one) == ["solved ones in front 4, not the task's own"]
    assert other.differences(one) == [
        "examples asked for 7, not all",
        "seed 3, not 0",
        "examples used all, not those the clean model gets right",
        "longest answer in tokens the task's own, not 8",
        r"template 'a\n{b}', not the task's own",
    ]
    assert one.differences(one) == []
    assert "    seed 3, not 0 as in [1]\n" in re.sub(
        " +\n", "\n", shown(Comparison.of([one, other])[0])
    )


@pytest.mark.parametrize(
    ("data", "same"), [({"file": "b", "sha256": "0"}, True), ({"file": "a", "sha256": "1"}, False)]
)
def test_data_is_told_apart_by_what_it_holds(data: dict[str, str], same: bool) -> None:
    one = made(4, range(4), from_layer(1), data={"file": "a", "sha256": "0"})
    assert (made(4, range(4), from_layer(1), data=data).differences(one) == []) == same


NOTE = r"\[2\] was made from weights that were Q4_1 already, .* \+0 says nothing about precision"


def source(quantized: str) -> dict[str, Any]:
    return {
        "name": "m4",
        "sha256": "4",
        "file_type": quantized or "F16",
        "quantized": quantized,
        "change": None,
    }


@pytest.mark.parametrize(
    ("first", "second", "noted"),
    [
        ({}, {"name": "m4@q8_0", "source": source("Q4_1")}, True),
        ({}, {"name": "m4@q8_0", "source": source("")}, False),
        ({}, {"name": "other"}, False),
        # Of before what models were made from was written down.
        ({"file_type": "Q4_1"}, {"name": "m4@q8_0"}, True),
        ({"file_type": "F16"}, {"name": "m4@q8_0"}, False),
        ({"file_type": "Q4_1"}, {"name": "m5@q8_0"}, False),
    ],
)
def test_requantised_weights_say_nothing_about_precision(
    first: dict[str, Any], second: dict[str, Any], noted: bool
) -> None:
    runs = [made(4, range(4), from_layer(1), model=each) for each in (first, second)]
    (found,) = Comparison.of(runs)
    assert bool(re.search(NOTE, words(shown(found)))) == noted
    assert bool(found.document()["notes"]) == noted
    assert ("requantised from Q4_1" in runs[1].manifest.title) == (
        second.get("source", {}).get("quantized") == "Q4_1"
    )


def test_a_baseline_of_nothing_is_said_as_in_the_runs_own_table() -> None:
    one = made(4, range(4), from_layer(1))
    none = Run(Manifest({**one.manifest.data, "ended": None}), [])
    zero = Run(
        one.manifest,
        [Row(0, CLEAN, None, "a", {"exact_match": 0.0}, ())]
        + [Row(0, "skip", layer, "a", {"exact_match": 0.0}, ()) for layer in range(4)],
    )
    text = words(shown(Comparison.of([one, none, zero])[0]))
    assert "[2] so far no example was used, so there is nothing to conclude" in text
    assert "0 used, unfinished: " in text
    assert "[3] nothing to lose: the baseline is 0" in text
    console = Console(file=io.StringIO(), width=80)
    console.print(Group(summary(none.tally, 4), summary(zero.tally, 4)))
    own = words(console.file.getvalue())
    assert "no example was used, so there is nothing to conclude" in own
    assert "there is nothing to lose: the baseline is 0" in own


def by_own_layers(own: Sequence[int], n_layer: int = 20) -> Run:
    """A run whose examples hold from their own layers on."""
    run = made(n_layer, range(n_layer), lambda _: 0.0)
    clean = [Row(each, CLEAN, None, "a", {"exact_match": 1.0}, ()) for each in range(len(own))]
    rows = [
        Row(each, "skip", layer, "a", {"exact_match": float(layer >= mine)}, ())
        for each, mine in enumerate(own)
        for layer in range(n_layer)
    ]
    return Run(run.manifest, [*clean, *rows])


def test_examples_are_compared_pairwise() -> None:
    own = [10 + n % 3 for n in range(40)]
    one, later = by_own_layers(own), by_own_layers([k + (n % 4 > 0) for n, k in enumerate(own)])
    (comparison,) = Comparison.of([one, later])
    found = comparison.moved(1)
    assert found is not None
    assert (found.by, found.n, found.n_moved) == (0.75, 40, 30)
    assert 0.55 < found.low < 0.75 < found.high < 0.95
    text = words(shown(comparison))
    assert "on average +0.75 layers against [1]" in text
    assert "40 examples of both, 75% moved; p < 0.001)" in text
    assert "no evidence" not in text
    assert comparison.document()["moved"][1]["n_moved"] == 30


def test_no_evidence_is_said() -> None:
    own = [10 + n % 3 for n in range(40)]
    other = [k + (n == 7) - (n == 30) for n, k in enumerate(own)]
    (comparison,) = Comparison.of([by_own_layers(own), by_own_layers(other)])
    assert "5% moved; p = 1.000): no evidence that it moves" in words(shown(comparison))


def test_own_layers_of_unlike_models_are_compared_by_depth() -> None:
    own = [10 + n % 3 for n in range(40)]
    deep = by_own_layers([2 * k for k in own], 40)
    (comparison,) = Comparison.of([by_own_layers(own), deep])
    found = comparison.moved(1)
    assert found is not None
    assert found.by == pytest.approx(0)
    assert "points of depth against [1]" in words(shown(comparison))


def test_other_data_of_the_same_numbers_is_not_paired() -> None:
    one, other = by_own_layers([5] * 12), by_own_layers([7] * 12)
    asked = [replace(row, accepted=(f"{row.example}",)) for row in other.rows]
    (comparison,) = Comparison.of([one, Run(other.manifest, asked)])
    assert comparison.moved(1) is None


def test_a_run_that_is_unfinished_and_ties_that_could_move_a_claim_are_said() -> None:
    one = made(4, range(4), from_layer(1), n=30)
    turning = [
        replace(row, near_tie=True, ties={"exact_match": (0.0, 1.0)})
        if (row.patch, row.layer) == ("skip", 1) and row.example < 2
        else row
        for row in one.rows
    ]
    other = Run(Manifest({**one.manifest.data, "ended": None, "examples": 40}), turning)
    comparison = Comparison.of([one, other])[0]
    text = words(shown(comparison))
    assert "[2] so far transition at layer 1 (25% of depth), +0 against [1]" in text
    assert "near ties could move that to 1–2" in text
    assert "unfinished: 10 of 30 examples so far" in text
    assert comparison.document()["transition_ranges"] == [[1, 1], [1, 2]]


def test_how_many_examples_are_the_same_is_said() -> None:
    """Each model is asked what it gets right: two means may be of other examples."""

    def using(examples: range, **experiment: Any) -> Run:
        run = made(4, [1, 2], from_layer(2), **experiment)
        rows = [
            replace(row, used=row.example in examples) if row.patch == CLEAN else row
            for row in run.rows
            if row.patch == CLEAN or row.example in examples
        ]
        return Run(run.manifest, rows)

    def compared(*runs: Run) -> Comparison:
        return Comparison.of(runs)[0]

    found = compared(using(range(0, 4)), using(range(3, 8)))
    assert found.shared == found.document()["n_shared"] == [4, 1]
    assert ", 5 used, 1 of them in [1]" in shown(found)
    assert "of them in [1]" not in shown(compared(using(range(4)), using(range(4))))
    other = compared(using(range(4)), using(range(4, 8), seed=1))
    assert other.shared == [4, None]
    assert "of them in [1]" not in shown(other)
