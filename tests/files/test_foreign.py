"""Nothing of a stranger's text is obeyed by a terminal, and nothing of it is lost."""

from __future__ import annotations

import codecs
import json

from hypothesis import example, given
from hypothesis import strategies as st

from localprobe.files.foreign import escaped, escaped_json, is_obeyed, printable


@given(st.text())
@example("\x1b[31m \x9b \u202e \u2028 \ud800 \x7f")
def test_what_is_obeyed_is_written_out(text: str) -> None:
    for shown in (escaped(text), printable(text), escaped_json(json.dumps(text))):
        assert not any(map(is_obeyed, shown))


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)))
@example(["\x1b", "\x7f\x9b\u202e", "\ud800"])
def test_json_says_the_same(value: object) -> None:
    for indent in (None, 2):
        assert (
            json.loads(escaped_json(json.dumps(value, ensure_ascii=False, indent=indent))) == value
        )


@given(st.text(st.characters(max_codepoint=0xFF, exclude_characters="\\")))
def test_what_was_written_out_can_be_read_back(text: str) -> None:
    assert codecs.decode(escaped(text).encode("latin-1"), "unicode_escape") == text


def test_what_is_usual_is_left() -> None:
    for text in ("São Tomé é ∑ 漢 😀 ~ §", "a b", ""):
        assert escaped(text) == text
    assert printable("a\n b\t\tc") == "a b c"
    assert printable("abcdef", 4) == "abc…"
