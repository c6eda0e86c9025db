"""Tokens hidden or written to one by one: whole passes against the numpy oracle, resuming, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCHITECTURES
from helpers import oracle, tiny

from localprobe.engine import interventions
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Inject, Intervention, Random, Shuffle, only_at
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.errors import LocalprobeError
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.residual import NoEdit

SEED = 5
PROMPTS = ([3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46], [200, 7, 101, 33, 9], [42, 43])
DONORS = ([77, 5, 66, 150, 23, 81, 9, 240, 61, 62, 63], [1, 2, 3, 4, 5], [50, 51])
WAYS = (WholePasses, Resumed)


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def draw(name: str, state: np.ndarray, layer: int, position: int) -> np.ndarray:
    draws = {"random": interventions.random_states, "shuffle": interventions.shuffled_states}
    return draws[name](state[None], seed=SEED, example=0, layer=layer, start=position)[0]


def groups(n_tokens: int) -> list[tuple[int, ...]]:
    """Every past token, and where there are several two of them, and all."""
    past = range(n_tokens - 1)
    several = [(past[0], past[-1]), tuple(past)] if n_tokens > 2 else []
    return [*((p,) for p in past), *several]


def opened(way: type[WholePasses], model: Model, tokens: Sequence[int]) -> WholePasses:
    return way(model, tokens, 0) if way is Resumed else way(model, tokens)  # type: ignore[call-arg]


def every_cell(
    prompt: WholePasses, acts: list[Act], n_layer: int
) -> dict[tuple[int, int], np.ndarray]:
    found = {}
    for layer, numbers, logits in prompt.cells(acts, range(n_layer)):
        for number, row in zip(numbers, logits, strict=True):
            assert (layer, number) not in found
            found[layer, number] = row.copy()
    assert found.keys() == {
        (k, i) for k in range(n_layer) for i, act in enumerate(acts) if k >= act.first_layer
    }
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_hidden_tokens_equal_the_oracle(
    arch: str, way: type[WholePasses], tiny_engine: Callable[[str], FullEngine]
) -> None:
    model, weights = tiny_engine(arch).model, tiny.build(arch)
    for tokens in PROMPTS:
        prompt = way(model, tokens)
        assert_close(prompt.clean, oracle.logits(weights, tokens))
        for window in (None, 2):
            acts = [Act(at, window=window) for at in groups(len(tokens))]
            changed = 0
            for (k, i), ours in every_cell(prompt, acts, model.n_layer).items():
                theirs = oracle.knocked_out(weights, tokens, acts[i].at, k, window)
                assert_close(ours, theirs)
                changed += np.abs(theirs - prompt.clean).max() > 1e-2 * np.abs(theirs).max()
            # A knockout that hid nothing would pass a comparison with another one like it.
            assert changed >= 0.4 * len(acts) * model.n_layer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["random", "shuffle", "freeze", "swap"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_written_tokens_equal_the_oracle(
    arch: str, name: str, way: type[WholePasses], tiny_engine: Callable[[str], FullEngine]
) -> None:
    model, weights = tiny_engine(arch).model, tiny.build(arch)
    whole: dict[str, Intervention] = {
        "random": Random(SEED),
        "shuffle": Shuffle(SEED),
        "freeze": Freeze(),
    }
    for tokens, donor in zip(PROMPTS, DONORS, strict=True):
        states = dict(enumerate(WholePasses(model, donor).states()))

        def kind(at: tuple[int, ...], states: dict[int, np.ndarray] = states) -> Intervention:
            return Inject(states, at, at) if name == "swap" else only_at(whole[name], at)

        prompt = opened(way, model, tokens)
        for window in (None, 2):
            acts = [Act(at, kind(at), window) for at in groups(len(tokens))[::3]]
            for (k, i), ours in every_cell(prompt, acts, model.n_layer).items():
                theirs = oracle.touched(weights, tokens, name, acts[i].at, k, draw, donor, window)
                assert_close(ours, theirs)


def test_more_tokens_than_sequences_and_more_rows_than_a_decode(
    tiny_engine: Callable[[str], FullEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, and past a sliding window whose cells llama.cpp would give away."""
    monkeypatch.setattr("localprobe.engine.tokens._MOST_SEQUENCES", 4)
    monkeypatch.setattr("localprobe.engine.tokens.MOST_ROWS", 12)
    tokens = [(7 * p + 3) % 250 for p in range(23)]
    for arch in ("llama", "gemma3"):
        model = tiny_engine(arch).model
        hiding = [Act((p,)) for p in range(len(tokens) - 1)]
        writing = [Act((p,), only_at(Random(SEED), [p])) for p in range(len(tokens) - 1)]
        for acts, first in ((hiding, None), (writing, 0)):
            fast = every_cell(Resumed(model, tokens, first), acts, model.n_layer)
            slow = every_cell(WholePasses(model, tokens), acts, model.n_layer)
            for cell, ours in fast.items():
                assert_close(ours, slow[cell])


@pytest.mark.parametrize("attention", [EXACT, FLASH])
def test_many_that_write_do_not_turn_each_others_positions(attention: str, tmp_path: Path) -> None:
    """They lie in one context, whose length is what llama.cpp looks at."""
    near = {EXACT: 1e-3, FLASH: 2e-2}[attention]
    path = tiny.long_rope("phi3", 256, tmp_path / "longrope.gguf")
    tokens = [40, *range(3, 30), 41]
    acts = [Act((p,), only_at(Random(), [p])) for p in range(len(tokens) - 1)]
    with (
        Model(path, threads=1, attention=attention) as model,
        Model(path, threads=1, attention=attention) as other,
    ):
        fast = every_cell(Resumed(model, tokens, 0), acts, model.n_layer)
        slow = every_cell(WholePasses(other, tokens), acts, model.n_layer)
        for cell, ours in fast.items():
            assert np.abs(ours - slow[cell]).max() < near
        assert model._n_ctx == 256


def test_another_use_of_the_model_in_between_changes_nothing(
    tiny_engine: Callable[[str], FullEngine],
) -> None:
    model, tokens = tiny_engine("llama").model, PROMPTS[0]
    acts = [Act((p,)) for p in range(len(tokens) - 1)]
    expected = every_cell(Resumed(model, tokens), acts, model.n_layer)
    prompt = Resumed(model, tokens)
    for layer, numbers, logits in prompt.cells(acts, range(model.n_layer)):
        for number, row in zip(numbers, logits, strict=True):
            assert np.array_equal(row, expected[layer, number])
        model.evaluate([9, 8, 7], 0, NoEdit())


def test_only_the_last_rows_are_computed(
    tiny_engine: Callable[[str], FullEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most two clean passes more than one row from its layer on for every cell."""
    model, n = tiny_engine("llama").model, 26
    tokens = [(5 * p + 1) % 250 for p in range(n)]
    rows = 0  # times blocks
    decode, part = Model._decode, Model.decode_part

    def counted(self, batch, visitor, want_logits=True):  # type: ignore[no-untyped-def]
        nonlocal rows
        result = decode(self, batch, visitor, want_logits)
        rows += len(batch) * self.n_layer
        return result

    def counted_part(self, batch, make, *, want_logits=True):  # type: ignore[no-untyped-def]
        def made(graph):  # type: ignore[no-untyped-def]
            found = make(graph)
            entry = min(found.written)
            nonlocal layer
            layer = graph.state.index(entry)
            return found

        nonlocal rows
        layer = 0
        before = rows
        result = part(self, batch, made, want_logits=want_logits)
        # What was counted as whole was computed from its layer on.
        rows -= len(batch) * layer
        assert rows > before
        return result

    monkeypatch.setattr(Model, "_decode", counted)
    monkeypatch.setattr(Model, "decode_part", counted_part)
    acts = [Act((p,)) for p in range(n - 1)]
    every_cell(Resumed(model, tokens), acts, model.n_layer)
    single = (n - 1) * sum(range(1, model.n_layer + 1))
    assert single < rows <= single + 2 * n * model.n_layer


@pytest.mark.parametrize("n_tokens", [200, 480])
def test_long_prompts_are_done_in_parts_and_their_memory_is_known(
    n_tokens: int, tiny_engine: Callable[[str], FullEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_engine("llama").model
    tokens = [(7 * p + 3) % 250 for p in range(n_tokens)]
    acts = [Act((p,)) for p in range(n_tokens - 1)]
    found = every_cell(Resumed(model, tokens), acts, model.n_layer)
    whole = WholePasses(model, tokens)
    for number in (0, 95, 96, 150, n_tokens - 2):
        for layer, _, logits in whole.cells([acts[number]], [0, 2]):
            assert_close(found[layer, number], logits[0])
    assert Resumed.memory(model, 1000) > Resumed.memory(model, 200) > 1e6
    monkeypatch.setattr(Resumed, "memory", staticmethod(lambda *_: 1e15))
    with pytest.raises(LocalprobeError, match=f"a map of {n_tokens} tokens needs about"):
        Resumed(model, tokens)
