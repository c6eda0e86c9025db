from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.engine.answers import softmax
from localprobe.engine.full import Answer, FullEngine
from localprobe.errors import LocalprobeError
from localprobe.experiments.swap import (
    Parting,
    Swap,
    SwapRow,
    _parting,
    flip_layer,
    pair_up,
    plan_swap,
)
from localprobe.prompts.encoder import Encoder

Engines = Callable[[str], FullEngine]


def test_equal_words_go_token_for_token(tiny_engine: Engines) -> None:
    plan = plan_swap(Encoder(tiny_engine("llama").model), "in Chad now", "Chad", "Mali")
    assert (plan.at, plan.donor_at) == ((3, 4, 5, 6), (3, 4, 5, 6))
    assert plan.token_for_token
    assert bytes(plan.donor) == b"in Mali now"


def test_unequal_words_go_by_their_last_token(tiny_engine: Engines) -> None:
    plan = plan_swap(Encoder(tiny_engine("llama").model), "in Chad now", "Chad", "Benin")
    assert (plan.at, plan.donor_at) == ((6,), (7,))
    assert not plan.token_for_token


def test_every_place_of_the_word_is_swapped(tiny_engine: Engines) -> None:
    plan = plan_swap(Encoder(tiny_engine("llama").model), "Oz, xOz, Oz!", "Oz", "Elf")
    assert bytes(plan.donor) == b"Elf, xOz, Elf!"
    assert (plan.at, plan.donor_at) == ((1, 10), (2, 12))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Peru", "Cuba", "'Peru' is not in the prompt"),
        ("now", "then", "last token of the prompt"),
        ("Chad", "Chad", "the same word"),
        ("", "x", "must not be empty"),
        ("Chad", " ", "must not be empty"),
    ],
)
def test_what_is_refused(old: str, new: str, message: str, tiny_engine: Engines) -> None:
    with pytest.raises(LocalprobeError, match=message):
        plan_swap(Encoder(tiny_engine("llama").model), "in Chad now", old, new)


def test_pair_up() -> None:
    assert pair_up([1, 2], [7, 8]).at == (1, 2)
    assert pair_up([1, 2, 3], [7]).at == (3,)
    assert pair_up([1], [7, 8]).donor_at == (8,)


def answer(*tokens: int, end: int | None = None) -> Answer:
    return Answer(tokens, "", np.zeros(1, np.float32), end)


def test_answers_part_at_the_first_token_that_differs() -> None:
    assert _parting(answer(5, 6), answer(7, 6)) == Parting((), 5, 7)
    assert _parting(answer(5, 6), answer(5, 7)) == Parting((5,), 6, 7)
    assert _parting(answer(5, end=0), answer(5, 7)) == Parting((5,), 0, 7)
    with pytest.raises(LocalprobeError, match="alike"):
        _parting(answer(5, 6), answer(5, 6))


def test_at_layer_0_and_with_the_whole_past_swapped_the_donor_speaks(tiny_engine: Engines) -> None:
    """Where OLD and NEW cover all that differs, a swap at layer 0 is the donor itself."""
    engine = tiny_engine("qwen2")
    plan = plan_swap(Encoder(engine.model), "Chad is big", "Chad", "Mali")
    swap = Swap(engine, plan, [0], max_tokens=3)
    row = swap.rows()[0]
    assert row.text == swap.modified.text
    donor = softmax(engine.answer(plan.donor, max_tokens=1).logits)
    assert row.top[0].prob == pytest.approx(float(donor.max()), rel=1e-5)
    assert row.follows == "modified"
    if not swap.parting.shared:
        assert row.p_modified == pytest.approx(float(donor[swap.parting.modified]), rel=1e-5)


def test_probabilities_after_a_shared_beginning(tiny_engine: Engines) -> None:
    """P is asked where the answers part: given the shared tokens, under the same injection."""
    engine = tiny_engine("llama")
    plan = plan_swap(Encoder(engine.model), "Chad is big", "Chad", "Mali")
    swap = Swap(engine, plan, [0], max_tokens=3)
    swap.parting = Parting((40, 41), 7, 8)
    row = swap.rows()[0]
    expected = softmax(engine.answer([*plan.donor, 40, 41], max_tokens=1).logits)
    assert row.p_original == pytest.approx(float(expected[7]), rel=1e-4)
    assert row.p_modified == pytest.approx(float(expected[8]), rel=1e-4)
    # What is shown as followed is what the answer beside it says, not what is likely after 40, 41.
    said = swap.modified.all_tokens
    assert row.follows == "neither"
    swap.parting = Parting(said[:2], said[2], 0)
    assert swap.rows()[0].follows == "original"
    swap.parting = Parting(said[:2], 0, said[2])
    assert swap.rows()[0].follows == "modified"


def test_what_an_answer_follows() -> None:
    at_once = Parting((), 5, 7)
    assert [at_once.follows(answer(*each)) for each in ((5, 1), (7,), (8, 5), ())] == [
        "original",
        "modified",
        "neither",
        "neither",
    ]
    later = Parting((3,), 0, 7)
    assert later.follows(answer(3, end=0)) == "original"
    assert later.follows(answer(3, 7, 2)) == "modified"
    assert [later.follows(each) for each in (answer(4, 7), answer(end=0), answer(3))] == [
        "neither"
    ] * 3


rows_of = st.lists(st.sampled_from(["original", "modified", "neither"]))


@given(rows_of)
def test_the_flip_layer_is_true_of_every_row_shown(follows: list[str]) -> None:
    rows = [SwapRow(layer, "", 0.5, 0.5, each, ()) for layer, each in enumerate(follows)]
    flip = flip_layer(rows)
    if flip is None:
        assert not follows or follows[-1] != "original"
    else:
        assert {row.follows for row in rows[flip:]} == {"original"}
        assert flip == 0 or rows[flip - 1].follows != "original"


@pytest.mark.parametrize(
    ("old", "meant"),
    [
        ("chad", "'Chad'"),
        ("Chat", "'Chad'"),
        ("new york", "'New York'"),
        ("Zimbabwe", None),
    ],
)
def test_what_may_have_been_meant(old: str, meant: str | None, tiny_engine: Engines) -> None:
    with pytest.raises(LocalprobeError, match="is not in the prompt") as error:
        plan_swap(Encoder(tiny_engine("llama").model), "in Chad and New York now", old, "x")
    hint = str(error.value).partition("; did you mean ")[2]
    assert hint == ("" if meant is None else f"{meant}?")
