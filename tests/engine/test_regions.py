"""Prompts that share decodes have the bits that they have alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localprobe.engine import proof, regions
from localprobe.engine.full import Answer, Certain, CleanRun, Wanted
from localprobe.engine.interventions import Donor, by_name
from localprobe.engine.regions import alike
from localprobe.engine.resume import ResumeEngine
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.tiles import TILE

PATCHES = ("random", "freeze", "skip", "inject")
LAYERS, MAX_TOKENS = range(3), 4


@pytest.fixture(scope="module")
def model(tiny_file: Callable[[str], Path]) -> Model:
    return Model(tiny_file("llama"), threads=1)


@pytest.fixture(scope="module")
def flash_model(tiny_file: Callable[[str], Path]) -> Iterator[Model]:
    with Model(tiny_file("llama"), threads=1, attention=FLASH) as model:
        yield model


def everything(
    engine: ResumeEngine, prompts: Sequence[list[int]], numbers: Sequence[int], patch: str
) -> tuple[list[CleanRun], dict[tuple[int, int], Answer]]:
    stops = [None] * len(prompts)
    runs = engine.clean(prompts, LAYERS, max_tokens=MAX_TOKENS, stops=stops)
    kinds = [by_name(patch, 0, Donor(run.states, (1,), (0,))) for run in runs]
    layers = [layer for layer in LAYERS if layer >= kinds[0].first_layer]
    cells = engine.run(runs, kinds, layers, max_tokens=MAX_TOKENS, examples=numbers, stops=stops)
    return runs, {(numbers[i], layer): answer for i, layer, answer in cells}


@pytest.mark.parametrize("attention", [EXACT, FLASH])
@pytest.mark.parametrize("patch", PATCHES)
@settings(max_examples=8, deadline=None)
@given(
    begin=st.lists(st.integers(3, 90), max_size=40),
    ends=st.lists(st.lists(st.integers(3, 90), min_size=2, max_size=50), min_size=1, max_size=6),
)
def test_company_changes_no_bit(
    model: Model,
    flash_model: Model,
    patch: str,
    attention: str,
    begin: list[int],
    ends: list[list[int]],
) -> None:
    """That of other prompts, and of other layers."""
    model = flash_model if attention == FLASH else model
    prompts = [[*begin, *end] for end in ends]
    numbers = list(range(len(prompts)))
    runs, cells = everything(ResumeEngine(model, keeps_bits=True), prompts, numbers, patch)
    for number in numbers:
        by_itself = ResumeEngine(model, 1, keeps_bits=True)
        own, alone = everything(by_itself, [prompts[number]], [number], patch)
        assert own[0].tokens == runs[number].tokens
        for layer in LAYERS:
            assert np.array_equal(own[0].states[layer], runs[number].states[layer])
        for cell, answer in alone.items():
            assert np.array_equal(answer.logits, cells[cell].logits)
            assert answer.all_tokens == cells[cell].all_tokens
            assert answer.margin == cells[cell].margin  # of the tokens that follow, too


def test_the_proof_sees_what_regions_are_for(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proof.keeps_bits(model)
    monkeypatch.setattr(regions, "aligned", lambda n, _step: n)
    assert not proof.keeps_bits(model)


def test_the_proof_sees_what_flash_attention_does_from_some_rows_on(
    flash_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert proof.keeps_bits(flash_model)
    with monkeypatch.context() as patched:
        patched.setattr(regions, "alike", lambda counts: [slice(0, len(counts))])
        assert not proof.keeps_bits(flash_model)
    monkeypatch.setattr(regions, "aligned", lambda n, _step: n)
    assert not proof.keeps_bits(flash_model)


@given(counts=st.lists(st.integers(1, 100), max_size=20))
def test_who_shares_a_decode_under_flash_attention(counts: list[int]) -> None:
    parts = list(alike(counts))
    assert [i for part in parts for i in range(len(counts))[part]] == list(range(len(counts)))
    for part in parts:
        some = counts[part]
        # Alone, a companion may come to one's rows.
        is_tiled = {n >= TILE for n in (*some, *(n + 1 for n in some), sum(some))}
        assert len(is_tiled) == 1 or len(some) == 1


def test_the_proof_sees_that_one_row_is_multiplied_otherwise_than_two(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions.Regions, "in_company", lambda self, rows, **_: rows)
    assert not proof.keeps_bits(model)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "qwen3moe"])
@pytest.mark.parametrize("patch", PATCHES)
def test_what_is_written_side_by_side_is_what_is_written_alone(
    tiny_file: Callable[[str], Path], arch: str, patch: str
) -> None:
    model = Model(tiny_file(arch), threads=1)
    engine, prompt = ResumeEngine(model), [5, 17, 44, 8, 61, 30, 12]
    (run,) = engine.clean([prompt], range(model.n_layer), max_tokens=6, stops=[None])
    kind = by_name(patch, 0, Donor({k: -s for k, s in run.states.items()}, (2, 3), (0, 1)))
    layers = range(kind.first_layer, model.n_layer)

    def cells(wanted: Wanted | None) -> dict[int, Answer]:
        found = engine.run(
            [run], [kind], layers, max_tokens=6, examples=[0], stops=[None], wanted=wanted
        )
        return {layer: answer for _, layer, answer in found}

    together, alone = cells(None), cells(lambda _number, _layer: True)
    assert list(together) == list(alone) == sorted(layers, reverse=True)
    if arch == "llama":
        assert any(answer.tokens != run.answer.tokens for answer in alone.values())
    for layer in layers:
        assert together[layer].all_tokens == alone[layer].all_tokens
        assert together[layer].margin == alone[layer].margin
        assert np.array_equal(together[layer].logits, alone[layer].logits)
    model.close()


THREE = [[5, 17, 44, 8], [61, 30, 12], [9, 9, 4, 31, 7]]


def tried(
    engine: ResumeEngine, patch: str, wanted: Wanted, certain: Certain | None
) -> Iterator[tuple[int, int, Answer]]:
    """Three prompts at layers 3 to 1, as far as is wanted."""
    stops = [None] * len(THREE)
    return engine.run(
        engine.clean(THREE, range(4), max_tokens=2, stops=stops),
        [by_name(patch, 0)] * len(THREE),
        range(1, 4),
        max_tokens=2,
        examples=range(len(THREE)),
        stops=stops,
        wanted=wanted,
        certain=certain,
    )


@pytest.mark.parametrize("patch", ["freeze", "skip"])
def test_layers_share_decodes_as_far_as_they_are_known_to_be_wanted(
    model: Model, patch: str
) -> None:
    """The first prompt is tried at the last layer, the others down to a layer of their own."""
    engine = ResumeEngine(model)
    asked: list[tuple[int, int, int]] = []
    given = dict.fromkeys(range(3), 4)

    def wanted(i: int, layer: int) -> bool:
        asked.append((i, layer, given[i]))
        return layer >= 3 - i

    def answers(certain: Certain | None) -> dict[tuple[int, int], Answer]:
        asked.clear()
        given.update(dict.fromkeys(given, 4))
        found = {}
        for i, layer, answer in tried(engine, patch, wanted, certain):
            given[i], found[i, layer] = layer, answer
        return found

    one_by_one = answers(None)
    assert all(before == layer + 1 for i, layer, before in asked if layer >= 3 - i)
    together = answers(lambda _i: 2)
    assert any(before > layer + 1 for i, layer, before in asked if layer >= 3 - i)
    assert (
        list(together)
        == list(one_by_one)
        == [(i, layer) for layer in (3, 2, 1) for i in range(3) if layer >= 3 - i]
    )
    for cell, answer in one_by_one.items():
        assert np.array_equal(answer.logits, together[cell].logits)
        assert answer.all_tokens == together[cell].all_tokens


@pytest.mark.parametrize("patch", ["freeze", "skip"])
def test_what_was_computed_ahead_and_is_not_wanted_is_not_given(model: Model, patch: str) -> None:
    """As where an answer turns out to be lost for good."""
    engine = ResumeEngine(model)
    found: dict[tuple[int, int], Answer] = {}
    decodes: list[int] = []

    def wanted(i: int, layer: int) -> bool:
        return i == 2 or (i, layer + 1) not in found

    def answers(certain: Certain | None) -> dict[tuple[int, int], Answer]:
        found.clear()
        before = model.n_decodes
        for i, layer, answer in tried(engine, patch, wanted, certain):
            found[i, layer] = answer
        decodes.append(model.n_decodes - before)
        return dict(found)

    one_by_one, ahead = answers(None), answers(lambda _i: 1)
    # The first two are wanted at the highest layer, not at the next, and at the lowest again.
    assert list(ahead) == list(one_by_one)
    assert set(ahead) == {(i, layer) for layer in (3, 1) for i in range(3)} | {(2, 2)}
    for cell, answer in one_by_one.items():
        assert answer.all_tokens == ahead[cell].all_tokens
        assert np.abs(answer.logits - ahead[cell].logits).max() < 1e-4
    assert decodes[1] < decodes[0]


def test_more_prompts_than_llama_cpp_has_sequences_for(model: Model) -> None:
    prompts = [[3 + n % 80, 5, 7 + n // 80] for n in range(140)]
    engine = ResumeEngine(model, 256)
    engine._most_rows = lambda _: 1 << 20  # type: ignore[method-assign]
    runs, cells = everything(engine, prompts, range(140), "freeze")
    last = everything(ResumeEngine(model), prompts[-1:], [139], "freeze")[1]
    assert len(runs) == 140 and len(cells) == 140 * 2
    assert all(cells[cell].all_tokens == answer.all_tokens for cell, answer in last.items())
