"""Text of models, files and other strangers, made safe to show: nothing that a terminal obeys."""

from __future__ import annotations

import re
import unicodedata

_SEPARATORS = ("Zl", "Zp")
# Nearly all text is of these alone.
_PLAIN = re.compile(r"[ -~]*")


def escaped(text: str) -> str:
    """The text with control, formatting and unassigned characters written out, as in Python.

    Escape sequences and bidirectional overrides are among them; newlines and tabs, too.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(
        char.encode("unicode_escape").decode() if is_obeyed(char) else char for char in text
    )


def is_obeyed(char: str) -> bool:
    """Whether a character does something, or stands for nothing, instead of being shown."""
    category = unicodedata.category(char)
    return category[0] == "C" or category in _SEPARATORS


def printable(text: str, most: int | None = 300) -> str:
    """Foreign text for a sentence of ours: one line of at most so many characters."""
    line = escaped(" ".join(text.split()))
    return line if most is None or len(line) <= most else line[: most - 1] + "…"
