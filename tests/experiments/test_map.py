"""Maps and lenses of prompts: every number is one of whole passes, said as it should be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import oracle, spaced, tiny
from hypothesis import given
from hypothesis import strategies as st

from localprobe import LocalprobeError, Model, attention, lens, states, token_map
from localprobe.api import map_answer
from localprobe.engine.answers import softmax
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, only_at
from localprobe.experiments.map import METRICS, MapPlan, Measure, TokenMap, first_token
from localprobe.llama.text import Vocabulary
from localprobe.prompts.words import word_groups

PROMPT = "in Chad, now"
WORDS = ["in", " ", "Chad", ",", " ", "no"]  # the last token is never touched


def test_a_knockout_is_the_oracle(model: Model) -> None:
    found = token_map(model, PROMPT)
    assert list(found.tokens) == WORDS
    assert found.values.shape == (4, len(WORDS)) == found.top_ids.shape
    weights, tokens = tiny.build("llama"), model.loaded.model.tokenize(PROMPT)
    assert found.clean == pytest.approx(softmax(oracle.logits(weights, tokens)).max(), abs=1e-5)
    for row, layer in enumerate(found.layers):
        for group, at in enumerate(found.positions):
            expected = softmax(oracle.knocked_out(weights, tokens, at, int(layer)))
            assert found.values[row, group] == pytest.approx(expected[found.answer_id], abs=1e-5)
            assert found.top_ids[row, group] == expected.argmax()


@pytest.mark.parametrize("patch", ["knockout", "random", "shuffle", "freeze", "swap"])
@pytest.mark.parametrize("metric", METRICS)
def test_both_engines_say_the_same(model: Model, slow: Model, patch: str, metric: str) -> None:
    more = {"against": "by Peru, now"} if patch == "swap" else {}
    if metric == "logit-diff" and patch != "swap":
        more = {"against_answer": "z"}
    one, other = (token_map(each, PROMPT, patch, metric, **more) for each in (model, slow))  # type: ignore[arg-type]
    assert one.layers.tolist() == list(range(1 if patch == "freeze" else 0, 4))
    np.testing.assert_allclose(one.values, other.values, atol=2e-4)
    np.testing.assert_allclose(one.effect(), other.effect(), atol=2e-3)
    assert one.clean == pytest.approx(other.clean, abs=1e-4)
    assert one.needed() == other.needed()


def test_one_token_alone_is_that_of_the_engine(model: Model) -> None:
    found = token_map(model, PROMPT, "freeze", group="tokens", layers="2")
    engine = FullEngine(model.loaded.model)
    tokens = model.loaded.model.tokenize(PROMPT)
    assert len(found.tokens) == len(tokens) - 1
    for p in range(len(tokens) - 1):
        answer = engine.answer(tokens, max_tokens=1, intervention=only_at(Freeze(), [p]), layer=2)
        expected = softmax(answer.logits)[found.answer_id]
        assert found.values[0, p] == pytest.approx(expected, abs=1e-5)


def test_swaps_in_both_directions(model: Model) -> None:
    there = token_map(model, PROMPT, "swap", against="by Peru, now")
    back = token_map(model, PROMPT, "swap", against="by Peru, now", direction="denoising")
    assert there.metric == back.metric == "logit-diff"
    assert there.answer_id == back.answer_id and there.other_id == back.other_id
    assert there.clean == pytest.approx(back.there, abs=1e-4)
    assert back.clean == pytest.approx(there.there, abs=1e-4)
    assert "Chad/Peru" in there.tokens and "Peru/Chad" in back.tokens
    # What both prompts share before they differ has the same states in both.
    alike = token_map(model, PROMPT, "swap", swap=("Chad", "Peru"))
    for group, label in enumerate(alike.tokens[: WORDS.index("Chad")]):
        assert "/" not in label
        np.testing.assert_allclose(alike.values[:, group], alike.clean, atol=1e-4)


def test_a_map_for_every_token_of_the_answer(model: Model) -> None:
    plan = MapPlan(group="tokens")
    found = map_answer(model, PROMPT, plan, max_tokens=3)
    tokens = model.loaded.model.tokenize(PROMPT)
    answer = FullEngine(model.loaded.model).answer(tokens, max_tokens=3)
    assert [each.answer_id for each in found] == list(answer.all_tokens[:3])
    for written, each in enumerate(found):
        assert each.all_tokens == (*tokens, *answer.tokens[:written])
        assert len(each.tokens) == len(tokens) - 1 + written


def test_the_lens_follows_a_token(model: Model, slow: Model) -> None:
    found = lens(model, PROMPT, top=3)
    tokens = model.loaded.model.tokenize(PROMPT)
    expected = oracle.lens(tiny.build("llama"), tokens)
    assert found.probs.shape == found.ids.shape == (4, len(tokens))
    assert found.token_id == oracle.logits(tiny.build("llama"), tokens).argmax()
    for cell in np.ndindex(4, len(tokens)):
        shares = softmax(expected[cell])
        best = np.argsort(-shares)[:3]
        assert found.top_ids[cell].tolist() == best.tolist()
        np.testing.assert_allclose(found.top_probs[cell], shares[best], atol=1e-5)
        assert found.token_probs[cell] == pytest.approx(shares[found.token_id], abs=1e-5)
        assert found.token_ranks[cell] == 1 + (shares > shares[found.token_id]).sum()
    other = lens(slow, PROMPT, token="z", layers="1:")
    assert other.token == "z" and other.layers.tolist() == [1, 2, 3]
    np.testing.assert_allclose(other.probs, found.probs[1:], atol=1e-5)
    assert other.texts[0][0] == other.vocabulary[int(other.ids[0, 0])]


@pytest.mark.parametrize("like", [" is", "Paris"])
@pytest.mark.parametrize("text", ["Paris", " Paris", " Rome", "\nParis", "é"])
def test_the_first_token_of_an_answer_is_no_space_that_the_tokenizer_puts_in(
    text: str, like: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = spaced.write(tmp_path_factory.mktemp("spaced") / "spaced.gguf")
    with Vocabulary(path) as vocabulary:
        pieces = [vocabulary.piece(token) for token in range(vocabulary.info.n_vocab)]
        begins_so = like.encode()
        assert pieces[vocabulary.tokenize(" " + text.strip(), begin=False)[0]] == b"  "
        found = pieces[first_token(vocabulary, text, pieces.index(begins_so))]
    wanted = text if text[:1].isspace() or not like.startswith(" ") else " " + text
    whole = {"Paris": b"Paris", " Paris": b" Paris", " Rome": b" Rome", "\nParis": b"\n"}
    # What the vocabulary has no word for is spelt: its first byte, or the space before it.
    assert found == whole.get(wanted, b" " if wanted.startswith(" ") else b"\xc3")


def test_what_cannot_be_done_is_said(model: Model) -> None:
    for wrong, said in (
        ({"patch": "knokout"}, "did you mean knockout"),
        ({"metric": "probs"}, "did you mean prob"),
        ({"group": "word"}, "did you mean words"),
        ({"metric": "logit-diff"}, "against-answer"),
        ({"patch": "swap"}, "--against PROMPT2"),
        ({"against": "by Peru, now"}, "--patch swap"),
        ({"patch": "swap", "against": "by"}, "tokens"),
        ({"patch": "swap", "swap": ("Chat", "Peru")}, "OLD must be in the prompt"),
        ({"direction": "denoising"}, "--patch swap"),
        ({"window": 0}, "at least 1"),
        ({"patch": "freeze", "layers": "0"}, "freeze is defined from layer 1 on"),
        ({"layers": "9"}, "no layer 9"),
    ):
        with pytest.raises(LocalprobeError, match=said):
            token_map(model, PROMPT, **wrong)  # type: ignore[arg-type]
    for wrong in ({"top": 0}, {"token": ""}):
        with pytest.raises(LocalprobeError):
            lens(model, PROMPT, **wrong)  # type: ignore[arg-type]


def test_the_first_token_of_an_answer(model: Model) -> None:
    opened = model.loaded.model
    (space, letter) = opened.tokenize(" a")
    # As the answer itself begins: with a space, or without.
    assert first_token(opened, "ab", letter) == opened.tokenize("ab")[0]
    assert first_token(opened, "ab", space) == space == first_token(opened, " ab", letter)
    assert first_token(opened, "\n", space) == opened.tokenize("\n")[0]
    for like in (space, letter):
        with pytest.raises(LocalprobeError, match="no token"):
            first_token(opened, "", like)


def test_what_is_not_finite_is_marked(model: Model) -> None:
    measure = Measure("prob", 3, None, np.zeros(8, np.float32))
    logits = np.zeros((2, 8), np.float32)
    logits[1, 2] = np.nan
    values, probs, best, shares = measure.of(logits)
    assert values[0] == pytest.approx(1 / 8) and np.isnan([values[1], probs[1], shares[1]]).all()
    assert best.tolist() == [0, -1]


def by_hand(values: list[list[float]], **more: object) -> TokenMap:
    about: dict[str, object] = {
        "patch": "knockout",
        "metric": "prob",
        "window": None,
        "direction": "noising",
        "n_layer": len(values),
        "prompt": "a b",
        "all_tokens": (1, 2, 3),
        "tokens": ("a", "b"),
        "positions": ((0,), (1,)),
        "layers": np.arange(len(values)),
        "values": np.array(values),
        "probs": np.array(values),
        "top_ids": np.zeros((len(values), 2), int),
        "top_probs": np.array(values),
        "clean": 0.8,
        "clean_prob": 0.8,
        "there": None,
        "answer": " x",
        "answer_id": 1,
        "other": None,
        "other_id": None,
    }
    return TokenMap(**{**about, **more})  # type: ignore[arg-type]


def test_until_when_a_token_is_needed() -> None:
    found = by_hand([[0.1, 0.8], [0.3, 0.9], [0.5, 0.3], [0.8, 0.8]])
    np.testing.assert_allclose(found.effect()[:, 0], [0.875, 0.625, 0.375, 0])
    assert found.effect()[1, 1] == 0  # more than the clean answer is no loss
    assert found.needed() == [(1, 2, 3), (0, 0, 2)]
    assert by_hand([[0.8, 0.1]] * 3).needed() == [(1, 0, 3)]
    # Of later layers nothing is known; those that are needed as far as shown come first.
    early = by_hand([[0.8, 0.1], [0.1, 0.8]], n_layer=5)
    assert early.needed() == [(0, 1, None), (1, 0, 1)]
    back = by_hand([[0.1, 0.6], [0.2, 0.2]], clean=0.0, there=0.8, patch="swap")
    np.testing.assert_allclose(back.effect(), [[0.125, 0.75], [0.25, 0.25]])
    ranks = by_hand([[1, 1000], [10, 5000]], metric="rank", clean=1.0)
    np.testing.assert_allclose(ranks.effect(), [[0, 1], [1 / 3, 1]])


@given(st.text(max_size=12), st.lists(st.integers(0, 24), max_size=8))
def test_words_hold_every_token_once_and_cut_no_character(text: str, cuts: list[int]) -> None:
    data = text.encode(errors="replace")
    ends = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(ends)]
    groups = word_groups(pieces)
    assert [p for group in groups for p in group] == list(range(len(pieces)))
    for group in groups:
        b"".join(pieces[p] for p in group).decode()


def test_pieces_of_a_word_are_together() -> None:
    pieces = [
        b"",
        b"Tr",
        b"ans",
        b"formers",
        b" are",
        b" it",
        b"'s",
        b".",
        b"\n",
        b"\xe6",
        b"\x9d\xb1",
    ]
    assert word_groups(pieces) == [[0], [1, 2, 3], [4], [5], [6], [7], [8], [9, 10]]


def test_a_model_with_flash_attention_is_exact_for_a_while(
    tiny_file: Callable[[str], Path], model: Model
) -> None:
    with Model(tiny_file("llama"), threads=1, attention="flash") as flash:
        found = token_map(flash, PROMPT)
        seen, kept = lens(flash, PROMPT), states(flash, PROMPT)
        assert flash.loaded.model.attention == "flash"
    np.testing.assert_array_equal(found.values, token_map(model, PROMPT).values)
    # As on the command line, which has no other way for these.
    np.testing.assert_array_equal(seen.token_probs, lens(model, PROMPT).token_probs)
    np.testing.assert_array_equal(kept.values, states(model, PROMPT).values)


def test_they_show_themselves(model: Model, tmp_path: Path) -> None:
    found, seen = token_map(model, PROMPT), lens(model, PROMPT)
    looked = attention(model, PROMPT)
    for each in (found, seen, looked):
        each.plot(tmp_path / "found.png")
        assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
        assert len(each.plot().axes) == 2
        assert PROMPT in repr(each)
        (tmp_path / "found.png").unlink()
    for each in (found, seen):
        assert each._repr_html_().count("<td ") == 4 * len(each.tokens)
    with pytest.raises(LocalprobeError, match="png"):
        found.plot(tmp_path / "found.jpg")
