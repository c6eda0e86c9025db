"""Prompts and layers that are computed side by side, each lane in a context of its own."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localprobe.engine.full import Answer, Certain, FullEngine, Wanted
from localprobe.engine.interventions import Donor, by_name
from localprobe.engine.lane import Lane
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError, NotFiniteError
from localprobe.llama.abreast import Contexts
from localprobe.llama.model import EXACT, FLASH, Model

PATCHES = ("random", "shuffle", "freeze", "skip", "inject")
PROMPTS = [[11, 42, 7, 9, *range(20 * n, 22 * n)] for n in (3, 4, 2, 6, 1)]
Cells = dict[tuple[int, int], Answer]


@pytest.fixture(autouse=True)
def lanes_for_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localprobe.engine.resume.ROWS_A_LANE", 1)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """The layers that each thread wrote answers at."""
    found: dict[str, set[int]] = {}
    write = Lane.write

    def noted(lane: Lane, layers: Any) -> Any:
        found.setdefault(threading.current_thread().name, set()).update(layers.values())
        return write(lane, layers)

    monkeypatch.setattr(Lane, "write", noted)
    return found


@pytest.fixture(params=[EXACT, FLASH])
def model(request: pytest.FixtureRequest, tiny_file: Callable[[str], Path]) -> Iterator[Model]:
    with Model(tiny_file("llama"), threads=2, attention=request.param) as model:
        yield model


def cells(
    engine: FullEngine,
    prompts: Sequence[list[int]] = PROMPTS,
    patch: str = "random",
    *,
    wanted: Wanted | None = None,
    certain: Certain | None = None,
) -> Iterator[tuple[int, int, Answer]]:
    """Some prompts at all layers; the clean answers are there when this returns."""
    layers, stops = range(engine.model.n_layer), [None] * len(prompts)
    runs = engine.clean(prompts, layers, max_tokens=4, stops=stops)
    donor = FullEngine(engine.model).states([77, 5, 66, 150, 23], layers)
    kinds = [by_name(patch, 0, Donor(donor, (1, 3), (2, 0))) for _ in prompts]
    return engine.run(
        runs,
        kinds,
        [layer for layer in layers if layer >= kinds[0].first_layer],
        max_tokens=4,
        examples=range(len(prompts)),
        stops=stops,
        wanted=wanted,
        certain=certain,
    )


def cells_of(*arguments: Any, **named: Any) -> Cells:
    return {(i, layer): answer for i, layer, answer in cells(*arguments, **named)}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("patch", PATCHES)
def test_lanes_say_what_whole_passes_say(
    model: Model, patch: str, n: int, busy: dict[str, set[int]]
) -> None:
    """One prompt: other layers in each lane; several: other prompts."""
    # From 64 rows on, flash attention does not round queries to float16.
    near = {EXACT: 1e-3, FLASH: 2e-2}[model.attention]
    expected = cells_of(FullEngine(model), PROMPTS[:n], patch)
    found = cells_of(ResumeEngine(model), PROMPTS[:n], patch)
    assert found.keys() == expected.keys()
    for cell, answer in found.items():
        assert np.abs(answer.logits - expected[cell].logits).max() <= near
        if expected[cell].margin > 2 * near:
            assert answer.all_tokens == expected[cell].all_tokens
    assert len([name for name, layers in busy.items() if layers and "lane" in name]) == 2


@pytest.mark.parametrize("patch", PATCHES)
def test_lanes_change_no_bit(model: Model, patch: str, tiny_file: Callable[[str], Path]) -> None:
    """Those of one thread, and of each prompt alone."""
    with Model(tiny_file("llama"), threads=1, attention=model.attention) as other:
        for prompts in (PROMPTS, PROMPTS[:1]):
            lanes = cells_of(ResumeEngine(model, keeps_bits=True), prompts, patch)
            for i, prompt in enumerate(prompts):
                if patch in ("random", "shuffle") and i:
                    continue  # its draws are those of another example
                alone = cells_of(ResumeEngine(other, 1, keeps_bits=True), [prompt], patch)
                for (_, layer), answer in alone.items():
                    assert np.array_equal(answer.logits, lanes[i, layer].logits)
                    assert answer.all_tokens == lanes[i, layer].all_tokens
                    assert answer.margin == lanes[i, layer].margin


@pytest.mark.parametrize("known", [0, 1, 2, 100])
@pytest.mark.parametrize("patch", ["random", "freeze"])
def test_only_what_is_wanted_is_given(model: Model, patch: str, known: int) -> None:
    """And in the order in which it is without lanes; known: how many layers ahead."""

    def wanted(i: int, layer: int) -> bool:
        return layer > i - 2

    every = cells_of(FullEngine(model), PROMPTS, patch)
    some = cells_of(ResumeEngine(model), PROMPTS, patch, wanted=wanted, certain=lambda _i: known)
    assert list(some) == [
        (i, layer)
        for layer in sorted({layer for _, layer in every}, reverse=True)
        for i in range(len(PROMPTS))
        if wanted(i, layer)
    ]


def test_what_is_not_finite_spoils_no_other_lane(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Lane.write

    def poisoned(lane: Lane, layers: Any) -> Any:
        if (3, 1) in {(i, layer) for (i, _), layer in layers.items()}:
            raise NotFiniteError("poison")
        return write(lane, layers)

    def wanted(i: int, layer: int) -> bool:
        return i == 3 and layer == 1

    with Model(tiny_file("llama"), threads=2) as model:
        expected = cells_of(FullEngine(model), PROMPTS, "random")
        monkeypatch.setattr(Lane, "write", poisoned)
        found = cells_of(ResumeEngine(model), PROMPTS, "random")
        assert found.keys() == expected.keys()
        # Alone in a group of layers, and not the first of them.
        alone = cells_of(
            ResumeEngine(model), PROMPTS, "random", wanted=wanted, certain=lambda _i: 4
        )
        assert [(cell, answer.is_finite) for cell, answer in alone.items()] == [((3, 1), False)]
        assert [cell for cell, answer in found.items() if not answer.is_finite] == [(3, 1)]
        for cell, answer in found.items():
            assert not answer.is_finite or answer.all_tokens == expected[cell].all_tokens


def test_whoever_takes_answers_may_use_the_model_and_leave(
    tiny_file: Callable[[str], Path],
) -> None:
    """Also where lanes are ahead of what was taken."""
    with Model(tiny_file("llama"), threads=2) as model:
        engine, full = ResumeEngine(model), FullEngine(model)
        expected = cells_of(full)
        left = cells(engine)
        next(left)
        for (i, layer, answer), _ in zip(cells(engine), range(8), strict=False):
            assert answer.all_tokens == expected[i, layer].all_tokens
            assert full.answer(PROMPTS[0], max_tokens=1).is_finite
            next(left)
        left.close()
        for i, layer, answer in cells(engine):
            assert answer.all_tokens == expected[i, layer].all_tokens


def test_a_model_is_closed_while_lanes_are_ahead(tiny_file: Callable[[str], Path]) -> None:
    model = Model(tiny_file("llama"), threads=2)
    left = cells(ResumeEngine(model))
    next(left)
    model.close()
    with pytest.raises(LocalprobeError, match="closed"):
        list(left)
    assert not [each for each in threading.enumerate() if each.name.startswith("lane")]


def test_attention_is_changed_and_back_while_lanes_are_ahead(
    tiny_file: Callable[[str], Path],
) -> None:
    """As when somebody asks for the weights of attention in the middle of a sweep."""
    with Model(tiny_file("llama"), threads=2, attention=FLASH) as model:
        engine, found = ResumeEngine(model), Cells()
        expected = cells_of(engine)
        for i, layer, answer in cells(engine):
            found[i, layer] = answer
            model.attention = EXACT
            model.attention = FLASH
        assert found.keys() == expected.keys()
        for cell, answer in found.items():
            assert answer.all_tokens == expected[cell].all_tokens


def test_one_who_left_is_collected_in_any_thread(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Lane.write
    with Model(tiny_file("llama"), threads=2) as model:
        circle: list[Any] = [cells(ResumeEngine(model))]
        circle.append(circle)
        next(circle[0])
        again = cells(ResumeEngine(model))

        def collecting(lane: Lane, layers: Any) -> Any:
            gc.collect()
            return write(lane, layers)

        monkeypatch.setattr(Lane, "write", collecting)
        del circle
        assert len(list(again)) == len(PROMPTS) * model.n_layer


def test_layers_that_are_no_neighbours_and_a_shorter_context(
    tiny_file: Callable[[str], Path], busy: dict[str, set[int]]
) -> None:
    with Model(tiny_file("llama"), threads=2) as model:
        engine = ResumeEngine(model)
        (run,) = engine.clean(PROMPTS[:1], range(4), max_tokens=4, stops=[None])
        some = engine.run(
            [run], [by_name("random", 0)], [0, 3], max_tokens=4, examples=[0], stops=[None]
        )
        assert [layer for _, layer, _ in some] == [3, 0]
        assert not any("lane" in name for name in busy)  # each by all threads
        list(cells(ResumeEngine(model)))
        model.ctx = 10
        with pytest.raises(LocalprobeError, match="the context holds 10"):
            cells(ResumeEngine(model))


def test_ctrl_c_ends_all_lanes_and_leaves_them_usable(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(tiny_file("llama"), threads=2) as model:
        engine = ResumeEngine(model)
        expected = cells_of(engine, PROMPTS, "random")
        write = Lane.write
        begun, ended = list[bool](), list[bool]()

        def interrupted(lane: Lane, layers: Any) -> Any:
            begun.append(True)
            if len(begun) == 2:
                signal.raise_signal(signal.SIGINT)
            try:
                while True:  # until told to stop
                    write(lane, layers)
            except KeyboardInterrupt:
                ended.append(True)
                raise

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Lane, "write", interrupted)
            cells_of(engine, PROMPTS, "random")
        assert len(ended) >= 2  # and what was begun ahead
        again = cells_of(engine, PROMPTS, "random")
        for cell, answer in expected.items():
            assert np.array_equal(answer.logits, again[cell].logits)


def test_where_there_are_lanes(tiny_file: Callable[[str], Path]) -> None:
    for threads in (1, 2, 3):
        with Model(tiny_file("llama"), threads=threads) as model:
            assert Contexts(model).most == (2 if threads == 2 else 1)
