"""What is said below a map and a lens is true of every cell that is shown, and of no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from localprobe.experiments.lens import Lens
from localprobe.experiments.map import TokenMap
from localprobe.report.map_files import lens_html, map_html
from localprobe.report.map_words import (
    both,
    clean_line,
    measured,
    quoted,
    share_of,
    what_it_found,
    what_the_lens_shows,
)


def a_map(values: list[list[float]], layers: list[int], n_layer: int, **more: object) -> TokenMap:
    """P by layer and token, of two tokens."""
    cells = np.array(values)
    about: dict[str, object] = {
        "patch": "knockout",
        "metric": "prob",
        "window": None,
        "direction": "noising",
        "n_layer": n_layer,
        "prompt": "a b c",
        "all_tokens": (1, 2, 3),
        "tokens": ("a", "b"),
        "positions": ((0,), (1,)),
        "layers": np.array(layers),
        "values": cells,
        "probs": cells,
        "top_ids": np.zeros(cells.shape, int),
        "top_probs": cells,
        "clean": 0.8,
        "clean_prob": 0.8,
        "there": None,
        "answer": "x",
        "answer_id": 1,
        "other": None,
        "other_id": None,
    }
    return TokenMap(**{**about, **more})  # type: ignore[arg-type]


def a_lens(says: list[bool], layers: list[int], n_layer: int) -> Lens:
    ids = np.array([[7 if each else 8] for each in says])
    return Lens(
        prompt="a",
        n_layer=n_layer,
        all_tokens=(1,),
        tokens=("a",),
        layers=np.array(layers),
        top_ids=ids[:, :, None],
        top_probs=np.ones((len(says), 1, 1)),
        vocabulary={7: "x", 8: "y"},
        token="x",
        token_id=7,
        token_probs=np.ones((len(says), 1)),
        token_ranks=np.ones((len(says), 1), int),
    )


LOST, THERE = 0.1, 0.8


@pytest.mark.parametrize(
    ("costs", "layers", "said"),
    [
        ("100", [0, 1, 2], "`a` is needed until layer 1 (33% of depth); hidden earlier: P 0.10"),
        ("111", [0, 1, 2], "`a` is needed at every layer shown; hidden there: P 0.10"),
        ("011", [0, 1, 2], "`a` is needed at every layer shown, from 1 on; hidden there: P 0.10"),
        ("101", [0, 1, 2], "`a` is needed up to layer 2, the last one shown; hidden earlier"),
        ("100", [0, 4, 8], "`a` is needed until layer 4 (44% of depth), as far as shown; hidden"),
        ("110", [6, 7, 8], "`a` is needed until layer 8 (89% of depth); hidden earlier"),
        ("110", [0, 7, 8], "`a` is needed until layer 8 (89% of depth); hidden earlier"),
    ],
)
def test_until_where_a_token_is_needed(costs: str, layers: list[int], said: str) -> None:
    values = [[LOST if each == "1" else THERE, THERE] for each in costs]
    first, _ = what_it_found(a_map(values, layers, layers[-1] + 1))
    assert first.startswith(said)


def test_the_worst_of_what_costs_nothing() -> None:
    """All of them have more than the clean P = 0.80: the least of them is the worst."""
    (only,) = what_it_found(a_map([[0.95, 0.9], [0.97, 0.85]], [0, 1], 2))
    assert only.endswith("P is 0.85 at worst (`b` hidden from layer 1 on)")
    back = a_map(
        [[-2.0, -3.0], [-4.0, -2.5]],
        [0, 1],
        2,
        patch="swap",
        metric="logit-diff",
        direction="denoising",
        clean=-1.0,
        there=5.0,
        other="y",
    )
    (only,) = what_it_found(back)
    assert only.endswith("the lead is -2.00 at best (`a` swapped at layer 0)")


def test_a_map_by_kl_is_of_the_distribution() -> None:
    far = {"metric": "kl", "clean": 0.0}
    lines = what_it_found(a_map([[2.0, 0.3], [0.1, 0.2]], [0, 1], 2, **far))
    assert lines == [
        "`a` matters until layer 1 (50% of depth); hidden earlier: KL 2.00",
        "no other token moves the distribution by KL > 0.69: KL is 0.30 at worst (`b` hidden from "
        "layer 0 on)",
    ]
    assert share_of(a_map([[2.0, 0.3]], [0], 1, **far)) == "1 - exp(-KL)"
    # What is halfway hangs on how far the other run is.
    swap = {"patch": "swap", "there": 4.0, "other": "y", **far}
    first, second = what_it_found(a_map([[2.0, 0.3], [0.1, 0.2]], [0, 1], 2, **swap))
    assert first.startswith("`a` matters until layer 1")
    assert second.startswith(
        "no other token moves the distribution more than halfway to the second"
    )
    found = a_map([[2.0, 0.3]], [0], 1, **swap)
    assert share_of(found) == "of the way to the second prompt, by KL from the clean distribution"


@pytest.mark.parametrize(
    ("says", "layers", "said"),
    [
        ([False, True], [0, 1], "says `x` from layer 1 on (50% of depth)"),
        ([False, True, True], [0, 4, 8], "layer 4 on (44% of depth), as far as shown"),
        ([True, False], [0, 1], "does not say `x` at layer 1, the last one shown"),
    ],
)
def test_from_where_on_the_lens_says_it(says: list[bool], layers: list[int], said: str) -> None:
    assert what_the_lens_shows(a_lens(says, layers, layers[-1] + 1)).endswith(said)


def test_attend_first_is_said_of_whole_maps_alone() -> None:
    cells = [[LOST, THERE], [THERE, THERE], [THERE, THERE]]
    found, seen = a_map(cells, [0, 1, 2], 3), a_lens([False, False, True], [0, 1, 2], 3)
    assert both(found, seen).startswith("attend first: `a` is read until layer 1; consolidate")
    assert not both(a_map(cells, [0, 4, 8], 9), a_lens([False, False, True], [0, 4, 8], 9))


def test_tokens_that_stand_twice_are_told_apart() -> None:
    cells = [[LOST, 0.6], [THERE, THERE]]
    found = a_map(cells, [0, 1], 2, tokens=(" b", "b"), positions=((0,), (1, 2)))
    needed, others = what_it_found(found)
    assert needed.startswith("` b` (0) is needed until layer 1")
    assert others.endswith("(`b` (1–2) hidden from layer 0 on)")
    assert both(found, a_lens([False, True], [0, 1], 2)).startswith("attend first: ` b` (0) is")


def test_an_end_token_has_a_name() -> None:
    assert quoted("") == "(end)" and quoted(" ") == "` `"
    found = a_map([[LOST, THERE]], [0], 1, answer="")
    assert clean_line(found) == "clean answer: (end), P = 0.80"
    assert measured(found) == "P(end)"


def test_an_end_token_has_a_name_in_pages() -> None:
    seen = a_lens([True, False], [0, 1], 2)
    text = lens_html(replace(seen, token="", vocabulary={7: "", 8: "y"}))
    assert "says (end) (1.00); P(end) = 1.00" in text and "&#x27;&#x27;" not in text
    assert "P(end) = 0.10, `a` at layer 0" in map_html(a_map([[0.1, 0.8]], [0], 1, answer=""))
