r"""Prompts as users give them: as text (\n is a newline), @FILE, or - for standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from localprobe.errors import LocalprobeError
from localprobe.llama.model import Model


def read_prompt(argument: str) -> str:
    """The text of a prompt argument.

    One newline at the end of a file or of standard input is dropped: editors put it there.
    Raises LocalprobeError for a file that cannot be read and for an empty prompt.
    """
    if argument == "-":
        text = _decode(sys.stdin.buffer.read(), "standard input")
    elif argument.startswith("@"):
        path = Path(argument[1:]).expanduser()
        try:
            text = _decode(path.read_bytes(), str(path))
        except OSError as error:
            raise LocalprobeError(f"cannot read the prompt {path}: {error.strerror}") from None
    else:
        text = unescape(argument)
    if not text.strip():
        raise LocalprobeError("the prompt is empty")
    return text


def unescape(argument: str) -> str:
    r"""An argument's text: \n written out is a newline."""
    return argument.replace("\\n", "\n")


def tokenize_prompt(model: Model, text: str) -> list[int]:
    """The tokens of a prompt that can be probed: one of them at least must be a past token."""
    tokens = model.tokenize(text)
    if len(tokens) < 2:
        raise LocalprobeError(
            f"the prompt {text!r} is a single token: there is no earlier token to write to"
        )
    return tokens


def _decode(data: bytes, source: str) -> str:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise LocalprobeError(f"{source} is not UTF-8 text") from None
    return text.removesuffix("\n")
