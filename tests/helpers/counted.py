"""How much is computed: told at every decode of a model, in all its contexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from localprobe.llama.batch import Batch
from localprobe.llama.graph import Graph
from localprobe.llama.model import Model


def watch(monkeypatch: pytest.MonkeyPatch, seen: Callable[[float, int], object]) -> None:
    """seen: is given the blocks that rows go through, and how many rows, before they do."""
    decode, decode_part = Model.decode, Model.decode_part

    def whole(model: Model, rows: Batch, *arguments: Any, **named: Any) -> Any:
        seen(model.n_layer, len(rows))
        return decode(model, rows, *arguments, **named)

    def part(model: Model, rows: Batch, chosen: Callable[[Graph], Any], **named: Any) -> Any:
        def noted(graph: Graph) -> Any:
            found = chosen(graph)
            everything = graph.work(graph.everything(), len(rows), 0)
            seen(model.n_layer * graph.work(found, len(rows), 0) / everything, len(rows))
            return found

        return decode_part(model, rows, noted, **named)

    # Of the class: lanes have models of their own.
    monkeypatch.setattr(Model, "decode", whole)
    monkeypatch.setattr(Model, "decode_part", part)
