"""Text to tokens and back, by the vocabulary of a loaded GGUF."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path

import llama_cpp.llama_cpp as llama

from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.devices import Placement
from localprobe.llama.interrupts import held_back
from localprobe.llama.rpc import Workers
from localprobe.llama.stack import with_stack
from localprobe.llama.weights import Weights

_LONG_TEXT, _LONG_TOKEN = 1 << 20, 64
# For some tokenizers llama.cpp uses std::regex, which calls itself for every character in a row:
# each takes some 300 bytes of the stack, which is 1 MB on Windows.
_SHORT_RUN, _LONGEST_RUN = 1_000, 500_000


class Vocabulary(Weights):
    """The tokens of a loaded GGUF. ctx: how many of them a text is expected to have, at most."""

    def __init__(
        self,
        path: Path,
        placement: Placement | None = None,
        workers: Workers | None = None,
        *,
        tiles: bool = False,
    ) -> None:
        super().__init__(path, placement, workers, tiles=tiles)
        self.ctx = self.info.n_ctx_train

    def tokenize(self, text: str, *, control: bool = False, begin: bool = True) -> list[int]:
        """Token ids of a text, with the begin token where the GGUF asks for it.

        control: look for control tokens in the text. What a user writes is plain text.
        begin: False where the begin token stands in the text already.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise LocalprobeError("the text holds half a surrogate pair, which is none") from None
        if len(data) > max(_LONG_TEXT, _LONG_TOKEN * self.ctx):
            raise LocalprobeError(
                f"a text of {len(data)} bytes is far too long for a context of {self.ctx} tokens"
            )
        longest = max(map(len, re.findall(r"\S+|\s+", text)), default=0)
        if longest > _LONGEST_RUN:
            raise LocalprobeError(
                f"the text has {longest} characters in a row without a space, more than "
                f"the {_LONGEST_RUN} that a tokenizer is trusted with; break it up"
            )

        def call() -> list[int]:
            room = len(data) + 8
            while True:
                ids = (llama.llama_token * room)()
                n = llama.llama_tokenize(self._vocab, data, len(data), ids, room, begin, control)
                if n >= 0:
                    return list(ids[:n])
                room = -n

        if longest > _SHORT_RUN:
            with held_back():
                tokens = with_stack((1 + longest // _SHORT_RUN) << 20, call)
        else:
            tokens = call()
        if not all(0 <= token < self.info.n_vocab for token in tokens):
            raise ModelError("the model's vocabulary has no token for a part of the text")
        # An end token that the GGUF asks for would end the prompt before it is answered.
        if begin and llama.llama_vocab_get_add_eos(self._vocab) and tokens:
            tokens.pop()
        return tokens

    def piece(self, token: int, *, control: bool = False) -> bytes:
        """The bytes of one token; control tokens are empty unless asked for."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = llama.llama_token_to_piece(self._vocab, token, buffer, room, 0, control)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.piece(token) for token in tokens).decode(errors="replace")

    def begins(self, tokens: Sequence[int]) -> bool:
        """Whether the begin token stands among the control tokens and spaces at the start."""
        begin = llama.llama_vocab_bos(self._vocab)
        for token in tokens:
            if token == begin:
                return True
            if not (self.is_control(token) or self.piece(token).isspace()):
                break
        return False

    def is_control(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_control(self._vocab, token))

    def chat_template(self) -> str:
        """The Jinja source of the GGUF's chat template; empty where it has none."""
        source = llama.llama_model_chat_template(self._model, None)
        return source.decode(errors="replace") if source else ""

    def special_texts(self) -> tuple[str, str]:
        """The texts of the begin and the end token; empty where the vocabulary has none."""
        vocab = self._vocab
        tokens = llama.llama_vocab_bos(vocab), llama.llama_vocab_eos(vocab)
        begin, end = (
            self.piece(t, control=True).decode(errors="replace") if t >= 0 else "" for t in tokens
        )
        return begin, end

    def ends_generation(self, token: int) -> bool:
        return bool(llama.llama_vocab_is_eog(self._vocab, token))
