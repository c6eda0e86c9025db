"""Differences of the same examples: what the intervals are, and how often chance passes as sure."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from localprobe.runs.paired import SURE, differences
from localprobe.runs.transitions import moved

SHARES = st.floats(0, 1, width=16)


@given(arrays(np.float64, (8, 3, 2), elements=SHARES), st.permutations(range(8)))
@settings(max_examples=25)
def test_the_order_of_examples_and_of_runs(one: np.ndarray, order: list[int]) -> None:
    other = one[::-1]
    found, again = differences(one, other, 6), differences(one[order], other[order], 6)
    for name in ("mean", "low", "high"):
        np.testing.assert_array_equal(
            np.round(getattr(found, name), 12), np.round(getattr(again, name), 12)
        )
    turned = differences(other, one, 6)
    np.testing.assert_allclose(turned.mean, -found.mean, atol=1e-12)
    np.testing.assert_allclose(turned.p, found.p)
    assert (found.low <= found.mean + 1e-12).all() and (found.mean <= found.high + 1e-12).all()
    same = differences(one, one, 6)
    assert not same.sure.any() and (same.p == 1).all() and (same.mean == 0).all()


def test_intervals_are_those_of_single_cells() -> None:
    """As `moved` has them of one cell; of those that some examples lack, too."""
    generator = np.random.default_rng(1)
    one, other = generator.random((2, 9, 2, 3))
    one[[1, 4], 0, 1] = np.nan
    other[2, 0, 1] = np.nan
    one[1:, 1, 2] = np.nan
    one[:, 1, 1] = np.nan
    found = differences(one, other, 6)
    assert found.n.tolist() == [[9, 6, 9], [9, 0, 1]]
    for row, column in product(range(2), range(3)):
        there = np.isfinite(one[:, row, column] + other[:, row, column])
        if not there.any():
            assert np.isnan(found.mean[row, column]) and np.isnan(found.p[row, column])
            continue
        by = (other - one)[there, row, column]
        assert found.mean[row, column] == pytest.approx(by.mean())
        if len(by) == 1:
            assert np.isnan(found.low[row, column]) and np.isnan(found.p[row, column])
            continue
        # Other resamples of the same distribution.
        alone = moved(one[there, row, column], other[there, row, column])
        assert found.low[row, column] == pytest.approx(alone.low, abs=0.04)
        assert found.high[row, column] == pytest.approx(alone.high, abs=0.04)


def test_p_is_that_of_all_sign_flips() -> None:
    """Of 7 examples and 4 cells, against every one of the 2^7 ways to swap runs."""
    one, other = np.random.default_rng(4).random((2, 7, 2, 2))
    other[:, 0, 0] = one[:, 0, 0] + 0.3 + one[:, 0, 1] / 10
    cells = (other - one).reshape(7, 4)
    scale = np.sqrt((cells**2).sum(axis=0))
    largest = [abs(np.array(s) @ cells / scale).max() for s in product((-1, 1), repeat=7)]
    exact = [np.mean(largest >= each - 1e-9) for each in abs(cells.sum(axis=0) / scale)]
    found = differences(one, other, 6)
    np.testing.assert_allclose(found.p.ravel(), exact, atol=0.03)
    assert found.sure.tolist() == [[True, False], [False, False]]
    assert not differences(one, other, 8).sure.any()


def test_chance_seldom_passes_as_sure_in_any_of_many_cells() -> None:
    generator, n_wrong = np.random.default_rng(0), 0
    for _ in range(30):
        one, other = generator.random((2, 12, 15, 4))
        n_wrong += bool(differences(one, other, 6).sure.any())
    # In each cell by itself, nearly all of these would have some.
    assert n_wrong <= 30 * SURE * 3
