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
    start, end = (len(text[:at].encode(errors="surrogateescape")) for at in span)
    return [i for i, (first, last) in enumerate(spans) if first < end and last > start]


_WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""Letters and digits in a row; Chinese and Japanese, which put no spaces, are left as they are."""


def word_groups(pieces: Sequence[bytes]) -> list[list[int]]:
    """The tokens of each word together, in order; what is no word stays token by token.

    pieces: the bytes of each token, control tokens empty. Tokens that hold parts of one character
    are together, too.
    """
    text = b"".join(pieces).decode(errors="surrogateescape")
    ends = [0]
    for character in text:
        ends.append(ends[-1] + len(character.encode(errors="surrogateescape")))
    may_cut = set(ends)
    for match in _WORD.finditer(text):
        may_cut -= {ends[place] for place in range(match.start() + 1, match.end())}
    groups: list[list[int]] = []
    place = 0
    for position, piece in enumerate(pieces):
        joins = groups and piece and pieces[position - 1] and place not in may_cut
        if joins:
            groups[-1].append(position)
        else:
            groups.append([position])
        place += len(piece)
    return groups
