"""The full engine against the results of the paper's own code, on the default model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Inject, Intervention, Skip
from localprobe.llama.model import Model

KNOWN: dict[str, Any] = json.loads(
    Path(__file__).with_name("known-answers.json").read_text(encoding="utf-8")
)
TOLERANCE = 0.02


@pytest.fixture(scope="module")
def engine(float32_model: Path) -> Iterator[FullEngine]:
    with Model(float32_model) as model:
        yield FullEngine(model)


def assert_known(logits: np.ndarray, known: dict[str, list[float]], where: str) -> None:
    ids = [int(token) for token in known["top"]]
    assert np.abs(logits[ids] - known["logits"]).max() <= TOLERANCE, where
    if known["logits"][0] - known["logits"][1] > TOLERANCE:
        assert int(logits.argmax()) == ids[0], where


def test_tokens_and_baseline(engine: FullEngine) -> None:
    assert engine.model.tokenize(KNOWN["prompt"]) == KNOWN["ids"]
    assert engine.model.tokenize(KNOWN["inject"]["donor"]) == KNOWN["inject"]["donor_ids"]
    assert_known(engine.answer(KNOWN["ids"], max_tokens=1).logits, KNOWN["baseline"], "baseline")


@pytest.mark.parametrize("name", ["freeze", "skip", "inject"])
def test_every_layer(engine: FullEngine, name: str) -> None:
    known = KNOWN[name]
    interventions: dict[str, Intervention] = {"freeze": Freeze(), "skip": Skip()}
    n_layer = engine.model.n_layer
    if name == "inject":
        states = engine.states(known["donor_ids"], range(n_layer))
        intervention: Intervention = Inject(
            states, (known["position"],), (known["donor_position"],)
        )
        known = known["layers"]
    else:
        intervention = interventions[name]
    assert sorted(map(int, known)) == list(range(intervention.first_layer, n_layer))
    for layer, expected in known.items():
        answer = engine.answer(
            KNOWN["ids"], max_tokens=1, intervention=intervention, layer=int(layer)
        )
        assert_known(answer.logits, expected, f"{name} at layer {layer}")
