"""Laws of the interventions, as pure functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from localprobe.engine.interventions import (
    Freeze,
    Inject,
    Random,
    Shuffle,
    Skip,
    by_name,
    injected_states,
    random_states,
    shuffled_states,
)
from localprobe.errors import LocalprobeError

N_LAYER = 6
finite = st.floats(-1e3, 1e3, width=32)
states = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(2, 24)), elements=finite)
small = st.integers(0, 2**31)


@given(states, small, small, st.integers(0, 200), st.integers(0, 500))
def test_random_keeps_each_norm(
    past: np.ndarray, seed: int, example: int, layer: int, start: int
) -> None:
    noise = random_states(past, seed=seed, example=example, layer=layer, start=start)
    np.testing.assert_allclose(
        np.linalg.norm(noise.astype(np.float64), axis=1),
        np.linalg.norm(past.astype(np.float64), axis=1),
        rtol=1e-5,
        atol=1e-30,
    )


def test_random_is_normal_noise() -> None:
    past = np.ones((200, 500), np.float32)
    noise = random_states(past, seed=0, example=0, layer=0, start=0)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    # The fourth moment of a normal variable is 3.
    assert abs((noise.astype(np.float64) ** 4).mean() - 3) < 0.1
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.2


@given(states, small, small, st.integers(0, 200), st.integers(0, 500))
def test_shuffle_keeps_each_multiset(
    past: np.ndarray, seed: int, example: int, layer: int, start: int
) -> None:
    shuffled = shuffled_states(past, seed=seed, example=example, layer=layer, start=start)
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), np.sort(past, axis=1))


def test_shuffle_draws_one_permutation_a_token_and_layer() -> None:
    past = np.tile(np.arange(50, dtype=np.float32), (2, 1))
    rows = shuffled_states(past, seed=0, example=0, layer=3, start=0)
    assert not np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows, shuffled_states(past, seed=0, example=0, layer=4, start=0))


@pytest.mark.parametrize("draw", [random_states, shuffled_states])
@given(past=states, seed=small, example=small, layer=st.integers(0, 99), cut=st.integers(0, 6))
def test_draws_do_not_depend_on_how_tokens_are_batched(
    draw: object, past: np.ndarray, seed: int, example: int, layer: int, cut: int
) -> None:
    assert callable(draw)
    whole = draw(past, seed=seed, example=example, layer=layer, start=7)
    cut = min(cut, len(past))
    parts = [
        draw(past[:cut], seed=seed, example=example, layer=layer, start=7),
        draw(past[cut:], seed=seed, example=example, layer=layer, start=7 + cut),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("draw", [random_states, shuffled_states])
def test_draws_depend_on_seed_example_layer_and_position(draw: object) -> None:
    assert callable(draw)
    past = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    place = {"seed": 1, "example": 2, "layer": 3, "start": 4}
    base = draw(past, **place)
    np.testing.assert_array_equal(base, draw(past, **place))
    for key in place:
        assert not np.array_equal(base, draw(past, **{**place, key: 9})), key


@given(states)
def test_injecting_a_prompt_into_itself_changes_nothing(past: np.ndarray) -> None:
    at = tuple(range(len(past)))
    np.testing.assert_array_equal(injected_states(past, past, at=at, donor_at=at, start=0), past)


def test_injection_leaves_other_positions_alone() -> None:
    past = np.zeros((3, 2), np.float32)
    donor = np.arange(10, dtype=np.float32).reshape(5, 2)
    injected = injected_states(past, donor, at=(1, 6, 11), donor_at=(4, 0, 2), start=5)
    np.testing.assert_array_equal(injected, [[0, 0], [0, 1], [0, 0]])


@given(states, st.integers(1, N_LAYER - 1))
def test_the_last_token_is_never_written(h: np.ndarray, k: int) -> None:
    donor = {k: np.ones((3, h.shape[1]), np.float32)}
    at = tuple(range(min(3, len(h))))
    for intervention in (Random(1), Shuffle(1), Freeze(), Skip(), Inject(donor, at, at)):
        edit = intervention.edit(k, n_layer=N_LAYER, example=0, start=0)
        for layer in sorted(edit.layers):
            written = edit.apply(layer, h + layer)
            if written is not None:
                assert written.shape == h.shape
                np.testing.assert_array_equal(written[-1], h[-1] + layer)


def test_freeze_writes_the_state_of_the_layer_before_everywhere() -> None:
    edit = Freeze().edit(2, n_layer=N_LAYER, example=0, start=0)
    assert sorted(edit.layers) == [1, 2, 3, 4, 5]
    h = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert edit.apply(1, h) is None
    for layer in range(2, 6):
        written = edit.apply(layer, h + 100 * layer)
        assert written is not None
        np.testing.assert_array_equal(written[:-1], h[:-1])


def test_skip_writes_nothing_and_switches_attention_off() -> None:
    edit = Skip().edit(3, n_layer=N_LAYER, example=0, start=0)
    assert (edit.layers, edit.attention_off_from) == (frozenset(), 3)


def test_unknown_intervention() -> None:
    with pytest.raises(LocalprobeError, match="did you mean freeze"):
        by_name("frezee", 0)
