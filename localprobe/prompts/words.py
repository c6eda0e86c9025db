"""From words of a text to the positions of its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from localprobe.errors import LocalprobeError


def token_spans(pieces: Sequence[bytes], text: str) -> list[tuple[int, int]]:
    """The bytes [start, end) of `text` (UTF-8) that each token stands for.

    Tokens without text (the begin token) and spaces that the tokenizer puts in have empty spans.
    Raises LocalprobeError when the tokenizer changes the text (lower-cases it, say).
    """
    data = text.encode()
    spans, place = [], 0
    for piece in pieces:
        if piece[:1] == b" " and not data.startswith(piece, place):
            piece = piece[1:]
        if not data.startswith(piece, place):
            break
        spans.append((place, place + len(piece)))
        place += len(piece)
    if place < len(data) or len(spans) < len(pieces):
        raise LocalprobeError(
            "this model's tokenizer changes the text, so words cannot be found in it; "
            "give token positions instead (see localprobe tokens)"
        )
    return spans


def occurrences(word: str, text: str) -> list[tuple[int, int]]:
    """Where a word stands in a text, in characters: as a whole word if it does, else anywhere."""
    pattern = _whole(word) if is_word(word, text) else re.escape(word)
    return [match.span() for match in re.finditer(pattern, text)]


def is_word(word: str, text: str) -> bool:
    """Whether it stands in the text as a whole word."""
    return re.search(_whole(word), text) is not None


def did_you_mean_word(word: str, text: str) -> str:
    """A sentence tail for a word that is not in a text: what stands there instead, or nothing."""
    near = re.findall(re.escape(word), text, re.IGNORECASE) if word.strip() else []
    words = dict.fromkeys(re.findall(r"\w+", text))
    near = near or get_close_matches(word, words, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, dict.fromkeys(near)))}?" if near else ""


def _whole(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def tokens_of(span: tuple[int, int], text: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Positions of the tokens that hold any of the characters [start, end) of the text."""
    start, end = (len(text[:at].encode()) for at in span)
    return [i for i, (first, last) in enumerate(spans) if first < end and last > start]
