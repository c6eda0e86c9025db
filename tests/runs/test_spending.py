"""Which layers of an adaptive sweep get further examples, and what is made of those they have."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localprobe.engine.interventions import first_layer
from localprobe.runs.adaptive import Adaptive, Spending, is_look, looks_within, next_look
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.stages import SHARED, STAGES, interval, is_narrow
from localprobe.runs.tally import Column, Tally

METRIC, OTHER = "exact_match", "prefix_match"
RULE = Adaptive(0.2)


def test_looks() -> None:
    assert [n for n in range(200) if is_look(n)] == [15, 31, 63, 127]
    assert [next_look(n) for n in (0, 14, 15, 30, 31, 126)] == [15, 15, 31, 31, 63, 127]
    assert [looks_within(n) for n in (0, 1, 15, 16, 31, 40)] == [0, 1, 1, 2, 2, 3]


def row(example: int, layer: int, score: float | None) -> Row:
    if score is None:
        return Row(example, "skip", layer, "", {}, (), not_finite=True)
    return Row(example, "skip", layer, "", {METRIC: score, OTHER: 1.0}, ())


def spent(scores: list[list[float | None]]) -> tuple[Spending, Tally]:
    """scores: by example, then layer."""
    n_layer = len(scores[0])
    spending = Spending(RULE, [("skip", layer) for layer in range(n_layer)], METRIC)
    columns = [Column("skip", metric, tuple(range(n_layer))) for metric in (METRIC, OTHER)]
    tally = Tally(columns, METRIC, adaptive=RULE)
    for example, each in enumerate(scores):
        tally.add(Row(example, CLEAN, None, "", {METRIC: 1.0, OTHER: 1.0}, ()))
        rows = [row(example, layer, each[layer]) for _, layer in spending.cells]
        for one in rows:
            tally.add(one)
        spending.took(rows)
    return spending, tally


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 70), st.integers(0, 1000), st.booleans())
def test_each_layer_has_the_first_examples_until_it_is_known(
    n: int, seed: int, has_degrees: bool
) -> None:
    random = np.random.default_rng(seed)
    means = np.array([0.0, 0.05, 0.3, 0.9, 1.0])
    drawn = (random.random((n, 5)) < means).astype(float)
    if has_degrees:
        drawn = np.round(drawn * random.random((n, 5)), 2)
    scores = [
        [None if random.random() < 0.05 else float(score) for score in each] for each in drawn
    ]
    _, tally = spent(scores)
    for layer in range(5):
        mine, earlier, had = [each[layer] for each in scores], [], n
        for look in (15, 31, 63):
            counts = Counter(score for score in mine[:look] if score is not None)
            if look > n:
                break
            if is_narrow(counts, 0.2):
                had = look
                break
            if look < n:
                earlier.append(counts.total())
        counts = Counter(score for score in mine[:had] if score is not None)
        score = tally.score("skip", METRIC, layer)
        assert score is not None
        assert score.n == counts.total()
        assert (score.low, score.high, score.interval) == interval(counts, earlier, 0.2)
        other = tally.score("skip", OTHER, layer)
        assert other is not None
        assert (other.n, other.interval) == (score.n, SHARED)


def test_a_steep_curve_takes_less_than_half_of_the_work() -> None:
    """Rows x blocks, of 60 examples on a model of 30 blocks, against a whole sweep."""
    random = np.random.default_rng(0)
    own = random.normal(19.0, 2.0, 60)
    scores = [[float(layer >= each) for layer in range(30)] for each in own]
    _, tally = spent(scores)
    counts = [tally.score("skip", METRIC, layer) for layer in range(30)]
    work = sum(score.n * (30 - layer) for layer, score in enumerate(counts) if score)
    assert work <= 60 * sum(range(31)) / 2
    # What decides gets all.
    steep = [score for score in counts if score and 0.25 < score.score < 0.75]
    assert steep
    assert all((score.n, score.interval) == (60, STAGES) for score in steep)
    assert set(tally.too_wide()["skip"]) >= {
        layer for layer, score in enumerate(counts) if score in steep
    }
    assert tally.n_by_layer == (15, 60)


def test_limits_are_of_the_tests_that_allow_for_when_layers_ended() -> None:
    scores = [[0.0, 0.0, float(n % 2), 1.0, 1.0] for n in range(60)]
    _, tally = spent(scores)
    found = tally.limits("skip")
    # 15 that all survive do not say that 90 % of all others do.
    assert found is not None
    assert (found.low, found.high) == (3, None)
    assert tally.transition("skip") == 3
    assert tally.too_wide() == {"skip": [2]}


def test_what_is_left_is_judged_by_what_came() -> None:
    spending, _ = spent([[1.0, float(n % 2)] for n in range(14)])
    certain, open_ = (spending.likely(("skip", layer), 200) for layer in range(2))
    assert (certain, open_) == (15, 127)
    assert spending.likely(("skip", 1), 40) == 40
    fresh = Spending(RULE, [("skip", 0)], METRIC)
    assert fresh.likely(("skip", 0), 1000) == 127


@pytest.mark.parametrize("patch", ["freeze", "skip"])
def test_layers_of(patch: str) -> None:
    cells = [(each, k) for each in ("freeze", "skip") for k in range(first_layer(each), 3)]
    assert Spending(RULE, cells, METRIC).layers(patch) == list(range(first_layer(patch), 3))
    assert math.isclose(RULE.width, 0.2)
