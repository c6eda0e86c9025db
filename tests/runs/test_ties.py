"""What near ties could make of scores and claims, held to every way that they can fall."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.runs.rows import Row, from_json, to_json
from localprobe.runs.tally import Column, Reach, Tally

LAYERS = (0, 1, 2)
COLUMNS = {
    "skip": [Column("skip", "m", LAYERS)],
    "swap": [Column("swap", "original", LAYERS), Column("swap", "modified", LAYERS)],
}
could = st.tuples(st.integers(0, 1), st.booleans())
"""A score, and whether a near tie could turn it."""


def near_tie(row: Row, turning: set[str]) -> Row:
    return replace(row, near_tie=bool(turning), ties=dict.fromkeys(sorted(turning), (0.0, 1.0)))


def counted(rows: list[Row], patch: str) -> Tally:
    tally = Tally(COLUMNS[patch], "m")
    for row in rows:
        tally.add(row)
    return tally


def outcomes(rows: list[Row]) -> list[list[Row]]:
    """Every way in which the near ties of some rows can fall."""
    ways = []
    for row in rows:
        ends = [sorted({score, *row.could_score(metric)}) for metric, score in row.scores.items()]
        ways.append(
            [
                replace(row, scores=dict(zip(row.scores, each, strict=True)))
                for each in product(*ends)
            ]
        )
    return [list(way) for way in product(*ways)]


@st.composite
def rows_of(draw: st.DrawFn, patch: str) -> list[Row]:
    metrics = [column.metric for column in COLUMNS[patch]]
    rows, n_turning = [], 0
    for example in range(draw(st.integers(1, 3))):
        for layer in (None, *LAYERS):
            scores, turning = {}, set()
            for metric in ["m"] if layer is None else metrics:
                score, turns = draw(could)
                scores[metric] = float(score)
                if turns and n_turning < 7:
                    turning.add(metric)
                    n_turning += 1
            name = "clean" if layer is None else patch
            rows.append(near_tie(Row(example, name, layer, "", scores, ()), turning))
    return rows


@pytest.mark.parametrize("patch", ["skip", "swap"])
@given(st.data())
def test_no_way_to_fall_is_left_out(patch: str, data: st.DataObject) -> None:
    rows = data.draw(rows_of(patch))
    tally = counted(rows, patch)
    reach = tally.reach(patch)
    assert reach is not None
    found = [counted(way, patch) for way in outcomes(rows)]
    for column in COLUMNS[patch]:
        for layer in LAYERS:
            score = tally.score(patch, column.metric, layer)
            assert score is not None
            each = [other.score(patch, column.metric, layer) for other in found]
            means = [other.score for other in each if other is not None]
            assert (score.ties_low, score.ties_high) == (min(means), max(means))
    places = [other.transition(patch) for other in found]
    there = [place for place in places if place is not None]
    if there:
        assert reach.earliest is not None
        assert reach.earliest <= min(there)
    if reach.latest is not None:
        assert None not in places
        assert max(there) <= reach.latest
    if all(not tally.is_open(column, layer) for column in COLUMNS[patch] for layer in LAYERS):
        assert set(places) == {tally.transition(patch)}
        assert reach == Reach(tally.transition(patch), tally.transition(patch))


@given(rows_of("skip"))
def test_ties_that_change_nothing_leave_every_claim(rows: list[Row]) -> None:
    harmless = [replace(row, near_tie=True, ties={}) for row in rows]
    tally = counted(harmless, "skip")
    assert (tally.n_near_ties, tally.n_turning) == (len(rows), 0)
    assert tally.reach("skip") == Reach(tally.transition("skip"), tally.transition("skip"))


def test_a_claim_that_hangs_on_one_tie() -> None:
    clean = [Row(n, "clean", None, "", {"m": 1.0}, ()) for n in range(2)]
    right = [Row(n, "skip", k, "", {"m": 1.0}, ()) for n in range(2) for k in (1, 2)]
    wrong = [Row(n, "skip", 0, "", {"m": 0.0}, ()) for n in range(2)]
    tied = near_tie(right[0], {"m"})
    tally = counted([*clean, *right[1:], *wrong, tied], "skip")
    assert tally.transition("skip") == 1
    assert tally.reach("skip") == Reach(1, 2)
    (column,) = COLUMNS["skip"]
    assert [tally.is_open(column, k) for k in LAYERS] == [False, True, False]
    # Of a baseline that may be lower, less is asked.
    tally = counted([near_tie(clean[0], {"m"}), clean[1], *right[1:], *wrong, tied], "skip")
    assert tally.reach("skip") == Reach(1, 2)
    # And where it may be nothing, there may be nothing to lose.
    bare = counted([near_tie(clean[0], {"m"}), *(r for r in right if r.example == 0)], "skip")
    assert bare.reach("skip") == Reach(1, None)


def test_what_was_not_measured_is_not_claimed() -> None:
    tally = Tally(COLUMNS["skip"], "m", knows_near_ties=False)
    for layer in LAYERS:
        tally.add(Row(0, "skip", layer, "", {"m": 1.0}, ()))
    score = tally.score("skip", "m", 0)
    assert score is not None
    assert (score.ties_low, score.ties_high, tally.reach("skip")) == (None, None, None)


def test_ties_in_a_row_that_are_none() -> None:
    row = near_tie(Row(0, "skip", 1, "", {"m": 1.0}, ()), {"m"})
    line = to_json(row)
    assert from_json(line) == row
    assert '"ties":{"m":[0.0,1.0]}' in line
    for wrong in (
        '{"m":[0.0,0.5]}',
        '{"m":[0.5]}',
        '{"m":5}',
        '{"m":[0.0,2.0]}',
        '{"m":["0",1.0]}',
        '{"m":[-1.0,1.0]}',
        '{"n":[0.0,1.0]}',
        "[]",
        "7",
    ):
        with pytest.raises(ValueError, match="ties"):
            from_json(line.replace('{"m":[0.0,1.0]}', wrong))
    with pytest.raises(ValueError, match="ties"):
        from_json(line.replace('"near_tie":true', '"near_tie":false'))
    for wrong in ('"accepted":"x"', '"accepted":[1]', '"prompt":4', '"subject":null', '"new":[]'):
        with pytest.raises(ValueError, match=wrong.split('"')[1]):
            from_json(line.replace('"near_tie"', f'{wrong},"near_tie"'))
