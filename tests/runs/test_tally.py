from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.runs.intervals import wilson
from localprobe.runs.rows import Row
from localprobe.runs.tally import Column, Tally


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3: the score interval.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_share(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1


ALL = (0, 1, 2, 3)


def empty(*patches: str) -> Tally:
    columns = [Column(patch, "m", ALL) for patch in patches or ("skip",) if patch != "swap"]
    if "swap" in patches:
        columns += [Column("swap", "original", ALL), Column("swap", "modified", ALL)]
    return Tally(columns, "m")


def clean(score: float, *, used: bool) -> Row:
    return Row(0, "clean", None, "", {"m": score}, (), used=used)


def found(layer: int, score: float) -> Row:
    return Row(0, "skip", layer, "", {"m": score}, ())


def tally(scores: dict[int, list[float]], baseline: list[float]) -> Tally:
    counted = empty()
    for score in baseline:
        counted.add(clean(score, used=True))
    for layer, values in scores.items():
        for value in values:
            counted.add(found(layer, value))
    return counted


def test_nothing_counted() -> None:
    assert wilson(0, 0) == (0, 1)
    assert empty().score("skip", "m", 0) is None
    assert empty().clean.n == 0


def test_both_baselines() -> None:
    counted = empty()
    for score in (1, 0, 0, 1):
        counted.add(clean(score, used=score > 0))
    assert (counted.clean.score, counted.clean.n) == (0.5, 4)
    assert (counted.baseline.score, counted.baseline.n) == (1, 2)


def test_relative_to_the_baseline() -> None:
    counted = tally({0: [1, 0, 0, 0]}, [1, 1, 0, 0])
    score = counted.score("skip", "m", 0)
    assert score is not None
    assert (score.score, score.n, score.relative) == (0.25, 4, 0.5)


def test_relative_is_to_the_examples_used_not_to_all_that_were_tried() -> None:
    counted = tally({layer: [1, 0] for layer in ALL}, [1, 1])
    counted.add(clean(0, used=False))
    score = counted.score("skip", "m", 0)
    assert score is not None
    assert score.relative == 0.5
    assert counted.transition("skip") is None


def test_relative_to_nothing_is_nothing() -> None:
    counted = tally({layer: [1] for layer in ALL}, [0])
    score = counted.score("skip", "m", 0)
    assert score is not None
    assert score.relative is None
    assert counted.transition("skip") is None


def test_the_transition_is_the_first_layer_of_the_last_run() -> None:
    ten = [1.0] * 10
    nine = [1.0] * 9 + [0.0]
    assert tally({0: ten, 1: [0.0] * 10, 2: nine, 3: ten}, ten).transition("skip") == 2
    assert tally({0: ten, 1: ten, 2: ten, 3: [0.0] * 10}, ten).transition("skip") is None
    assert tally(dict.fromkeys(ALL, ten), ten).transition("skip") == 0


def test_the_transition_of_a_swap_is_where_the_original_overtakes() -> None:
    def swapped(scores: list[tuple[int, int]]) -> Tally:
        counted = empty("swap")
        for layer, (one, other) in enumerate(scores):
            both = {"original": float(one), "modified": float(other)}
            counted.add(Row(0, "swap", layer, "", both, ()))
        return counted

    assert swapped([(0, 1), (1, 0), (1, 1), (1, 0)]).transition("swap") == 3
    assert swapped([(0, 1), (1, 0), (1, 0), (1, 0)]).transition("swap") == 1
    assert swapped([(1, 0), (1, 0), (1, 0), (0, 1)]).transition("swap") is None


def test_another_metric_is_counted_but_not_what_matters() -> None:
    counted = Tally([Column("skip", "m", ALL), Column("skip", "f1", ALL)], "m")
    counted.add(Row(0, "clean", None, "", {"m": 1, "f1": 0.5}, ()))
    counted.add(Row(0, "skip", 2, "", {"m": 0, "f1": 0.25}, ()))
    assert [column.metric for column in counted.columns] == ["m"]
    assert counted.clean_metrics == ("m", "f1")
    score = counted.score("skip", "f1", 2)
    assert score is not None
    assert (score.score, score.relative) == (0.25, 0.5)
