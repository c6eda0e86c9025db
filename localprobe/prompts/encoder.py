r"""Prompts as users give them: as text (\n is a newline), @FILE, or - for standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localprobe.errors import LocalprobeError
from localprobe.files.cache import user_path
from localprobe.files.textfile import read_bytes
from localprobe.llama.model import Model
from localprobe.prompts.chat import ChatTemplate

_MOST = 1 << 26


def read_prompt(argument: str, what: str = "the prompt") -> str:
    """The text of a prompt argument; `what` it is called in errors.

    One newline at the end of a file or of standard input is dropped: editors put it there.
    Raises LocalprobeError for a file that cannot be read and for an empty prompt.
    """
    if argument == "-":
        if sys.stdin is None:
            raise LocalprobeError("standard input is closed")
        data = sys.stdin.buffer.read(_MOST + 1)
        if len(data) > _MOST:
            raise LocalprobeError(f"{what} is larger than {_MOST >> 20} MB")
        text = _decode(data, "standard input")
    elif argument.startswith("@"):
        path = user_path(argument[1:]) if argument[1:2] == "~" else Path(argument[1:])
        text = _decode(read_bytes(path, what, _MOST), str(path))
    else:
        text = unescape(argument)
    if not text.strip():
        raise LocalprobeError(f"{what} is empty")
    return text


def unescape(argument: str) -> str:
    r"""An argument's text: \n written out is a newline, and \\n is \n written out.

    Raises LocalprobeError for bytes that are not text in the user's encoding.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise LocalprobeError(f"{argument!r} is not valid text in your encoding") from None
    return re.sub(r"\\(\\n|n)", lambda found: "\n" if found[1] == "n" else found[1], argument)


@dataclass(frozen=True)
class Encoder:
    """From a prompt to the tokens that the model is given.

    chat: the chat template that prompts are put into, if any.
    """

    model: Model
    chat: ChatTemplate | None = None

    def tokens(self, prompt: str) -> list[int]:
        """Raises LocalprobeError where there would be no past token, and for control tokens."""
        if self.chat is None:
            tokens = self.model.tokenize(prompt)
        else:
            written = self.model.tokenize(prompt, control=True, begin=False)
            if any(map(self.model.is_control, written)):
                raise LocalprobeError("the prompt holds a control token of the model's own")
            text = self.chat.render(prompt)
            tokens = self.model.tokenize(text, control=True, begin=False)
            if not self.model.begins(tokens):
                tokens = self.model.tokenize(text, control=True)
        if len(tokens) < 2:
            raise LocalprobeError(
                f"the prompt {prompt!r} is a single token: there is no earlier token to write to"
            )
        return tokens

    def located(self, prompt: str) -> tuple[str, int]:
        """The whole text that the model is given, and where the prompt begins in it."""
        if self.chat is None:
            return prompt, 0
        text = self.chat.render(prompt)
        if text.count(prompt.strip()) != 1:
            raise LocalprobeError("--chat: the model's chat template repeats the prompt")
        # Templates may strip what they are given.
        return text, text.index(prompt.strip()) - (len(prompt) - len(prompt.lstrip()))

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes that the tokens stand for in the whole text."""
        return [self.model.piece(token, control=self.chat is not None) for token in tokens]


def _decode(data: bytes, source: str) -> str:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise LocalprobeError(f"{source} is not UTF-8 text") from None
    return text.removesuffix("\n")
