"""An intervention at some tokens alone: both engines equal, and equal to the numpy oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ARCHITECTURES
from helpers import oracle, tiny
from hypothesis import given
from hypothesis import strategies as st

from localprobe.engine import interventions
from localprobe.engine.full import CleanRun, FullEngine
from localprobe.engine.interventions import Freeze, Intervention, Random, Shuffle, only_at
from localprobe.engine.lane import Lane
from localprobe.engine.proof import check_resume
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.graph import Graph, Later, Part
from localprobe.llama.model import Model

SEED = 11
KINDS: dict[str, Intervention] = {
    "random": Random(SEED),
    "shuffle": Shuffle(SEED),
    "freeze": Freeze(),
}
PROMPTS = (
    [11, 42, 7, 99, 65, 35, 89, 79, 32, 38, 46],
    [11, 42, 7, 101, 33, 9],
    [11, 42, 200, 7],
)
PLACES = ((3, 7), (4,), (0, 2))
"""Of each prompt: apart, one alone, and from the first token to the last past one."""
Engines = Callable[[str], ResumeEngine]


def layers_of(name: str, model: Model) -> range:
    return range(KINDS[name].first_layer, model.n_layer)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_whole_passes_are_the_oracle(
    arch: str, name: str, tiny_engine: Callable[[str], FullEngine]
) -> None:
    engine, model = tiny_engine(arch), tiny.build(arch)
    draws = {"random": interventions.random_states, "shuffle": interventions.shuffled_states}

    def draw(name: str, past: np.ndarray, k: int) -> np.ndarray:
        return draws[name](past, seed=SEED, example=5, layer=k, start=0)

    for prompt, at in zip(PROMPTS, PLACES, strict=True):
        for k in layers_of(name, engine.model):
            ours = engine.answer(
                prompt, max_tokens=3, intervention=only_at(KINDS[name], at), layer=k, example=5
            )
            sequence = list(prompt)
            for step in range(3):
                theirs = oracle.intervened(model, sequence, name, k, draw, at=at)
                if step == 0:
                    assert np.abs(ours.logits - theirs).max() <= 1e-4 * np.abs(theirs).max()
                    everywhere = oracle.intervened(model, sequence, name, k, draw)
                    assert np.abs(everywhere - theirs).max() > 1e-3 * np.abs(theirs).max()
                if int(theirs.argmax()) == tiny.EOS:
                    break
                sequence.append(int(theirs.argmax()))
            assert list(ours.tokens) == sequence[len(prompt) :]


@pytest.mark.parametrize("max_tokens", [1, 5])
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resuming_is_whole_passes(
    arch: str,
    name: str,
    max_tokens: int,
    tiny_engine: Callable[[str], FullEngine],
    resume_engine: Engines,
) -> None:
    """Several prompts in a decode, each with positions of its own."""
    full, resume = tiny_engine(arch), resume_engine(arch)
    each = [only_at(KINDS[name], at) for at in PLACES]
    layers = layers_of(name, full.model)
    stops = [None] * len(PROMPTS)
    runs = resume.clean(PROMPTS, layers, max_tokens=max_tokens, stops=stops)
    cells = list(
        resume.run(
            runs, each, layers, max_tokens=max_tokens, examples=range(len(runs)), stops=stops
        )
    )
    assert len(cells) == len(PROMPTS) * len(layers)
    for i, layer, answer in cells:
        expected = full.answer(
            PROMPTS[i], max_tokens=max_tokens, intervention=each[i], layer=layer, example=i
        )
        assert answer.tokens == expected.tokens
        assert np.abs(answer.logits - expected.logits).max() <= 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_one_prompt_many_times_in_a_decode(name: str, resume_engine: Engines) -> None:
    """A map of tokens: one run, each token alone; also while the answer is the clean one."""
    resume = resume_engine("llama")
    prompt = PROMPTS[0]
    layers = layers_of(name, resume.model)
    each = [only_at(KINDS[name], [position]) for position in range(len(prompt) - 1)]
    (run,) = resume.clean([prompt], range(resume.model.n_layer), max_tokens=4, stops=[None])
    stops = [None] * len(each)
    cells = resume.run(
        [run] * len(each), each, layers, max_tokens=4, examples=[0] * len(each), stops=stops
    )
    for i, layer, answer in list(cells):
        expected = resume.answer(prompt, max_tokens=4, intervention=each[i], layer=layer)
        assert answer.tokens == expected.tokens
        assert np.abs(answer.logits - expected.logits).max() <= 1e-3


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_an_answer_that_follows_the_clean_one_is_not_computed_whole(
    arch: str, name: str, tiny_engine: Callable[[str], FullEngine], resume_engine: Engines
) -> None:
    full, resume = tiny_engine(arch), resume_engine(arch)
    kind, layer = only_at(KINDS[name], (3, 7)), full.model.n_layer - 1
    expected = full.answer(PROMPTS[0], max_tokens=4, intervention=kind, layer=layer)
    tokens = (*PROMPTS[0], *expected.tokens)
    states = full.states(tokens, range(full.model.n_layer))
    run = CleanRun(tuple(PROMPTS[0]), expected, tokens, states)

    def no_whole_pass(*_: object) -> None:
        raise AssertionError("went on elsewhere")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lane, "_go_on_together", no_whole_pass)
        ((_, _, answer),) = resume.run(
            [run], [kind], [layer], max_tokens=4, examples=[0], stops=[None]
        )
    assert answer.tokens == expected.tokens
    assert np.abs(answer.logits - expected.logits).max() <= 1e-3


@given(st.sets(st.integers(0, 9), min_size=1), st.integers(0, 9), st.integers(1, 10))
def test_draws_are_those_of_the_whole_intervention(at: set[int], start: int, n: int) -> None:
    """Rows that are asked for have them, wherever a pass begins; the others are left alone."""
    past = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
    for kind in (Random(3), Shuffle(3)):
        place = {"n_layer": 4, "example": 2, "start": start}
        whole = kind.edit(1, **place).past(1, past)
        assert whole is not None
        some = only_at(kind, at).edit(1, **place).past(1, past)
        expected = [whole[i] if start + i in at else past[i] for i in range(n)]
        np.testing.assert_array_equal(past if some is None else some, expected)


def test_what_it_says_about_itself() -> None:
    kind = only_at(Freeze(), [7, 3, 3])
    assert (kind.name, kind.first_layer, kind.first_row(20), kind.held()) == (
        "freeze",
        1,
        3,
        (3, 7),
    )
    assert not kind.holds_past
    assert only_at(Random(0), [2]).held() == ()


@pytest.mark.parametrize("name", ["skip", "inject"])
def test_what_has_no_positions_to_choose(name: str) -> None:
    donor = interventions.Donor({}, (1,), (2,))
    with pytest.raises(LocalprobeError, match=f"^{name} "):
        only_at(interventions.by_name(name, 0, donor), [1])


@pytest.mark.parametrize("at", [(), (-1, 2)])
def test_positions_that_are_none(at: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="no positions"):
        only_at(Freeze(), at)


def test_the_check_finds_rows_that_are_not_held(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from_layer = Graph.from_layer

    def let_go(self: Graph, layer: int, states: np.ndarray, later: Later | None = None) -> Part:
        return from_layer(self, layer, states)

    monkeypatch.setattr(Graph, "from_layer", let_go)
    with (
        Model(tiny_file("llama"), threads=1) as model,
        pytest.raises(ModelError, match="hold some rows"),
    ):
        check_resume(model)
