"""Knockout and lens against PyTorch float32 with a mask a layer, on the default model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localprobe.engine.answers import softmax
from localprobe.engine.lens import by_head
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.llama.model import Model

KNOWN: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("known-answers-map.json").read_text(encoding="utf-8")
)
TOLERANCE = 2e-4
LEAD = 1e-3


@pytest.fixture(scope="module")
def model(float32_model: Path) -> Iterator[Model]:
    with Model(float32_model) as opened:
        yield opened


def assert_known(logits: np.ndarray, known: list[float], where: str) -> None:
    probabilities = softmax(logits)
    token, probability = int(known[0]), known[1]
    assert abs(probabilities[token] - probability) <= TOLERANCE, where
    second, first = np.sort(probabilities)[-2:]
    if first - second > LEAD:
        assert int(probabilities.argmax()) == token, where


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["prompt"])
def test_every_cell_of_the_knockout(model: Model, known: dict[str, Any]) -> None:
    tokens = model.tokenize(known["prompt"])
    assert tokens == known["tokens"]
    prompt = Resumed(model, tokens)
    assert_known(prompt.clean, known["clean"], "clean")
    answer = int(prompt.clean.argmax())
    acts = [Act((p,)) for p in range(len(tokens) - 1)]
    n_cells = 0
    for layer, numbers, logits in prompt.cells(acts, range(model.n_layer)):
        for number, row in zip(numbers, logits, strict=True):
            expected = known["knockout"][layer][number]
            assert_known(row, expected, f"token {number} hidden from layer {layer} on")
            assert abs(softmax(row)[answer] - expected[2]) <= TOLERANCE
            n_cells += 1
    assert n_cells == model.n_layer * (len(tokens) - 1)


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["prompt"])
def test_every_cell_of_the_lens(model: Model, known: dict[str, Any]) -> None:
    tokens = model.tokenize(known["prompt"])
    states = WholePasses(model, tokens).states()
    for part, logits in by_head(model, states.reshape(-1, model.n_embd)):
        for place, row in zip(range(states[..., 0].size)[part], logits, strict=True):
            layer, token = divmod(place, len(tokens))
            where = f"token {token} at layer {layer}"
            assert_known(row, known["lens"][layer][token], where)
