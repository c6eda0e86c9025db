"""Text of models, files and other strangers, made safe to show: nothing that a terminal obeys."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable

_SEPARATORS = ("Zl", "Zp")
_UNUSUAL = re.compile(r"[^ -~]")


def escaped(text: str) -> str:
    """The text with control, formatting and unassigned characters written out, as in Python.

    Escape sequences and bidirectional overrides are among them; newlines and tabs, too.
    """
    return _written_out(text, lambda char: char.encode("unicode_escape").decode())


def escaped_json(text: str) -> str:
    """The same for JSON, which says the same afterwards; its line ends stay."""
    return _written_out(text, lambda char: char if char == "\n" else json.dumps(char)[1:-1])


def is_obeyed(char: str) -> bool:
    """Whether a character does something, or stands for nothing, instead of being shown."""
    category = unicodedata.category(char)
    return category[0] == "C" or category in _SEPARATORS


def _written_out(text: str, write: Callable[[str], str]) -> str:
    return _UNUSUAL.sub(lambda found: write(found[0]) if is_obeyed(found[0]) else found[0], text)


def printable(text: str, most: int | None = 300) -> str:
    """Foreign text for a sentence of ours: one line of at most so many characters."""
    line = escaped(" ".join(text.split()))
    return line if most is None or len(line) <= most else line[: most - 1] + "…"
