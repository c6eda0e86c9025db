"""Generators made together are those that numpy makes one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.engine.generators import generators

WORDS = st.one_of(
    st.integers(0, 300),
    st.integers(0, (1 << 32) - 1),
    st.sampled_from([(1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 64, (1 << 80) + 3]),
)


@given(
    key=st.lists(WORDS, min_size=3, max_size=3),
    start=st.one_of(st.integers(0, 2000), st.integers((1 << 32) - 10, (1 << 32) + 2)),
    n=st.integers(0, 40),
)
def test_they_are_those_of_numpy(key: list[int], start: int, n: int) -> None:
    found = generators(key, start, n)
    assert len(found) == n
    for position, generator in enumerate(found, start):
        alone = np.random.Generator(np.random.PCG64([*key, position]))
        assert generator.bit_generator.state == alone.bit_generator.state
        assert np.array_equal(generator.standard_normal(5), alone.standard_normal(5))


@pytest.mark.parametrize("key", [[1, 2], [1, 2, 3, 4]])
def test_keys_of_other_lengths(key: list[int]) -> None:
    (found,) = generators(key, 5, 1)
    assert found.integers(1 << 60) == np.random.Generator(np.random.PCG64([*key, 5])).integers(
        1 << 60
    )


def test_what_is_negative_is_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        generators([0, -1, 2], 0, 3)
