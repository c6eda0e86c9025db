from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.engine.layers import parse_layers
from localprobe.errors import LocalprobeError


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("all", list(range(30))),
        ("12", [12]),
        ("3,7,12", [3, 7, 12]),
        ("12, 3,3", [3, 12]),
        ("0:30:10", [0, 10, 20]),
        ("-5:", [25, 26, 27, 28, 29]),
        ("-1", [29]),
        (":2,28:", [0, 1, 28, 29]),
        ("20::4", [20, 24, 28]),
        ("28:99", [28, 29]),
    ],
)
def test_what_users_write(text: str, layers: list[int]) -> None:
    assert parse_layers(text, 30) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("30", "no layer 30: the model has layers 0 to 29"),
        ("-31", "no layer -31"),
        ("5:3", "picks no layer"),
        ("30:", "picks no layer"),
        ("0:9:0", "step"),
        ("", "cannot read"),
        ("3,", "cannot read"),
        ("a", "cannot read"),
        ("1:2:3:4", "cannot read"),
        ("1.5", "cannot read"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(LocalprobeError, match=message):
        parse_layers(text, 30)


@given(st.text(max_size=12), st.integers(1, 40))
def test_any_text_gives_layers_of_the_model_or_one_error(text: str, n_layer: int) -> None:
    try:
        layers = parse_layers(text, n_layer)
    except LocalprobeError:
        return
    assert layers == sorted(set(layers))
    assert layers
    assert 0 <= layers[0] <= layers[-1] < n_layer
