from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.tally import Tally, wilson


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


def test_nothing_counted() -> None:
    assert wilson(0, 0) == (0, 1)
    assert Tally().score("skip", "exact_match", 0) is None
    assert Tally().clean.n == 0


def tally(scores: dict[int, list[float]], baseline: list[float]) -> Tally:
    counted = Tally()
    for score in baseline:
        counted.add_clean(score, used=True)
    for layer, values in scores.items():
        for value in values:
            counted.add("skip", "m", layer, value)
    return counted


def test_both_baselines() -> None:
    counted = Tally()
    for score in (1, 0, 0, 1):
        counted.add_clean(score, used=score > 0)
    assert (counted.clean.score, counted.clean.n) == (0.5, 4)
    assert (counted.baseline.score, counted.baseline.n) == (1, 2)


def test_relative_to_the_baseline() -> None:
    counted = tally({0: [1, 0, 0, 0]}, [1, 1, 0, 0])
    score = counted.score("skip", "m", 0)
    assert score is not None
    assert (score.score, score.n, score.relative) == (0.25, 4, 0.5)


def test_relative_is_to_the_examples_used_not_to_all_that_were_tried() -> None:
    counted = tally({0: [1, 0]}, [1, 1])
    counted.add_clean(0, used=False)
    score = counted.score("skip", "m", 0)
    assert score is not None
    assert score.relative == 0.5
    assert counted.survives_from("skip", "m", [0]) is None


def test_relative_to_nothing_is_nothing() -> None:
    counted = tally({0: [1]}, [0])
    score = counted.score("skip", "m", 0)
    assert score is not None
    assert score.relative is None
    assert counted.survives_from("skip", "m", [0]) is None


def test_survives_from_is_the_first_layer_of_the_last_run() -> None:
    ten = [1.0] * 10
    nine = [1.0] * 9 + [0.0]
    scores = {0: ten, 1: [0.0] * 10, 2: nine, 3: ten}
    counted = tally(scores, ten)
    assert counted.survives_from("skip", "m", [0, 1, 2, 3]) == 2
    assert counted.survives_from("skip", "m", [0, 1]) is None
    assert counted.survives_from("skip", "m", [0]) == 0


def test_overtakes_from() -> None:
    counted = Tally()
    for layer, (one, other) in enumerate([(0, 1), (1, 0), (1, 1), (1, 0)]):
        counted.add("swap", "original", layer, one)
        counted.add("swap", "modified", layer, other)
    assert counted.overtakes_from("swap", "original", "modified", [0, 1, 2, 3]) == 3
    assert counted.overtakes_from("swap", "original", "modified", [0, 1]) == 1
    assert counted.overtakes_from("swap", "original", "modified", [0]) is None
