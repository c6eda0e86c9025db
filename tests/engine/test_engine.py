"""The engine and the hook on tiny models: what must hold whatever the numbers are."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny

from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Edit, Freeze, Inject, Random, Shuffle, Skip
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.batch import Batch, sequence_rows
from localprobe.llama.hooks import EvalHook, NodeVisitor
from localprobe.llama.model import Model
from localprobe.llama.residual import NoEdit
from localprobe.llama.verdict import Verdict
from localprobe.models.opening import judge

PROMPT = [3, 14, 15, 92, 65, 35, 89]
Engines = Callable[[str], FullEngine]


def test_same_rows_whatever_the_order_and_choice_of_layers(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")

    def rows(layers: list[int]) -> dict[int, bytes]:
        return {
            layer: engine.answer(
                PROMPT, max_tokens=3, intervention=Random(4), layer=layer, example=2
            ).logits.tobytes()
            for layer in layers
        }

    everything = rows(list(range(4)))
    shuffled = list(range(4))
    random.Random(0).shuffle(shuffled)
    assert rows(shuffled) == everything
    assert rows([2]) == {2: everything[2]}


class Spy:
    """An edit that remembers what it left in the states."""

    attention_off_from = None

    def __init__(self, inner: Edit) -> None:
        self.layers, self._inner = inner.layers, inner
        self.written: dict[int, np.ndarray] = {}

    def apply(self, layer: int, states: np.ndarray) -> np.ndarray | None:
        new = self._inner.apply(layer, states)
        self.written[layer] = states if new is None else new
        return new


def test_the_last_tokens_state_is_untouched_in_the_graph(tiny_engine: Engines) -> None:
    """Below and at layer k the last token's row is what the clean pass had."""
    engine = tiny_engine("llama")
    clean = engine.states(PROMPT, range(4))
    for intervention in (Random(0), Shuffle(0), Freeze()):
        spy = Spy(intervention.edit(2, n_layer=4, example=0, start=0))
        engine.model.evaluate(PROMPT, 0, spy)
        written = spy.written
        for layer in (layer for layer in written if layer <= 2):
            np.testing.assert_array_equal(written[layer][-1], clean[layer][-1])
        assert not np.array_equal(written[2][:-1], clean[2][:-1])


def test_injecting_a_prompt_into_itself_is_bit_identical(tiny_engine: Engines) -> None:
    for arch in ("llama", "gemma3"):
        engine = tiny_engine(arch)
        states = engine.states(PROMPT, range(engine.model.n_layer))
        positions = tuple(range(len(PROMPT) - 1))
        clean = engine.answer(PROMPT, max_tokens=5)
        for layer in range(engine.model.n_layer):
            same = engine.answer(
                PROMPT,
                max_tokens=5,
                intervention=Inject(states, positions, positions),
                layer=layer,
            )
            assert same.tokens == clean.tokens
            np.testing.assert_array_equal(same.logits, clean.logits)


def test_an_exception_while_decoding_leaves_nothing_armed(tiny_engine: Engines) -> None:
    model = tiny_engine("llama").model
    clean = model.evaluate(PROMPT, 0, NoEdit())

    def fail(layer: int, past: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.evaluate(PROMPT, 0, Edit(frozenset([1]), fail))
    assert not model._hook.is_armed
    np.testing.assert_array_equal(model.evaluate(PROMPT, 0, NoEdit()), clean)


def test_a_hook_is_armed_once_and_disarmed_by_an_exception_around_it() -> None:
    class Visitor:
        def wants(self, address: int) -> bool:
            return False

        def computed(self, address: int) -> None: ...

    hook = EvalHook()
    with pytest.raises(ZeroDivisionError), hook.armed(Visitor()):
        with pytest.raises(RuntimeError, match="armed already"), hook.armed(Visitor()):
            pass
        assert hook.is_armed
        raise ZeroDivisionError
    assert not hook.is_armed


def test_numbers_that_are_not_finite_are_an_error_and_leave_nothing_behind(
    tiny_file: Callable[[str], Path],
) -> None:
    with Model(tiny_file("llama")) as model:
        engine = FullEngine(model)
        clean = engine.answer(PROMPT, max_tokens=4)
        for value in (np.nan, np.inf):
            donor = {1: np.full((3, 32), value, np.float32)}
            with pytest.raises(ModelError, match="not finite"):
                engine.answer(
                    [*PROMPT, 7, 8], max_tokens=4, intervention=Inject(donor, (0,), (0,)), layer=1
                )
            again = engine.answer(PROMPT, max_tokens=4)
            assert again.tokens == clean.tokens
            np.testing.assert_array_equal(again.logits, clean.logits)


def test_a_reordered_batch_is_noticed(
    tiny_engine: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_engine("llama").model
    model.evaluate(PROMPT, 0, NoEdit())
    decode = model._decode

    def reversed_rows(rows: Batch, visitor: NodeVisitor) -> np.ndarray:
        return decode(Batch(sequence_rows(rows.tokens[::-1].tolist(), 0)), visitor)

    monkeypatch.setattr(model, "_decode", reversed_rows)
    with pytest.raises(ModelError, match="reordered"):
        model.evaluate(PROMPT, 0, NoEdit())


def test_states_have_the_shape_of_the_prompt(tiny_engine: Engines) -> None:
    engine = tiny_engine("qwen2")
    states = engine.states(PROMPT, [0, 2])
    assert {layer: array.shape for layer, array in states.items()} == {0: (7, 32), 2: (7, 32)}
    assert all(array.dtype == np.float32 for array in states.values())


def test_a_prompt_longer_than_the_context(tiny_file: Callable[[str], Path]) -> None:
    with Model(tiny_file("llama"), ctx=8) as model:
        engine = FullEngine(model)
        engine.answer(PROMPT, max_tokens=1)
        with pytest.raises(LocalprobeError, match="need 9 tokens, the context holds 8"):
            engine.answer(PROMPT, max_tokens=2)


def test_the_context_grows_without_changing_answers(tiny_file: Callable[[str], Path]) -> None:
    long = [int(token) for token in np.random.default_rng(0).integers(0, 257, 300)]
    with Model(tiny_file("llama")) as model:
        engine = FullEngine(model)
        short = engine.answer(PROMPT, max_tokens=2).logits
        engine.answer(long, max_tokens=1, intervention=Skip(), layer=1)
        np.testing.assert_allclose(
            engine.answer(PROMPT, max_tokens=2).logits, short, rtol=1e-5, atol=1e-5
        )


def test_generation_stops_at_the_end_token_and_when_told(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    asked: list[str] = []

    def stop(text: str) -> bool:
        asked.append(text)
        return len(asked) == 2

    assert len(engine.answer(PROMPT, max_tokens=9, stop=stop).tokens) == 2

    class Ended(Model):
        def ends_generation(self, token: int) -> bool:
            return True

    with Ended(engine.model.path) as model:
        answer = FullEngine(model).answer(PROMPT, max_tokens=9)
    assert (answer.tokens, answer.text) == ((), "")
    assert answer.all_tokens == (answer.end,)


@pytest.mark.parametrize("adds", ["bos", "eos"])
def test_a_begin_token_where_the_gguf_asks_for_it_but_no_end_token(
    adds: str, tmp_path: Path
) -> None:
    path = tiny.write(tiny.build("llama"), tmp_path / "tiny.gguf", adds=(adds,))
    with Model(path) as model:
        tokens = model.tokenize("hi")
        assert model.info.adds_bos == (adds == "bos")
    assert tokens == ([tiny.EOS] if adds == "bos" else []) + list(b"hi")


def test_tokens_and_text(tiny_engine: Engines) -> None:
    model = tiny_engine("llama").model
    text = "Zürich\n<|end|> ab"
    tokens = model.tokenize(text)
    assert b"".join(model.piece(token) for token in tokens) == text.encode()
    assert tiny.EOS not in tokens  # what a user writes is never a control token
    assert model.piece(tiny.EOS) == b""
    assert model.piece(tiny.EOS, control=True) == b"<|end|>"
    assert model.detokenize(model.tokenize("ü")[:1]) == "�"


@pytest.mark.parametrize(("arch", "original"), [("phi3", 256), ("llama", 256), ("llama", 300)])
def test_positions_are_turned_alike_whatever_came_before(
    arch: str, original: int, tmp_path: Path
) -> None:
    """llama.cpp takes other factors in a long context; ours grows, and must not change them."""
    path = tiny.long_rope(arch, original, tmp_path / "longrope.gguf")
    prompt = list(range(40))
    answers = []
    for ctx in (0, original, 512):
        with Model(path, threads=1, ctx=ctx) as model:
            engine = FullEngine(model)
            before = engine.answer(prompt, max_tokens=1).logits
            model.reserve(model.ctx)
            after = engine.answer(prompt, max_tokens=1).logits
            assert np.array_equal(before, after)
            answers.append(before)
    assert model.ctx == 512
    assert not np.allclose(answers[0], answers[-1], atol=1e-2)
    with Model(path, threads=1) as model:
        assert model.ctx == 256


def test_what_was_checked_in_short_contexts_is_checked_again_in_long_ones(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny.long_rope("llama", 256, tmp_path / "longrope.gguf")
    evaluated: list[tuple[int, int]] = []
    seen: list[int] = []
    evaluate = Model.evaluate

    def noted(self: Model, tokens: list[int], *rest: Any) -> np.ndarray:
        logits = evaluate(self, tokens, *rest)
        evaluated.append((len(tokens), self._n_ctx))
        return logits

    monkeypatch.setattr(Model, "evaluate", noted)
    for ctx in (0, 512, 0, 512):
        with Model(path, threads=1, ctx=ctx) as model:
            assert judge(model, "a" * 64) == Verdict()
        if ctx == 0:
            assert {n_ctx for _, n_ctx in evaluated} <= {256}
        elif evaluated:
            assert {n_ctx for _, n_ctx in evaluated} == {512}
            assert max(length for length, _ in evaluated) > 256
        seen.append(len(evaluated))
        evaluated.clear()
    assert [n > 0 for n in seen] == [True, True, False, False]
