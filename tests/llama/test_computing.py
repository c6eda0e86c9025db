"""What is computed in the place of llama.cpp is, bit for bit, what llama.cpp would compute."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import ARCHITECTURES, BESIDE, PARALLEL
from hypothesis import given

from localprobe.engine.full import CLEAN, FullEngine
from localprobe.llama import computing, ggml, graph
from localprobe.llama.batch import Batch, Row, sequence_rows
from localprobe.llama.computing import MANY_ROWS
from localprobe.llama.graph import Graph, Part
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.quantizing import quantize
from localprobe.llama.tiles import TILE, Tiles, seen_by, tiles_of

PROMPTS = [[(7 * n + i * i) % 250 for i in range(length)] for n, length in enumerate((90, 37, 150))]
LAYER = 0
Files = Callable[[str], Path]
Parts = dict[str, Callable[[Graph], Part]]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows whenever something is computed here."""
    found: list[int] = []
    compute = computing.Computing.compute

    def noted(self: computing.Computing, *arguments: Any) -> None:
        found.append(1)
        compute(self, *arguments)

    monkeypatch.setattr(computing.Computing, "compute", noted)
    return found


@pytest.mark.parametrize("attention", [EXACT, FLASH])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("arch", [*ARCHITECTURES, *PARALLEL, *BESIDE])
def test_it_is_bit_for_bit_what_llama_cpp_computes(
    arch: str, threads: int, attention: str, tiny_file: Files, computed: list[int]
) -> None:
    with Model(tiny_file(arch), threads=threads, attention=attention) as model:
        check(model, computed)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "f16", "bf16"])
def test_so_it_is_for_other_weights(
    kind: str, tiny_file: Files, tmp_path: Path, computed: list[int]
) -> None:
    quantize(tiny_file("llama"), tmp_path / "tiny.gguf", kind)
    with Model(tmp_path / "tiny.gguf", threads=1, attention=FLASH) as model:
        check(model, computed)


def check(model: Model, computed: list[int]) -> None:
    assert len(batch()) >= MANY_ROWS
    here = {name: decoded(model, part) for name, part in parts(model).items()}
    assert computed
    computed.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(computing, "is_possible", lambda: False)
        there = {name: decoded(model, part) for name, part in parts(model).items()}
    assert not computed
    for name, logits in there.items():
        np.testing.assert_array_equal(here[name], logits, name)
    assert len({logits.tobytes() for logits in there.values()}) == len(there)


def test_in_the_last_block_only_tiles_with_an_output_are_computed(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four tiles two: prompts of 90, 37 and 150 tokens end in the second and the last one."""
    found: list[tuple[str, int]] = []
    compute = Tiles.compute

    def noted(self: Tiles, node: int, n: int, *arguments: Any) -> None:
        found.append((ggml.op_name(ggml.at(node).op), n))
        compute(self, node, n, *arguments)

    monkeypatch.setattr(Tiles, "compute", noted)
    with Model(tiny_file("llama"), threads=1, attention=FLASH) as model:
        model.reserve(512, len(PROMPTS))
        model.decode_part(batch(), lambda graph: graph.everything())
        expected = [("FLASH_ATTN_EXT", 4)] * (model.n_layer - 1)
    # Queries, attention, and what comes behind it.
    assert found == [*expected, ("MUL_MAT", 2), ("FLASH_ATTN_EXT", 2), ("MUL_MAT", 2)]


def batch() -> Batch:
    rows = [
        Row(token, position, (number,), position == len(tokens) - 1)
        for number, tokens in enumerate(PROMPTS)
        for position, token in enumerate(tokens)
    ]
    return Batch(rows)


def parts(model: Model) -> Parts:
    """Ways to go on from states; what each gives depends on keys and values, or on none."""
    engine = FullEngine(model)
    clean = [engine.states(tokens, range(model.n_layer)) for tokens in PROMPTS]
    states = {k: np.concatenate([each[k] for each in clean]) for k in range(model.n_layer)}
    noise = np.random.default_rng(0).standard_normal(states[LAYER].shape).astype(np.float32)
    later = {LAYER + 1: ([3, 100], noise[:2])}
    return {
        "everything": lambda graph: graph.everything(),
        "from a layer": lambda graph: graph.from_layer(LAYER, noise),
        "written later": lambda graph: graph.from_layer(LAYER, states[LAYER], later),
        "from the last layer": lambda graph: graph.from_layer(model.n_layer - 1, noise),
    }


def decoded(model: Model, part: Callable[[Graph], Part]) -> np.ndarray:
    """Logits of the batch, and of tokens behind it, which attend to what it stored."""
    rows = batch()
    model.reserve(512, len(PROMPTS))
    model.clear(wipe=True)
    first = model.decode_part(rows, part)
    after = Batch([Row(5, len(tokens), (i,), True) for i, tokens in enumerate(PROMPTS)])
    second = model.decode_part(after, lambda graph: graph.everything())
    return np.concatenate([first, second])


def test_what_is_written_for_all_blocks_and_what_is_left_out_is_the_same(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch, computed: list[int]
) -> None:
    """Parts that only store, or do not attend."""
    rows = batch()
    outputs = Batch(
        [Row(token, position, output=True) for position, token in enumerate(PROMPTS[2])]
    )

    def found(model: Model) -> list[np.ndarray]:
        noise = np.random.default_rng(0).standard_normal((len(rows), model.n_embd))
        states = noise.astype(np.float32)
        model.reserve(512, len(outputs))
        model.clear(wipe=True)
        model.decode_part(rows, lambda graph: graph.below(1), want_logits=False)
        for sequence in range(len(PROMPTS)):
            model.forget(sequence, 0)
        model.decode_part(
            rows,
            lambda graph: graph.keys_and_values(LAYER, lambda k: states * (k + 1)),
            want_logits=False,
        )
        after = Batch([Row(5, len(tokens), (i,), True) for i, tokens in enumerate(PROMPTS)])
        stored = model.decode_part(after, lambda graph: graph.everything())
        model.clear(wipe=True)
        few = states[: len(outputs)]
        alone = model.decode_part(outputs, lambda graph: graph.without_attention(LAYER, few))
        return [stored, alone]

    for attention in (EXACT, FLASH):
        with Model(tiny_file("llama"), threads=1, attention=attention) as model:
            computed.clear()
            here = found(model)
            assert computed
            with monkeypatch.context() as patch:
                patch.setattr(computing, "is_possible", lambda: False)
                there = found(model)
        for one, other in zip(here, there, strict=True):
            np.testing.assert_array_equal(one, other)


def test_few_rows_are_left_to_llama_cpp(tiny_file: Files, computed: list[int]) -> None:
    with Model(tiny_file("llama"), threads=1, attention=FLASH) as model:
        rows = Batch([Row(5, p, (0,), p == MANY_ROWS - 2) for p in range(MANY_ROWS - 1)])
        model.reserve(512)
        model.decode_part(rows, lambda graph: graph.everything())
    assert not computed


def test_between_blocks_it_can_be_ended_and_everything_is_switched_on_again(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch, computed: list[int]
) -> None:
    def interrupted(self: graph.Computed, address: int) -> None:
        raise KeyboardInterrupt

    with Model(tiny_file("llama"), threads=1, attention=EXACT) as model:
        expected = decoded(model, lambda graph: graph.everything())
        assert len(computed) > model.n_layer
        with monkeypatch.context() as patch:
            patch.setattr(graph.Computed, "computed", interrupted)
            with pytest.raises(KeyboardInterrupt):
                decoded(model, lambda graph: graph.everything())
        monkeypatch.setattr(computing, "is_possible", lambda: False)
        np.testing.assert_array_equal(decoded(model, lambda graph: graph.everything()), expected)


def test_an_interrupted_restore_leaves_no_graph_with_nodes_off(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp would take it for the next decode as it is, and compute nothing."""

    def interrupted(self: graph.Computed) -> None:
        raise KeyboardInterrupt

    with Model(tiny_file("llama"), threads=1, attention=FLASH) as model:
        model.reserve(512, len(PROMPTS))
        expected = model.decode(batch(), CLEAN)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(graph.Computed, "restore", interrupted)
            decoded(model, lambda graph: graph.everything())
        model.reserve(512, len(PROMPTS))
        np.testing.assert_array_equal(model.decode(batch(), CLEAN), expected)


def test_a_decode_without_outputs_stores_what_it_stores(tiny_file: Files) -> None:
    no_outputs = Batch([Row(token, at) for at, token in enumerate(PROMPTS[2])])
    after = Batch([Row(5, len(PROMPTS[2]), output=True)])
    with Model(tiny_file("llama"), threads=1, attention=FLASH) as model:
        found = []
        for rows in (no_outputs, Batch(sequence_rows(PROMPTS[2], 0))):
            model.reserve(512)
            model.clear(wipe=True)
            model.decode_part(rows, lambda graph: graph.everything())
            found.append(model.decode_part(after, lambda graph: graph.everything()))
    np.testing.assert_array_equal(*found)


def test_graphs_are_gone_when_their_model_is(tiny_file: Files) -> None:
    with Model(tiny_file("llama"), threads=1, attention=FLASH) as model:
        decoded(model, lambda graph: graph.everything())
        model.clear()
        model.decode_part(batch(), lambda graph: graph.below(1))
        assert model.graph is not None
        known = [weakref.ref(model.graph), weakref.ref(model.graph.nodes)]
    del model
    gc.collect()
    assert [each() for each in known] == [None, None]


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """(n_rows, n_cells), True where a row sees a cell; every row sees one."""
    n_rows, n_cells = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    low, high = np.sort(rng.integers(0, n_cells, (2, n_rows)), axis=0)
    cells = np.arange(n_cells)
    return (cells >= low[:, None]) & (cells <= high[:, None])


@given(masks())
def test_every_cell_that_is_seen_is_in_the_tiles_of_its_row(is_seen: np.ndarray) -> None:
    mask = np.where(is_seen, np.float16(0), np.float16(-np.inf)).view(np.uint16)
    seen = seen_by(mask, tiles_of(len(mask)))
    assert [each.row for each in seen] == [TILE * i for i in range(max(1, len(mask) // TILE))]
    assert sum(each.n_rows for each in seen) == len(mask)
    for row, n_rows, cell, n_cells in seen:
        cells = np.flatnonzero(is_seen[row : row + n_rows].any(axis=0))
        assert n_rows >= min(TILE, len(mask))
        assert cell == cells[0] - cells[0] % TILE
        assert cell + n_cells == cells[-1] + 1
