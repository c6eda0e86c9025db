"""Which layers a descent tries, and what it makes of them."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.runs.descent import Descent, Walk, counted, next_cell, own_transitions, walked
from localprobe.runs.rows import CLEAN, Row

METRIC = "exact_match"
LAYERS = range(6)


def row(layer: int, right: bool, ties: tuple[float, float] | None = None) -> Row:
    near = ties is not None
    ranges = {METRIC: ties} if ties else None
    return Row(0, "freeze", layer, "", {METRIC: float(right)}, (), near_tie=near, ties=ranges)


@pytest.mark.parametrize(
    ("downwards", "patience", "tried", "own", "has_gap"),
    [
        ("110000", 1, 3, 4, False),
        ("110000", 2, 4, 4, False),
        ("110000", 9, 6, 4, False),
        ("111111", 2, 6, 0, False),
        ("000000", 2, 2, None, False),
        ("101001", 1, 2, 5, False),
        ("101001", 2, 5, 3, True),
        ("101001", 3, 6, 0, True),
        ("010011", 2, 4, 4, True),
        ("010011", 1, 1, None, False),
    ],
)
def test_a_walk(downwards: str, patience: int, tried: int, own: int | None, has_gap: bool) -> None:
    holds = {5 - n: each == "1" for n, each in enumerate(downwards)}
    walk, asked = Walk(Descent(patience), 0, "freeze"), []
    for layer in reversed(LAYERS):
        if walk.wants(layer):
            asked.append(layer)
            walk.saw(layer, holds[layer])
    assert asked == list(reversed(LAYERS))[:tried]
    assert (walk.own, walk.has_gap) == (own, has_gap)
    of_all = walked(LAYERS, holds, Descent(patience))
    assert (of_all.layer, of_all.has_gap, of_all.checked) == (own, has_gap, 6 - tried)
    assert of_all.back == sum(holds[layer] for layer in range(6 - tried))


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(1, 3), st.integers(0, 2))
def test_rows_are_asked_for_until_there_are_all(holds: list[bool], patience: int, seed: int):
    descent = Descent(patience, check=0.4, seed=seed)
    cells = [("freeze", layer) for layer in reversed(LAYERS)]
    have: dict[tuple[str, int], Row] = {}
    walk = Walk(descent, 3, "freeze")
    expected = []
    for layer in reversed(LAYERS):
        if walk.wants(layer):
            expected.append(layer)
            walk.saw(layer, holds[layer])
    while (cell := next_cell(cells, have, descent, 3, METRIC)) is not None:
        have[cell] = row(cell[1], holds[cell[1]])
    assert [layer for _, layer in have] == expected


def test_what_is_checked_depends_on_nothing_else() -> None:
    few, many = Descent(2, 0.1, 5), Descent(2, 0.3, 5)
    cells = list(product(range(40), ("freeze", "skip"), range(20)))
    first = {cell for cell in cells if few.checks(*cell)}
    assert first < {cell for cell in cells if many.checks(*cell)}
    assert 0.07 < len(first) / len(cells) < 0.13
    assert not any(Descent(2, 0.0).checks(*cell) for cell in cells)
    assert all(Descent(2, 1.0).checks(*cell) for cell in cells)


Cell = tuple[bool, bool]  # right, and whether a near tie could make it otherwise


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=6))
def test_near_ties_are_held_to_every_way_they_can_fall(cells: list[Cell]) -> None:
    """Below where the walk ended, another walk would have found what nobody knows: anything."""
    descent = Descent(2)
    rows, walk = {}, Walk(descent, 0, "")
    for layer in reversed(LAYERS):
        if walk.wants(layer):
            right, turns = cells[layer]
            rows[layer] = row(layer, right, (0.0, 1.0) if turns else None)
            walk.saw(layer, right)
    found = {one.layer: one for one in counted(LAYERS, rows, METRIC, descent)}
    free = [k for k in LAYERS if k not in rows or cells[k][1]]
    lowest, highest = dict.fromkeys(LAYERS, 1.0), dict.fromkeys(LAYERS, 0.0)
    for outcome in product((False, True), repeat=len(free)):
        holds = {k: cells[k][0] for k in LAYERS} | dict(zip(free, outcome, strict=True))
        other = Walk(descent, 0, "")
        for layer in reversed(LAYERS):
            score = 0.0 if other.is_over else float(holds[layer])
            other.saw(layer, holds[layer])
            lowest[layer] = min(lowest[layer], score)
            highest[layer] = max(highest[layer], score)
    for layer in LAYERS:
        is_assumed = layer not in rows
        assert found[layer].is_assumed == is_assumed
        assert found[layer].score == (0.0 if is_assumed else float(cells[layer][0]))
        assert found[layer].could == (lowest[layer], highest[layer])


def test_own_transitions_are_of_examples_with_something_to_lose() -> None:
    rows = []
    for example, right in enumerate((True, False, True)):
        rows.append(Row(example, CLEAN, None, "", {METRIC: float(right)}, ()))
        for layer in range(3):
            score = {METRIC: float(layer > example)}
            rows.append(Row(example, "skip", layer, "", score, ()))
    found = own_transitions(rows, "skip", range(3), METRIC, Descent(2))
    assert {example: own.layer for example, own in found.items()} == {0: 1, 2: None}


@given(
    so_far=st.lists(st.booleans(), max_size=8),
    to_come=st.lists(st.booleans(), min_size=6, max_size=6),
    patience=st.integers(1, 4),
    check=st.sampled_from([0.0, 0.4]),
)
def test_what_is_certain_to_be_wanted_does_not_depend_on_what_comes(
    so_far: list[bool], to_come: list[bool], patience: int, check: float
) -> None:
    descent, top = Descent(patience, check), 20
    walk = Walk(descent, 1, "freeze")
    for layer, held in zip(range(top, 0, -1), so_far, strict=False):
        if walk.wants(layer):
            walk.saw(layer, held)
    layers = range(top - len(so_far), 0, -1)[: len(to_come)][: walk.certain]
    known = [walk.wants(layer) for layer in layers]
    assert layers
    for layer, held, before in zip(layers, to_come, known, strict=False):
        assert walk.wants(layer) == before
        if before:
            walk.saw(layer, held)
