"""Resuming equals whole passes: every intervention, layer, batch, and answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ARCHITECTURES, BESIDE, PARALLEL
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from localprobe.cli.app import main
from localprobe.engine.full import Answer, CleanRun, FullEngine
from localprobe.engine.interventions import Freeze, Inject, Intervention, Random, Shuffle, Skip
from localprobe.engine.lane import Lane
from localprobe.engine.regions import shared_prefix
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError
from localprobe.llama import ggml
from localprobe.llama.batch import Batch, sequence_rows
from localprobe.llama.graph import Graph, Part
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.residual import NoEdit
from localprobe.models.opening import choose_engine, open_model

NAMES = ("random", "shuffle", "freeze", "skip", "inject")
SHARED = [11, 42, 7, 99]
PROMPTS = [
    [*SHARED, 3, 14, 15],
    [*SHARED, 92, 65, 35, 89, 79, 32, 38, 46],
    [*SHARED, 200, 7],
    [*SHARED, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    [*SHARED, 77],
]
DONOR = [77, 5, 66, 150, 23, 81, 9, 240]
Engines = Callable[[str], ResumeEngine]


def make(name: str, full: FullEngine, prompt: Sequence[int]) -> Intervention:
    if name == "inject":
        donor = full.states(DONOR, range(full.model.n_layer))
        return Inject(donor, (len(prompt) // 2, len(prompt) - 2), (6, 2))
    simple = {"random": Random(3), "shuffle": Shuffle(3), "freeze": Freeze(), "skip": Skip()}
    return simple[name]


def resumed(
    engine: FullEngine,
    runs: Sequence[CleanRun],
    interventions: Sequence[Intervention],
    layers: Sequence[int],
    max_tokens: int,
) -> dict[tuple[int, int], Answer]:
    cells = engine.run(
        runs,
        interventions,
        layers,
        max_tokens=max_tokens,
        examples=range(len(runs)),
        stops=[None] * len(runs),
    )
    return {(i, layer): answer for i, layer, answer in cells}


def clean(engine: FullEngine, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[CleanRun]:
    layers = range(engine.model.n_layer)
    return engine.clean(prompts, layers, max_tokens=max_tokens, stops=[None] * len(prompts))


def assert_equal(ours: Answer, full: Answer) -> None:
    assert ours.tokens == full.tokens
    assert np.abs(ours.logits - full.logits).max() <= 1e-3
    # Of all its tokens, not of the first one alone.
    assert ours.margin == pytest.approx(full.margin, abs=1e-3)


@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL))
def test_clean_runs(arch: str, tiny_engine: Callable[[str], FullEngine], resume_engine: Engines):
    full, resume = tiny_engine(arch), resume_engine(arch)
    for run, prompt in zip(clean(resume, PROMPTS, 4), PROMPTS, strict=True):
        assert_equal(run.answer, full.answer(prompt, max_tokens=4))
        assert run.tokens == (*prompt, *run.answer.tokens[:3])
        expected = full.states(run.tokens, range(full.model.n_layer))
        for layer, states in run.states.items():
            np.testing.assert_allclose(states, expected[layer], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("max_tokens", [1, 8])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL, *BESIDE))
def test_every_intervention_at_every_layer(
    arch: str,
    name: str,
    max_tokens: int,
    tiny_engine: Callable[[str], FullEngine],
    resume_engine: Engines,
) -> None:
    full, resume = tiny_engine(arch), resume_engine(arch)
    interventions = [make(name, full, prompt) for prompt in PROMPTS]
    layers = range(interventions[0].first_layer, full.model.n_layer)
    answers = resumed(resume, clean(resume, PROMPTS, max_tokens), interventions, layers, max_tokens)
    assert len(answers) == len(PROMPTS) * len(layers)
    for (i, layer), answer in answers.items():
        expected = full.answer(
            PROMPTS[i],
            max_tokens=max_tokens,
            intervention=interventions[i],
            layer=layer,
            example=i,
        )
        assert_equal(answer, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL))
def test_answers_that_follow_the_clean_one(
    arch: str, name: str, tiny_engine: Callable[[str], FullEngine], resume_engine: Engines
) -> None:
    """Generation from known states: an intervention that hardly changes anything, and a clean
    run that says what the intervened model says."""
    full, resume = tiny_engine(arch), resume_engine(arch)
    prompts = PROMPTS[:3]
    interventions = [make(name, full, prompt) for prompt in prompts]
    layer = full.model.n_layer - 1
    expected = [
        full.answer(prompt, max_tokens=4, intervention=each, layer=layer, example=i)
        for i, (prompt, each) in enumerate(zip(prompts, interventions, strict=True))
    ]
    every = range(full.model.n_layer)
    runs = []
    for prompt, answer in zip(prompts, expected, strict=True):
        tokens = (*prompt, *answer.tokens)
        runs.append(CleanRun(tuple(prompt), answer, tokens, full.states(tokens, every)))

    def no_whole_pass(*_: object) -> None:
        raise AssertionError("went on elsewhere")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "_go_on", no_whole_pass)
        answers = resumed(resume, runs, interventions, [layer], 4)
    for i, answer in enumerate(expected):
        assert_equal(answers[i, layer], answer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [0, 1, 3])
@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL))
def test_a_single_prompt_goes_on_without_a_new_pass(
    arch: str,
    shared: int,
    name: str,
    tiny_engine: Callable[[str], FullEngine],
    resume_engine: Engines,
) -> None:
    """Also after it has followed the clean answer for so many tokens."""
    full, resume = tiny_engine(arch), resume_engine(arch)
    prompt = PROMPTS[3]
    intervention = make(name, full, prompt)
    every = range(full.model.n_layer)
    for layer in range(intervention.first_layer, full.model.n_layer):
        expected = full.answer(prompt, max_tokens=6, intervention=intervention, layer=layer)
        tokens = (*prompt, *expected.tokens[:shared], 0, 0)
        run = CleanRun(tuple(prompt), expected, tokens, full.states(tokens, every))
        answers = resumed(resume, [run], [intervention], [layer], 6)
        assert_equal(answers[0, layer], expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL, *BESIDE))
def test_a_single_prompt_at_all_layers_in_one_go(
    arch: str, name: str, tiny_engine: Callable[[str], FullEngine], resume_engine: Engines
) -> None:
    """What an answer at one layer leaves in the cache does not reach the layers below."""
    full, resume = tiny_engine(arch), resume_engine(arch)
    prompt = PROMPTS[3]
    intervention = make(name, full, prompt)
    layers = range(intervention.first_layer, full.model.n_layer)
    answers = resumed(resume, clean(resume, [prompt], 5), [intervention], layers, 5)
    for layer in layers:
        expected = full.answer(prompt, max_tokens=5, intervention=intervention, layer=layer)
        assert_equal(answers[0, layer], expected)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_answers_do_not_depend_on_company_or_order(
    data: st.DataObject, resume_engine: Engines
) -> None:
    resume = resume_engine("llama")
    name = data.draw(st.sampled_from(NAMES[:4]))
    chosen = data.draw(st.lists(st.sampled_from(range(5)), min_size=1, max_size=5, unique=True))
    layers = data.draw(st.lists(st.sampled_from(range(1, 4)), min_size=1, unique=True))
    resume.batch_size = data.draw(st.integers(1, 5))
    prompts = [PROMPTS[i] for i in chosen]
    intervention = make(name, resume, [])
    runs = clean(resume, prompts, 3)
    cells = resume.run(
        runs,
        [intervention] * len(runs),
        layers,
        max_tokens=3,
        examples=chosen,
        stops=[None] * len(runs),
    )
    for i, layer, answer in list(cells):
        alone = resume.answer(
            prompts[i], max_tokens=3, intervention=intervention, layer=layer, example=chosen[i]
        )
        assert_equal(answer, alone)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_may_be_used_between_two_answers(name: str, resume_engine: Engines) -> None:
    """Answers come one by one, and all build on the one cache that the model has."""
    resume = resume_engine("llama")
    prompts, layers = PROMPTS[:2], [1, 2, 3]
    kinds = [make(name, resume, prompt) for prompt in prompts]
    runs = clean(resume, prompts, 5)
    expected = resumed(resume, runs, kinds, layers, 5)
    cells = resume.run(
        runs, kinds, layers, max_tokens=5, examples=range(2), stops=[None] * len(runs)
    )
    n_found = 0
    for i, layer, answer in cells:
        n_found += 1
        assert_equal(answer, expected[i, layer])
        resume.model.evaluate([9, 8, 7, 6, 5, 4, 3, 2, 1], 0, NoEdit())
    assert n_found == len(expected)


@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL, *BESIDE))
def test_an_identity_rerun_is_bit_identical(arch: str, resume_engine: Engines) -> None:
    model = resume_engine(arch).model
    tokens = PROMPTS[3]
    states = resume_engine(arch).states(tokens, range(model.n_layer))
    expected = model.evaluate(tokens, 0, NoEdit())
    rows = Batch(sequence_rows(tokens, 0))
    for layer in range(model.n_layer):
        model.clear()
        again = model.decode_part(rows, lambda graph, k=layer: graph.from_layer(k, states[k]))
        np.testing.assert_array_equal(again[0], expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_flags_are_put_back_whatever_happens(
    error: type[BaseException], resume_engine: Engines
) -> None:
    model = resume_engine("llama").model
    tokens = PROMPTS[1]
    states = resume_engine("llama").states(tokens, [2])
    rows = Batch(sequence_rows(tokens, 0))
    clean_logits = model.evaluate(tokens, 0, NoEdit())

    def fail(_address: int) -> None:
        raise error

    def part(graph: Graph) -> Part:
        return Part(graph.from_layer(2, states[2]).off, {graph.state[2]: fail})

    model.clear()
    with pytest.raises(error):
        model.decode_part(rows, part)
    assert not model._hook.is_armed
    graph = model._graph
    assert graph is not None
    flags = [ggml.at(address).flags for address in graph.addresses]
    assert all(flag & ggml.FLAG_COMPUTE for flag in flags)
    np.testing.assert_array_equal(model.evaluate(tokens, 0, NoEdit()), clean_logits)


def test_another_graph_is_noticed_and_learned(resume_engine: Engines) -> None:
    model = resume_engine("qwen2").model
    tokens = PROMPTS[1]
    states = resume_engine("qwen2").states(tokens, [1])
    rows = Batch(sequence_rows(tokens, 0))
    expected = model.evaluate(tokens, 0, NoEdit())
    model.clear()
    model.decode_part(rows, lambda graph: graph.from_layer(1, states[1]))
    learned = model._graph
    assert learned is not None
    learned._seen = learned._seen + 1
    model.clear()
    again = model.decode_part(rows, lambda graph: graph.from_layer(1, states[1]))
    assert model._graph is not learned
    np.testing.assert_array_equal(again[0], expected)


def test_work_counts_every_weight_that_is_multiplied_with(resume_engine: Engines) -> None:
    model = resume_engine("llama").model
    model.reserve(len(PROMPTS[0]))
    model.clear()
    model.learn_graph(Batch(sequence_rows(PROMPTS[0], 0)))
    graph = model.graph
    assert graph is not None
    block = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 48 * 32  # q, k and v, output, mlp
    output = 258 * 32
    assert graph.work(graph.everything(), 10, 2) == 10 * 4 * block + 2 * output
    states = np.zeros((1, 32), np.float32)
    assert graph.work(graph.from_layer(3, states), 10, 1) == 10 * block + output
    assert graph.work(graph.without_attention(2, states), 5, 5) == 5 * (2 * 3 * 48 * 32 + output)
    assert graph.work(graph.keys_and_values(1, lambda _: states), 5, 0) == 5 * 3 * 2 * 16 * 32


@pytest.mark.parametrize(
    ("arch", "block"),
    [
        # Two of six experts, and the router over all.
        ("qwen3moe", 2 * 32 * 32 + 2 * 16 * 32 + 6 * 32 + 2 * 3 * 24 * 32),
        # The output matrix is not the last node: the logits are capped.
        ("gemma2", 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32),
    ],
)
def test_work_counts_chosen_experts_and_capped_logits(
    arch: str, block: int, resume_engine: Engines
) -> None:
    model = resume_engine(arch).model
    model.reserve(len(PROMPTS[0]))
    model.clear()
    model.learn_graph(Batch(sequence_rows(PROMPTS[0], 0)))
    graph = model.graph
    assert graph is not None
    expected = 10 * model.n_layer * block + 2 * 258 * 32
    assert graph.work(graph.everything(), 10, 2) == expected


def test_shared_prefix() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_prefix([[1, 2], [1, 2]]) == 1
    assert shared_prefix([[1, 2, 3]]) == 0
    assert shared_prefix([[1, 2], [3, 2]]) == 0


@pytest.mark.parametrize("weights", ["float32_model", "default_model"])
def test_the_default_model(weights: str, request: pytest.FixtureRequest) -> None:
    """Logits within 1e-3 on float32; on quantized weights the same first token wherever the
    first two are further apart than the two engines are."""
    path: Path = request.getfixturevalue(weights)
    countries = ("France", "Japan", "Egypt")
    with Model(path) as model:
        full, resume = FullEngine(model), ResumeEngine(model)
        prompts = [
            model.tokenize(
                f"Q: What is the capital of Spain?\nA: Madrid\n"
                f"Q: What is the capital of {country}?\nA:"
            )
            for country in countries
        ]
        runs = clean(resume, prompts, 1)
        layers = (1, 12, 22, 29)
        donor = runs[0].states
        kinds: list[Intervention] = [Random(1), Shuffle(1), Freeze(), Skip()]
        for kind in [*kinds, Inject(donor, (21,), (21,))]:
            answers = resumed(resume, runs, [kind] * 3, layers, 1)
            for (i, layer), answer in answers.items():
                expected = full.answer(
                    prompts[i], max_tokens=1, intervention=kind, layer=layer, example=i
                ).logits
                difference = np.abs(answer.logits - expected).max()
                if weights == "float32_model":
                    assert difference <= 1e-3
                second, first = np.sort(expected)[-2:]
                if first - second > 2 * difference:
                    assert answer.logits.argmax() == expected.argmax()


def test_without_a_proof_of_the_flags_there_are_whole_passes_and_a_warning(
    tiny_file: Callable[[str], Path],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("localprobe.llama.ggml.FLAGS_PROVED", False)
    with open_model(str(tiny_file("llama"))) as loaded:
        engine, reason = choose_engine(loaded)
        assert type(engine) is FullEngine
    assert "marks what is to be computed in another way" in reason
    assert main(["probe", "one two", "-p", "skip", "-m", str(tiny_file("llama"))]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert sum(reason in line for line in warnings) == 1


@pytest.mark.parametrize("seed", [3, 11, 13])
@pytest.mark.parametrize("kind", [Random(), Shuffle(), Skip()], ids=lambda kind: str(kind.name))
def test_long_answers_in_company_where_a_window_slides(
    kind: Intervention, seed: int, tiny_engine: Engines, tiny_file: Callable[[str], Path]
) -> None:
    """llama.cpp gives away cells of tokens that have left the window, though they are there."""
    full = tiny_engine("gemma3")
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 256, size=n).tolist() for n in rng.integers(4, 24, size=5)]
    layers, kinds = range(full.model.n_layer), [kind] * len(prompts)
    with Model(tiny_file("gemma3"), threads=1) as model:
        resume = ResumeEngine(model, batch_size=16)
        found = resumed(resume, clean(resume, prompts, 8), kinds, layers, 8)
    for (i, layer), ours in found.items():
        expected = full.answer(prompts[i], max_tokens=8, intervention=kind, layer=layer, example=i)
        assert ours.tokens == expected.tokens
        assert ours.margin == pytest.approx(expected.margin, abs=1e-2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["random", "freeze", "skip"])
@pytest.mark.parametrize("arch", ["llama", "gemma3", "gptneox"])
def test_cells_left_out_change_no_other(
    arch: str, name: str, seed: int, resume_engine: Engines
) -> None:
    """Prompts that share decodes drop out and come back, as where an answer is lost for good."""
    engine = resume_engine(arch)
    interventions = [make(name, engine, prompt) for prompt in PROMPTS]
    layers = range(interventions[0].first_layer, engine.model.n_layer)
    runs = clean(engine, PROMPTS, 8)
    expected = resumed(engine, runs, interventions, layers, 8)
    draws = np.random.default_rng(seed).random((len(PROMPTS), engine.model.n_layer)) < 0.6
    given: list[tuple[int, int]] = []

    def wanted(i: int, layer: int) -> bool:
        # What was asked for above is known by now.
        above = {(i, k) for k in layers if k > layer and draws[i, k]}
        assert above <= set(given)
        return bool(draws[i, layer])

    cells = engine.run(
        runs,
        interventions,
        layers,
        max_tokens=8,
        examples=range(len(runs)),
        stops=[None] * len(runs),
        wanted=wanted,
    )
    for i, layer, answer in cells:
        given.append((i, layer))
        assert_equal(answer, expected[i, layer])
    assert sorted(given) == sorted(cell for cell in expected if draws[cell])


@pytest.mark.parametrize("way", [{}, {"keeps_bits": True}, {"plain": True}], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_answers_that_leave_the_clean_one_at_unlike_layers(
    arch: str,
    name: str,
    way: dict[str, bool],
    tiny_engine: Callable[[str], FullEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the first of them needs in the cache is not there for those that follow."""
    monkeypatch.setattr("localprobe.engine.resume.AHEAD", 1)
    full = tiny_engine(arch)
    engine = ResumeEngine(full.model, **way)
    prompts = [*PROMPTS, *([*SHARED, 50 + i, 9, 60 - i, 7] for i in range(11))]
    interventions = [make(name, full, prompt) for prompt in prompts]
    layers = range(interventions[0].first_layer, full.model.n_layer)
    n_answers = [0] * len(prompts)
    filled: list[set[int]] = []

    def stop(i: int) -> Callable[[str], bool]:
        """The i-th prompt's answers at some of the first layers end with their first token."""

        def is_over(_text: str) -> bool:
            n_answers[i] += n_answers[i] <= i % 4
            return n_answers[i] <= i % 4

        return is_over

    fill = Lane._fill_below

    def fill_below(lane: Lane, layer: int, prompts: Collection[int], *rest: Any) -> None:
        filled.append(set(prompts))
        fill(lane, layer, prompts, *rest)

    monkeypatch.setattr(Lane, "_fill_below", fill_below)
    cells = engine.run(
        [replace(run, tokens=run.prompt) for run in clean(engine, prompts, 6)],
        interventions,
        layers,
        max_tokens=6,
        examples=range(len(prompts)),
        stops=[stop(i) for i in range(len(prompts))],
        wanted=lambda _i, _layer: True,
        certain=lambda _i: 2,  # layers share decodes, but not all of them
    )
    lengths = set[int]()
    for i, layer, answer in list(cells):  # before the model is used for others
        expected = full.answer(
            prompts[i], max_tokens=6, intervention=interventions[i], layer=layer, example=i
        )
        length = len(answer.tokens)
        lengths.add(length)
        assert answer.tokens == expected.tokens[:length]
        if length > 1:
            assert_equal(answer, expected)
    assert {1, 6} <= lengths
    assert len(filled) > 1
    if not (name == "skip" and "plain" in way):
        assert sum(map(len, filled)) == len(set().union(*filled))


@pytest.mark.parametrize("attention", [EXACT, FLASH])
@pytest.mark.parametrize("keeps_bits", [False, True])
def test_prompts_in_company_do_not_turn_each_others_positions(
    attention: str, keeps_bits: bool, tmp_path: Path
) -> None:
    """All that share a decode lie in one context, whose length is what llama.cpp looks at."""
    # From 64 rows on, flash attention does not round queries to float16.
    near = {EXACT: 1e-3, FLASH: 2e-2}[attention]
    path = tiny.long_rope("phi3", 256, tmp_path / "longrope.gguf")
    prompts = [[start, *range(3, 30), start + 1] for start in range(40, 56)]
    with (
        Model(path, threads=1, attention=attention) as model,
        Model(path, threads=1, attention=attention) as other,
    ):
        whole = FullEngine(other)
        engine = ResumeEngine(model, keeps_bits=keeps_bits)
        runs = clean(engine, prompts, 2)
        for kind in (Random(), Freeze(), Skip()):
            layers = range(kind.first_layer, model.n_layer)
            cells = resumed(engine, runs, [kind] * len(prompts), layers, 2)
            assert len(cells) == len(prompts) * len(layers)
            for (i, layer), answer in cells.items():
                expected = whole.answer(
                    prompts[i], max_tokens=2, intervention=kind, layer=layer, example=i
                )
                assert np.abs(answer.logits - expected.logits).max() < near
                assert answer.tokens == expected.tokens or expected.margin < near
        assert model._n_ctx == 256
        # One cell more is needed beside a prompt that fills the context, and would turn them.
        with pytest.raises(LocalprobeError, match=r"too near to the 256 tokens .* raise --ctx"):
            model.reserve(257)
