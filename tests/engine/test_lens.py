"""The logit lens: both ways against the numpy oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import ARCHITECTURES
from helpers import oracle, tiny

from localprobe.engine.full import FullEngine
from localprobe.engine.lens import Logits, by_head, by_whole_passes
from localprobe.engine.tokens import WholePasses

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]


def joined(logits: Logits, n: int) -> np.ndarray:
    parts = list(logits)
    assert [row for part, _ in parts for row in range(n)[part]] == list(range(n))
    return np.concatenate([each for _, each in parts])


@pytest.mark.parametrize("way", [by_head, by_whole_passes])
@pytest.mark.parametrize("most", [5, 64])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_head_on_every_state(
    arch: str,
    most: int,
    way: Callable[..., Logits],
    tiny_engine: Callable[[str], FullEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("localprobe.engine.lens._MOST_ROWS", most)
    model = tiny_engine(arch).model
    states = WholePasses(model, PROMPT).states().reshape(-1, model.n_embd)
    theirs = oracle.lens(tiny.build(arch), PROMPT).reshape(len(states), -1)
    ours = joined(way(model, states), len(states))
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
