"""Attention weights are those of the numpy oracle, and heads are found by them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import ARCHITECTURES
from helpers import oracle, tiny

from localprobe.engine.full import FullEngine
from localprobe.errors import LocalprobeError
from localprobe.experiments.attention import Attention, attend

# Longer than the gemmas' window.
TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_weights_are_the_oracles(arch: str, tiny_engine: Callable[[str], FullEngine]) -> None:
    model = tiny_engine(arch).model
    found = attend(model, "a prompt", TOKENS, range(model.n_layer))
    theirs = np.stack(oracle.attention(tiny.build(arch), TOKENS))
    assert found.weights.shape == theirs.shape
    # The usual tolerance, of weights up to 1.
    np.testing.assert_allclose(found.weights, theirs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, atol=1e-5)
    assert (np.triu(found.mean(), 1) == 0).all()
    some = attend(model, "a prompt", TOKENS, [1])
    np.testing.assert_allclose(some.weights[0], theirs[1], rtol=0, atol=1e-4)


def by_hand() -> Attention:
    weights = np.zeros((2, 2, 3, 3), np.float32)
    weights[0, 1, 2] = [0.25, 0.5, 0.25]
    weights[1, 0, 2] = [0.75, 0.25, 0]
    return Attention("a b c", 4, (1, 3), (1, 2, 3), ("a", "b", "c"), weights)


def test_means_and_the_heads_that_look_most() -> None:
    found = by_hand()
    np.testing.assert_allclose(found.mean(1, 1)[2], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(found.mean()[2], [0.25, 0.1875, 0.0625])
    np.testing.assert_allclose(found.mean(3)[2], [0.375, 0.125, 0])
    (first, second) = found.looks([0], n=2)
    assert (first.layer, first.head, first.weight) == (3, 0, 0.75)
    assert (second.layer, second.head, second.weight) == (1, 1, 0.25)
    assert found.looks([0, 1], n=1)[0].weight == 1
    assert found.only(3, 0).weights.shape == (1, 1, 3, 3)
    for layer, head in ((0, None), (1, 2)):
        with pytest.raises(LocalprobeError):
            found.mean(layer, head)
