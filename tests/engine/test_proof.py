"""The proof of resuming: passed by what is only rounded otherwise, failed by what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ARCHITECTURES, BESIDE, PARALLEL
from helpers import tiny

from localprobe.engine.proof import check_resume
from localprobe.errors import ModelError
from localprobe.llama.batch import Batch
from localprobe.llama.graph import Graph, Part
from localprobe.llama.model import Model
from localprobe.llama.quantizing import quantize

Files = Callable[[str], Path]


@pytest.mark.parametrize("arch", (*ARCHITECTURES, *PARALLEL, *BESIDE))
def test_it_passes_where_resuming_is_exact(arch: str, tiny_file: Files) -> None:
    with Model(tiny_file(arch), threads=1) as model:
        assert 0 <= check_resume(model) < 1e-2


@pytest.fixture(scope="module", params=["q4_0", "q8_0", "bf16", "f16"])
def rounded_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 3 whose activations are rounded, more or less by the shape of a decode."""
    folder = tmp_path_factory.mktemp("rounded")
    wide = tiny.build("gemma3", like=replace(tiny.shape("gemma3"), n_embd=64, n_ff=96, head_dim=32))
    source, target = tiny.write(wide, folder / "float.gguf"), folder / "rounded.gguf"
    quantize(source, target, request.param)
    return target


def test_it_passes_where_activations_are_rounded(rounded_file: Path) -> None:
    with Model(rounded_file, threads=1) as model:
        assert 0 <= check_resume(model) < np.inf


def test_what_other_shapes_round_otherwise_is_noise_and_no_reason_to_refuse(
    tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if every number of rows had kernels of its own: by a fifth of the spread."""
    decode = Model._decode

    def rounded(self: Model, rows: Batch, *rest: Any) -> np.ndarray:
        logits = decode(self, rows, *rest)
        draw = np.random.default_rng(len(rows)).uniform(-1, 1, self.info.n_vocab)
        return logits + np.float32(0.2 * np.ptp(logits, axis=-1, keepdims=True) * draw)

    with Model(tiny_file("gemma3"), threads=1) as model:
        usual = check_resume(model)
        monkeypatch.setattr(Model, "_decode", rounded)
        assert check_resume(model) > 100 * usual


def a_wrong_node_off(graph: Graph, layer: int, states: np.ndarray) -> Part:
    part = graph.from_layer.__wrapped__(graph, layer, states)  # type: ignore[attr-defined]
    wanted = graph.state[-1] - 1
    return Part(np.append(part.off, wanted), part.written)


def nodes_written_too_early(graph: Graph, layer: int, states: np.ndarray) -> Part:
    """Before they are computed, so that the attention is there again."""
    part = graph.without_attention.__wrapped__(graph, layer, states)  # type: ignore[attr-defined]

    def all_at_once(_address: int) -> None:
        for node, act in part.written.items():
            act(graph.addresses[node])

    return Part(graph._before[layer], {graph.state[layer]: all_at_once})


def wrong_rows(graph: Graph, layer: int, states: np.ndarray) -> Part:
    return graph.from_layer.__wrapped__(graph, layer, states[::-1])  # type: ignore[attr-defined]


def broken(monkeypatch: pytest.MonkeyPatch, method: str, how: Callable[..., Part]) -> None:
    right = getattr(Graph, method)

    def wrong(self: Graph, layer: int, states: np.ndarray) -> Part:
        return how(self, layer, states)

    wrong.__wrapped__ = right  # type: ignore[attr-defined]
    monkeypatch.setattr(Graph, method, wrong)


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("from_layer", a_wrong_node_off),
        ("without_attention", nodes_written_too_early),
        ("from_layer", wrong_rows),
    ],
)
@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_it_fails_on_a_graph_that_is_broken(
    arch: str,
    method: str,
    how: Callable[..., Part],
    tiny_file: Files,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch, method, how)
    with (
        Model(tiny_file(arch), threads=1) as model,
        pytest.raises(ModelError, match="resuming at layer"),
    ):
        check_resume(model)


@pytest.mark.parametrize("arch", ["llama", "gemma3"])
def test_it_fails_on_a_graph_that_is_stale(
    arch: str, tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its nodes are elsewhere in memory by one, and nobody notices when it is used."""
    monkeypatch.setattr(Graph, "check_in_memory", lambda self, first: None)
    made = Graph.__init__

    def moved(self: Graph, addresses: list[int], *rest: Any) -> None:
        made(self, addresses, *rest)
        self._offsets = np.roll(self._offsets, 1)

    monkeypatch.setattr(Graph, "__init__", moved)
    with (
        Model(tiny_file(arch), threads=1) as model,
        pytest.raises(ModelError, match="resuming at layer"),
    ):
        check_resume(model)


@pytest.mark.parametrize("wiped", [True, False])
def test_what_a_whole_pass_left_in_the_cache_does_not_stand_in(
    wiped: bool, tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that stores nothing is found out, and only because the cache is wiped before it."""
    monkeypatch.setattr(Graph, "keys_and_values", lambda graph, layer, states: graph.below(0))
    if not wiped:
        clear = Model.clear
        monkeypatch.setattr(Model, "clear", lambda self, wipe=False: clear(self))
    with Model(tiny_file("llama"), threads=1) as model:
        if wiped:
            with pytest.raises(ModelError, match="hold its past"):
                check_resume(model)
        else:
            check_resume(model)
