"""The proofs of hiding and of the head: passed by every architecture, failed by what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ARCHITECTURES

from localprobe.engine.lens import by_head, by_whole_passes, check_head
from localprobe.engine.tokens_proof import check_hiding, check_hiding_resumed
from localprobe.errors import ModelError
from localprobe.llama import attention
from localprobe.llama.graph import Graph
from localprobe.llama.head import WriteLast
from localprobe.llama.model import Model

Files = Callable[[str], Path]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_they_pass(arch: str, tiny_file: Files) -> None:
    with Model(tiny_file(arch), threads=1) as model:
        check_hiding(model)
        check_hiding_resumed(model)
        for by in (by_head, by_whole_passes):
            check_head(model, by)


def change_graphs(monkeypatch: pytest.MonkeyPatch, change: Callable[[Graph], None]) -> None:
    made = Graph.__init__

    def changed(self: Graph, *arguments: Any) -> None:
        made(self, *arguments)
        change(self)

    monkeypatch.setattr(Graph, "__init__", changed)


@pytest.mark.parametrize("block", range(7))
def test_a_block_in_which_nothing_is_hidden_is_found_out(
    block: int, tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven, of which each does little: the others are hidden in."""

    def of_another(graph: Graph) -> None:
        graph.attention[block] = graph.attention[(block + 1) % 7]

    change_graphs(monkeypatch, of_another)
    with Model(tiny_file("gemma3"), threads=1) as model, pytest.raises(ModelError, match="sees"):
        check_hiding_resumed(model)


@pytest.mark.parametrize("hidden", [[], [0, 1, 2]])
def test_whole_passes_that_hide_nothing_or_all_are_found_out(
    hidden: list[int], tiny_file: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = attention.newest_cells

    def others(mask: np.ndarray) -> Any:
        cells = right(mask)

        class Cells:
            def __getitem__(self, _at: list[int]) -> Any:
                return cells[hidden]

        return Cells()

    monkeypatch.setattr(attention, "newest_cells", others)
    said = "all the others" if hidden else "still sees"
    with Model(tiny_file("llama"), threads=1) as model, pytest.raises(ModelError, match=said):
        check_hiding(model)


def test_a_wrong_last_state_is_found_out(tiny_file: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def earlier(graph: Graph) -> None:
        graph.state[-1] = graph.contribution[-1] or 0

    with monkeypatch.context() as patched:
        change_graphs(patched, earlier)
        with Model(tiny_file("llama"), threads=1) as model, pytest.raises(ModelError, match="lens"):
            check_head(model, by_head)
    monkeypatch.setattr(WriteLast, "computed", lambda *_: None)
    with Model(tiny_file("llama"), threads=1) as model, pytest.raises(ModelError, match="lens"):
        check_head(model, by_whole_passes)
