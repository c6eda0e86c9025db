"""Intervals of mean scores: which method for what, and what each must hold to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.runs.intervals import BOOTSTRAP, WILSON, bootstrap, interval, wilson


@pytest.mark.parametrize("n", [1, 7, 20, 113, 5000])
def test_none_or_all_of_n_end_at_the_end_itself(n: int) -> None:
    assert wilson(0, n)[0] == 0.0
    assert wilson(n, n)[1] == 1.0


def test_shares_are_wilsons_and_other_scores_are_resampled() -> None:
    assert interval(Counter([0.0, 1.0, 1.0])) == (*wilson(2, 3), WILSON)
    assert interval(Counter()) == (0.0, 1.0, WILSON)
    assert interval(Counter([0.4])) == (0.0, 1.0, BOOTSTRAP)
    low, high, method = interval(Counter([0.2, 0.4, 1.0]))
    assert (method, 0.2 <= low < 1.6 / 3 < high <= 1.0) == (BOOTSTRAP, True)


def test_it_is_what_a_loop_over_resamples_finds() -> None:
    scores = np.array([0.1, 0.1, 0.25, 0.6, 0.9])
    generator = np.random.Generator(np.random.PCG64(0))
    means = [scores[generator.integers(0, 5, 5)].mean() for _ in range(2000)]
    assert bootstrap(Counter(scores.tolist())) == pytest.approx(
        np.quantile(means, (0.025, 0.975)), abs=1e-6
    )


def test_it_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        low, high = bootstrap(Counter(generator.beta(2, 3, 40).tolist()))
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 400 <= 0.98


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30))
def test_the_order_of_examples_moves_nothing_and_the_mean_is_held(scores: list[float]) -> None:
    low, high, _ = interval(Counter(scores))
    assert (low, high) == interval(Counter(scores[::-1]))[:2]
    assert 0 <= low <= np.mean(scores) + 1e-6
    assert np.mean(scores) - 1e-6 <= high <= 1
