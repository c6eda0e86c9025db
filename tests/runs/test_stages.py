"""Intervals of scores that got examples for as long as they were not sure."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localprobe.runs.intervals import wilson
from localprobe.runs.stages import (
    LEVEL,
    SHARED,
    SPREAD,
    STAGES,
    by_spread,
    fixed,
    going_on,
    interval,
    is_narrow,
    shared,
    staged,
    tails,
)

LOOKS, WIDTH, N = (15, 31, 63), 0.2, 100


def endings() -> list[tuple[tuple[int, ...], int, int]]:
    """All ways to end: the looks passed, how many answers, how many of them right."""
    found = []
    for number, n in enumerate((*LOOKS, N)):
        goes_on = going_on(n, WIDTH) if n != N else range(0)
        found += [(LOOKS[:number], n, right) for right in range(n + 1) if right not in goes_on]
    return found


def likely(share: float) -> dict[tuple[int, int], float]:
    """How likely each ending is, by adding answers one by one."""
    at, found = {0: 1.0}, {}
    for n in range(1, N + 1):
        after: Counter[int] = Counter()
        for right, weight in at.items():
            after[right] += weight * (1 - share)
            after[right + 1] += weight * share
        at = dict(after)
        if n in LOOKS or n == N:
            goes_on = going_on(n, WIDTH) if n != N else range(0)
            found |= {(n, right): w for right, w in at.items() if right not in goes_on}
            at = {right: w for right, w in at.items() if right in goes_on}
    return found


@pytest.mark.parametrize("share", [0.03, 0.1, 0.5, 0.82])
def test_tests_are_exact(share: float) -> None:
    """Against every way to end with its probability, in their order from low to high."""
    weights = likely(share)
    assert sum(weights.values()) == pytest.approx(1)

    def place(ending: tuple[tuple[int, ...], int, int]) -> tuple[int, int, int]:
        earlier, n, right = ending
        if n == N or right in going_on(n, WIDTH):
            return 0, 0, right
        side = 1 if right >= going_on(n, WIDTH).stop else -1
        return side, -side * len(earlier), right

    ordered = sorted(endings(), key=place)
    below = 0.0
    for earlier, n, right in ordered:
        weight = weights.get((n, right), 0.0)
        if weight:
            low, high = tails(earlier, n, right, WIDTH, share)
            assert low == pytest.approx(below + weight / 2, abs=1e-9)
            assert high == pytest.approx(1 - below - weight / 2, abs=1e-9)
        below += weight


def test_intervals_are_the_shares_that_tests_do_not_rule_out() -> None:
    for earlier, n, right in endings()[::5]:
        low, high = staged(earlier, n, right, WIDTH)
        assert 0 <= low < high <= 1
        for share, end in ((low, 1), (high, 0)):
            if 0 < share < 1:
                found = tails(earlier, n, right, WIDTH, share)
                assert found[end] == pytest.approx(LEVEL, abs=1e-5)
        if likely(right / n).get((n, right)):
            assert low <= right / n <= high


def test_without_an_earlier_look_it_is_the_binomials() -> None:
    for n in (15, 40, 200):
        for right in range(0, n + 1, 7):
            assert staged((), n, right, WIDTH) == fixed(n, right)
            assert fixed(n, right) == pytest.approx(wilson(right, n), abs=0.03)
    assert fixed(0, 0) == (0.0, 1.0)
    assert interval({}, (), WIDTH) == (0.0, 1.0, STAGES)
    assert not is_narrow({}, WIDTH)


@settings(deadline=None)
@given(st.integers(1, 80), st.data())
def test_mirrored_scores_have_mirrored_intervals(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    earlier = tuple(look for look in LOOKS if look < n)
    low, high = staged(earlier, n, right, WIDTH)
    assert staged(earlier, n, n - right, WIDTH) == pytest.approx((1 - high, 1 - low), abs=1e-5)


def test_where_more_are_right_it_lies_higher() -> None:
    for n in (15, 31, 64):
        earlier = tuple(look for look in LOOKS if look < n)
        found = [staged(earlier, n, right, WIDTH) for right in range(n + 1)]
        for one, other in pairwise(found):
            assert one[0] <= other[0]
            assert one[1] <= other[1]


def test_what_goes_on_is_what_is_wide() -> None:
    for n in (15, 31, 63, 127):
        for right in range(n + 1):
            counts = {1.0: right, 0.0: n - right}
            assert is_narrow(counts, WIDTH) == (right not in going_on(n, WIDTH))
    assert (going_on(15, WIDTH), going_on(127, WIDTH)) == (range(1, 15), range(0))


def test_scores_with_degrees_go_by_their_spread() -> None:
    """Shares are the most spread; what is less so tells more."""
    shares = by_spread({0.0: 10, 1.0: 10})
    assert shares == pytest.approx(fixed(20, 10), abs=0.01)
    low, high = by_spread({0.4: 10, 0.6: 10})
    assert 0.4 < low < 0.5 < high < 0.6
    mild = by_spread({0.0: 5, 0.3: 5, 0.7: 5, 1.0: 5})
    assert shares[0] < mild[0] < 0.5 < mild[1] < shares[1]
    # A few alike do not make a score certain.
    low, high = by_spread({0.5: 15})
    assert high - low > 0.05
    assert interval({0.0: 14, 0.3: 1}, (), WIDTH)[2] == SPREAD


def test_another_metric_is_held_to_any_time_of_ending() -> None:
    low, high, method = shared({0.0: 20, 1.0: 20}, 3)
    assert method == SHARED
    assert low < fixed(40, 20)[0] < fixed(40, 20)[1] < high
    assert shared({0.0: 20, 1.0: 20}, 1)[:2] == fixed(40, 20)
    wide = shared({0.2: 20, 0.6: 20}, 3)
    assert wide[0] < by_spread({0.2: 20, 0.6: 20})[0]


@pytest.mark.parametrize("number", range(4))
def test_intervals_hold_the_truth(coverage: ModuleType, number: int) -> None:
    """In 93 to 97.5 % of 2,000 simulations, see the script."""
    curve = coverage.CURVES[number]
    runs = 60 if curve.scores in coverage.SHARES else 15
    held = coverage.adaptive(curve, runs, seed=1)
    assert 0.92 <= np.mean(list(held)) <= 0.985
