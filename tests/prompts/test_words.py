from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.errors import LocalprobeError
from localprobe.prompts.words import occurrences, token_spans, tokens_of


def test_whole_words_win_over_parts_of_words() -> None:
    assert occurrences("Niger", "Nigeria or Niger") == [(11, 16)]
    assert occurrences("Nig", "Nigeria or Niger") == [(0, 3), (11, 14)]
    assert occurrences("Mali", "Chad") == []
    assert occurrences("Côte", "la Côte.") == [(3, 7)]


def test_tokens_that_hold_any_part_of_a_word() -> None:
    pieces = [b"", b"What is", b" Fra", b"nce", b"?"]
    spans = token_spans(pieces, "What is France?")
    assert tokens_of((8, 14), "What is France?", spans) == [2, 3]
    assert tokens_of((14, 15), "What is France?", spans) == [4]


def test_a_space_that_the_tokenizer_puts_in_front() -> None:
    spans = token_spans([b" Paris", b" is"], "Paris is")
    assert spans == [(0, 5), (5, 8)]


def test_a_tokenizer_that_changes_the_text() -> None:
    with pytest.raises(LocalprobeError, match="changes the text"):
        token_spans([b"paris"], "Paris")


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8), st.data())
def test_every_character_belongs_to_its_tokens(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=6)))
    edges = [0, *cuts, len(encoded)]
    pieces = [encoded[a:b] for a, b in itertools.pairwise(edges)]
    spans = token_spans(pieces, text)
    at = data.draw(st.integers(0, len(text) - 1))
    covered = b"".join(pieces[i] for i in tokens_of((at, at + 1), text, spans))
    assert text[at].encode() in covered


def test_a_space_that_the_tokenizer_puts_after_a_control_token() -> None:
    pieces = [b"<s>", b" [", b"in", b" Chad", b"]"]
    assert token_spans(pieces, "<s>[in Chad]") == [(0, 3), (3, 4), (4, 6), (6, 11), (11, 12)]
    with pytest.raises(LocalprobeError, match="changes the text"):
        token_spans(pieces, "<s>[in Chad")
