from __future__ import annotations

import pytest

from localprobe.experiments.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_kind_goes_at_its_own_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now += 2
    pace.did("slow", 1)
    clock.now += 1
    pace.did("fast", 10)
    assert pace.elapsed == 3
    assert pace.left({"slow": 3, "fast": 20}) == pytest.approx(3 * 2 + 20 * 0.1)


def test_a_kind_not_met_yet_goes_like_the_others() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.now += 6
    pace.did("known", 3)
    assert pace.left({"known": 0, "unknown": 2}) == pytest.approx(4)


def test_nothing_is_known_before_anything_was_done() -> None:
    assert Pace(Clock()).left({"any": 5}) is None
