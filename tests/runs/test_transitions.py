"""Intervals of transitions: what they hold, and how often they hold the truth."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.runs.transitions import Limits, _at_least, _at_most, limits, moved, needed


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("descends", [False, True])
def test_intervals_hold_the_truth(coverage: ModuleType, number: int, descends: bool) -> None:
    """In 93 to 97.5 % of 2,000 simulations, see the script; 300 are off by 1.3 % as a rule.

    Of a descent, the truth is what whole sweeps of very many examples would say.
    """
    patience = coverage.PATIENCE if descends else None
    found = coverage.transitions(coverage.KINDS[number], 300, patience=patience, of_sweep=True)
    assert 0.91 <= np.mean(list(found)) <= 0.99


@pytest.mark.parametrize("number", range(4))
def test_going_on_until_it_is_narrow_keeps_the_interval_true(
    coverage: ModuleType, number: int
) -> None:
    kind, width = coverage.UNTIL[number]
    found = coverage.until_width(kind, 200, width=width, most=250)
    assert 0.9 <= np.mean(list(found)) <= 0.995


def test_shifts_hold_the_truth(coverage: ModuleType) -> None:
    held = np.mean(list(coverage.shifts(coverage.KINDS[0], 300)))
    assert 0.91 <= held <= 0.99


def test_a_test_against_a_share_is_the_binomials() -> None:
    random = np.random.default_rng(0)
    draws = random.binomial(40, 0.9, 200_000)
    for k in (28, 33, 36, 39, 40):
        expected = np.mean(draws < k) + np.mean(draws == k) / 2
        assert _at_most(k, 40, 0.9) == pytest.approx(expected, abs=0.004)
        assert _at_least(k, 40, 0.9) == pytest.approx(1 - expected, abs=0.004)


def test_limits() -> None:
    layers, n = [2, 4, 6, 8], [60] * 4
    assert limits(layers, [0, 10, 60, 60], n, 0.9) == Limits(6, 6)
    assert limits(layers, [0, 52, 57, 60], n, 0.9) == Limits(4, 8)
    # What is sure of a layer is taken to be so above it, unless fewer than 90 % survive there.
    assert limits(layers, [0, 60, 57, 58], n, 0.9) == Limits(4, 4)
    assert limits(layers, [0, 60, 53, 60], n, 0.9) == Limits(4, 8)
    # Surely lost at the last layer: it is nowhere.
    assert limits(layers, [60, 60, 60, 30], n, 0.9) == Limits(None, None)
    # Too few examples to be sure of 90 %.
    assert limits(layers, [0, 0, 20, 20], [20] * 4, 0.9) == Limits(6, None)
    assert limits(layers, [60] * 4, n, 0.9) == Limits(2, 2)
    assert limits(layers, [0] * 4, [0] * 4, 0.9) == Limits(2, None)


def test_needed_is_when_an_upper_end_is_possible() -> None:
    least = needed(0.9)
    assert least == 29
    assert limits([0], [least], [least], 0.9).high == 0
    assert limits([0], [least - 1], [least - 1], 0.9).high is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_the_layer_found_is_within_its_limits(right: list[int]) -> None:
    layers = range(len(right))
    found = limits(layers, right, [50] * len(right), 0.9)
    kept = [k >= 45 for k in right]
    transition = next((k for k in layers if all(kept[k:])), None)
    if transition is None:
        assert found.high is None
    else:
        assert found.low is not None
        assert found.low <= transition
        assert found.high is None or transition <= found.high


def test_moved() -> None:
    same = moved([20.0] * 40, [20.0] * 40)
    assert (same.by, same.low, same.high, same.n_moved, same.p) == (0, 0, 0, 0, 1)
    later = moved(list(range(40)), [k + 1 + k % 3 for k in range(40)])
    assert later.by == pytest.approx(1.975)
    assert 1.6 < later.low < later.by < later.high < 2.3
    assert (later.n, later.n_moved) == (40, 40)
    assert later.p < 0.001
    assert later.is_evidence
    assert not moved([1, 2, 3, 4], [2, 3, 4, 5]).is_evidence  # 1 in 8 by chance


def test_no_evidence_is_rarely_called_some() -> None:
    """Where both runs are drawn alike, p is below 5 % in 5 % of the cases, or less for ties."""
    random = np.random.default_rng(1)
    found = []
    for _ in range(800):
        own = random.integers(15, 25, 40)
        found.append(moved(own, own + random.integers(-2, 3, 40)).is_evidence)
    assert 0.015 <= np.mean(found) <= 0.06
