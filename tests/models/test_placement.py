"""How many layers go to which device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.errors import LocalprobeError
from localprobe.llama.devices import Device
from localprobe.models.header import read_header
from localprobe.models.placement import ALL, AUTO, Needs, needs, parse_gpu_layers, place

GB = 1e9


@dataclass(frozen=True)
class Card(Device):
    free: float = 0.0
    total: float = 0.0

    def memory(self) -> tuple[int, int]:
        return int(self.free), int(self.total)


def card(number: int, free: float, total: float | None = None) -> Card:
    total = free if total is None else total
    return Card(f"GPU{number}", "", "CUDA", "gpu", None, number, free * GB, total * GB)


def even(n_layer: int, size: float = 0.1, buffers: float = 0.2) -> Needs:
    return Needs((size * GB,) * (n_layer + 1), buffers * GB)


def counts(needed: Needs, cards: list[Card], asked: int | str) -> list[int]:
    placement = place(needed, cards, asked)
    return [dict(placement.shares).get(each, 0) for each in cards]


def test_layers_that_fit() -> None:
    assert counts(even(30), [card(0, 24)], ALL) == [31]
    assert counts(even(30), [card(0, 24)], 7) == [7]
    assert counts(even(30), [card(0, 24)], 400) == [31]
    assert counts(even(30), [card(0, 24), card(1, 24)], 15) == [8, 7]
    assert counts(even(30), [card(0, 24), card(1, 8)], ALL) == [24, 7]


def test_auto_leaves_a_margin() -> None:
    # (3 - 0.2 - 0.15 - 0.2) / 0.1
    assert counts(even(30), [card(0, 3)], AUTO) == [24]
    assert counts(even(30), [card(0, 0.3)], AUTO) == [0]
    assert counts(even(30), [card(0, 24), card(1, 24)], AUTO) == [16, 15]
    assert counts(even(30), [], AUTO) == []
    # What says nothing of its memory is taken at its word.
    assert counts(even(30), [card(0, 0, 0)], AUTO) == [31]


def test_where_shares_do_not_fit_devices_are_filled() -> None:
    # In proportion the last one would get too much: the output is large.
    needed = Needs((0.1 * GB,) * 10 + (2.0 * GB,), 0.1 * GB)
    assert counts(needed, [card(0, 3), card(1, 3)], ALL) == [6, 5]


def test_too_little_memory_is_said_with_figures() -> None:
    with pytest.raises(LocalprobeError) as caught:
        place(even(30), [card(0, 3)], ALL)
    assert str(caught.value) == (
        "31 of 31 layers need about 3.3 GB on GPU0, where 3.0 GB are free; with --gpu-layers 24 "
        "they fit"
    )


@given(
    st.lists(st.floats(0.001, 2), min_size=2, max_size=20),
    st.lists(st.floats(0, 20), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_auto_never_promises_more_than_there_is(
    layers: list[float], free: list[float], buffers: float
) -> None:
    needed = Needs(tuple(size * GB for size in layers), buffers * GB)
    cards = [card(number, size, 24) for number, size in enumerate(free)]
    placement = place(needed, cards, AUTO)
    first = len(layers) - placement.n_placed
    for where, count in placement.shares:
        assert needed.of(first, count) <= where.memory()[0]
        first += count
    assert first == len(layers) or not placement.shares
    # And what auto found can be asked for by its number.
    assert place(needed, cards, placement.n_placed) == placement


def test_what_a_model_needs(tiny_file: Callable[[str], Path]) -> None:
    header = read_header(tiny_file("llama"))
    size = {tensor.name: tensor.size for tensor in header.tensors}
    needed = needs(header, ctx=100)
    cache = 4 * 100 * 2 * (8 + 8)
    for block in range(4):
        weights = sum(n for name, n in size.items() if name.startswith(f"blk.{block}."))
        assert needed.layers[block] == weights + cache
    assert needed.layers[4] == size["output.weight"] + size["output_norm.weight"]
    assert needed.buffers == 4 * 100 * (2 * 4 * 100 + 16 * 32)
    # A model that answers with its own embeddings has a copy of them beside its last block.
    tied = read_header(tiny_file("gemma3"))
    embedding = next(t.size for t in tied.tensors if t.name == "token_embd.weight")
    assert needs(tied).layers[-1] >= embedding


@pytest.mark.parametrize("text", ["", "many", "-2", "1.5", "1e3", "٣", True])
def test_numbers_of_layers_that_are_none(text: str) -> None:
    with pytest.raises(LocalprobeError, match="--gpu-layers must be"):
        parse_gpu_layers(text)


def test_numbers_of_layers() -> None:
    asked = ["0", "31", "-1", "auto", "AUTO", 5, -1]
    assert [parse_gpu_layers(each) for each in asked] == [0, 31, -1, AUTO, AUTO, 5, -1]
