from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from localprobe.engine.answers import softmax
from localprobe.engine.full import Answer, FullEngine
from localprobe.errors import LocalprobeError
from localprobe.experiments.swap import Swap, SwapRow, _parting, flip_layer, pair_up, plan_swap
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
    assert _parting(answer(5, 6), answer(7, 6)) == ((), 5, 7)
    assert _parting(answer(5, 6), answer(5, 7)) == ((5,), 6, 7)
    assert _parting(answer(5, end=0), answer(5, 7)) == ((5,), 0, 7)
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
    if not swap._shared:
        assert row.p_modified == pytest.approx(float(donor[swap.modified_token]), rel=1e-5)
        assert row.follows == "modified"


def test_probabilities_after_a_shared_beginning(tiny_engine: Engines) -> None:
    """P is asked where the answers part: given the shared tokens, under the same injection."""
    engine = tiny_engine("llama")
    plan = plan_swap(Encoder(engine.model), "Chad is big", "Chad", "Mali")
    swap = Swap(engine, plan, [0], max_tokens=3)
    swap._shared = (40, 41)
    row = swap.rows()[0]
    expected = softmax(engine.answer([*plan.donor, 40, 41], max_tokens=1).logits)
    assert row.p_original == pytest.approx(float(expected[swap.original_token]), rel=1e-4)
    assert row.p_modified == pytest.approx(float(expected[swap.modified_token]), rel=1e-4)
    swap.original_token = int(expected.argmax())
    assert swap.rows()[0].follows == "original"
    swap.original_token, swap.modified_token = 0, int(expected.argmax())
    assert swap.rows()[0].follows == "modified"


def rows(*pairs: tuple[int, float, float]) -> list[SwapRow]:
    return [SwapRow(layer, "", original, modified, "", ()) for layer, original, modified in pairs]


def test_flip_layer() -> None:
    assert flip_layer(rows((0, 0, 1), (1, 1, 0), (2, 0, 1), (3, 1, 0), (4, 1, 0))) == 3
    assert flip_layer(rows((0, 1, 0), (5, 1, 0))) == 0
    assert flip_layer(rows((0, 1, 0), (5, 0, 1))) is None
    assert flip_layer(rows((0, 0.5, 0.5), (1, 0.6, 0.4))) == 1
    assert flip_layer([]) is None
