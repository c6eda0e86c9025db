"""The full engine against the independent numpy decoder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import ARCHITECTURES, BESIDE, HYBRIDS, PARALLEL
from helpers import oracle, tiny

from localprobe.engine import interventions
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Inject, Intervention, Random, Shuffle, Skip

ALL = (*ARCHITECTURES, *PARALLEL, *BESIDE, *HYBRIDS)
SEED, EXAMPLE = 11, 5
NAMES = ("random", "shuffle", "freeze", "skip", "inject")
# Longer than the gemmas' window, as long as a question, and the shortest that has a past token.
PROMPTS = ([3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46], [200, 7, 101, 33, 9], [42, 43])
DONOR = [77, 5, 66, 150, 23, 81, 9, 240]


def draw(name: str, past: np.ndarray, k: int) -> np.ndarray:
    draws = {"random": interventions.random_states, "shuffle": interventions.shuffled_states}
    return draws[name](past, seed=SEED, example=EXAMPLE, layer=k, start=0)


def make(name: str, engine: FullEngine, prompt: list[int]) -> tuple[Intervention, tuple | None]:
    """The intervention, and for inject what the oracle has to know."""
    if name == "inject":
        at = tuple(dict.fromkeys((0, (len(prompt) - 1) // 2)))
        donor_at = (6, 2)[: len(at)]
        donor = engine.states(DONOR, range(engine.model.n_layer))
        return Inject(donor, at, donor_at), (DONOR, at, donor_at)
    simple = {"random": Random(SEED), "shuffle": Shuffle(SEED), "freeze": Freeze(), "skip": Skip()}
    return simple[name], None


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("arch", ALL)
def test_clean_logits_and_states(arch: str, tiny_engine: Callable[[str], FullEngine]) -> None:
    engine, model = tiny_engine(arch), tiny.build(arch)
    for prompt in PROMPTS:
        answer = engine.answer(prompt, max_tokens=1)
        assert_close(answer.logits, oracle.logits(model, prompt))
        ours = engine.states(prompt, range(model.n_layer))
        for k, theirs in enumerate(oracle.states(model, prompt)):
            assert_close(ours[k], theirs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", ALL)
def test_every_intervention_at_every_layer(
    arch: str, name: str, tiny_engine: Callable[[str], FullEngine]
) -> None:
    engine, model = tiny_engine(arch), tiny.build(arch)
    for prompt in PROMPTS:
        intervention, injection = make(name, engine, prompt)
        clean = oracle.logits(model, prompt)
        for k in range(intervention.first_layer, model.n_layer):
            ours = engine.answer(
                prompt, max_tokens=1, intervention=intervention, layer=k, example=EXAMPLE
            )
            theirs = oracle.intervened(model, prompt, name, k, draw, injection)
            assert_close(ours.logits, theirs)
            if name != "skip" and k >= model.n_layer - model.shared_kv:
                # Blocks from there on attend to what was made below.
                assert np.array_equal(theirs, clean)
                continue
            # An intervention that did nothing would pass a comparison with another one like it.
            assert np.abs(theirs - clean).max() > 1e-3 * np.abs(clean).max()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", ALL)
def test_generation_equals_recomputing_everything(
    arch: str, name: str, tiny_engine: Callable[[str], FullEngine]
) -> None:
    engine, model, prompt = tiny_engine(arch), tiny.build(arch), PROMPTS[0]
    intervention, injection = make(name, engine, prompt)
    for k in range(intervention.first_layer, model.n_layer):
        ours = engine.answer(
            prompt, max_tokens=4, intervention=intervention, layer=k, example=EXAMPLE
        )
        sequence = list(prompt)
        for _ in range(4):
            theirs = oracle.intervened(model, sequence, name, k, draw, injection)
            token = int(theirs.argmax())
            if token == tiny.EOS:
                break
            sequence.append(token)
        assert list(ours.tokens) == sequence[len(prompt) :]
