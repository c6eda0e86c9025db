"""A GGUF model in llama.cpp: load, tokenize, and forward passes that can be edited."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from localprobe.errors import LocalprobeError, ModelError, NotFiniteError
from localprobe.files.foreign import printable
from localprobe.llama import ggml
from localprobe.llama.batch import Batch, sequence_rows
from localprobe.llama.graph import Graph, Part, Recorder, Rerun, StaleGraphError
from localprobe.llama.hooks import EvalHook, NodeVisitor, NoVisitor
from localprobe.llama.interrupts import held_back
from localprobe.llama.memory import check_fits
from localprobe.llama.residual import Edit, EmbeddingSearch, FloatArray, ForwardPass
from localprobe.llama.stack import with_stack

GGUF_MAGIC = b"GGUF"
_CONTEXT_STEP = 256
_LONG_TEXT, _LONG_TOKEN = 1 << 20, 64
# For some tokenizers llama.cpp uses std::regex, which calls itself for every character in a row:
# each takes some 300 bytes of the stack, which is 1 MB on Windows.
_SHORT_RUN, _LONGEST_RUN = 1_000, 500_000
_LOG_LEVEL_ERROR = 4

_log: list[str] = []


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _user_data: object) -> None:
    if level == _LOG_LEVEL_ERROR:
        _log.append(text.decode(errors="replace").strip())


@dataclass(frozen=True)
class ModelInfo:
    """What a GGUF says of itself. sliding_window: in tokens, 0 where no block has one."""

    architecture: str
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_vocab: int
    n_ctx_train: int
    sliding_window: int
    n_params: int
    file_type: str
    tokenizer: str
    adds_bos: bool


class NoEdit:
    """A clean forward pass."""

    layers: frozenset[int] = frozenset()
    attention_off_from: int | None = None

    def apply(self, layer: int, states: FloatArray) -> FloatArray | None:
        return None


class Model:
    """A loaded GGUF and its KV cache.

    The KV cache is float32 and flash attention (which rounds keys and values to float16) is off:
    exactness comes before the few percent that they would bring.

    threads: CPU threads, 0 for all cores. gpu_layers: blocks to place on the GPU, -1 for all.
    ctx: the longest sequence in tokens, 0 for as long as needed up to the training context.

    Raises ModelError when the file is not a GGUF that llama.cpp can read.
    """

    def __init__(self, path: Path, *, threads: int = 0, gpu_layers: int = 0, ctx: int = 0) -> None:
        self.path = path
        self._open_context: int | None = None
        self._open_model: int | None = None
        self._n_ctx = 0
        self._n_sequences = 1
        self.devices = f"gpu {gpu_layers}"
        self._hook = EvalHook()
        self._embedding: bytes | None = None
        self._graph: Graph | None = None
        self._threads = _checked_threads(threads)
        self._open_model = _load(path, gpu_layers)
        self.info = self._read_info()
        self.n_layer, self.n_embd = self.info.n_layer, self.info.n_embd
        # llama.cpp turns positions by other factors once the context is longer than that of the
        # first training. Within a model it must be always the ones, or always the others.
        before_longrope = self._context_before_longrope()
        self.ctx = ctx or min(self.info.n_ctx_train, before_longrope or self.info.n_ctx_train)
        self._least_ctx = before_longrope + 1 if 0 < before_longrope < self.ctx else 0
        if self.ctx > self.info.n_ctx_train:
            raise LocalprobeError(
                f"a context of {ctx} tokens is more than the {self.info.n_ctx_train} that the "
                "model was trained with"
            )

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back. The model cannot be used afterwards."""
        self._free_context()
        if self._open_model is not None:
            llama.llama_model_free(self._open_model)
            self._open_model = None

    def _free_context(self) -> None:
        if self._open_context is not None:
            llama.llama_free(self._open_context)
            self._open_context = None

    # llama.cpp reads from whatever address it is given: none of a closed model may reach it.

    @property
    def _model(self) -> int:
        if self._open_model is None:
            raise LocalprobeError(f"the model {self.path} is closed; open it again")
        return self._open_model

    @property
    def _vocab(self) -> Any:
        return llama.llama_model_get_vocab(self._model)

    @property
    def _context(self) -> int:
        if self._open_context is None:
            self._make_room(1, keep=False)
        assert self._open_context is not None
        return self._open_context

    # Text and tokens

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

    # Forward passes

    def evaluate(self, tokens: Sequence[int], start: int, edit: Edit) -> FloatArray:
        """Decode `tokens` at positions start, start+1, …; logits (n_vocab,) of the last one.

        What the KV cache held at `start` and after is forgotten first.
        Raises ModelError when the graph lacks what the edit needs, and LocalprobeError when the
        sequence is longer than the context.
        """
        self.check_length(start + len(tokens))
        self._make_room(start + len(tokens), keep=start > 0)
        if start == 0:
            self.clear()
        else:
            self.forget(0, start)
        last: FloatArray = self.decode(Batch(sequence_rows(tokens, start)), edit)[0]
        return last

    def plain_logits(self, tokens: Sequence[int]) -> FloatArray:
        """Logits (n_vocab,) of the last token, without a look at any state."""
        self.check_length(len(tokens))
        self._make_room(len(tokens), keep=False)
        self.clear()
        last: FloatArray = self._decode(Batch(sequence_rows(tokens, 0)), NoVisitor())[0]
        return last

    def decode(self, rows: Batch, edit: Edit) -> FloatArray:
        """Decode rows with an edit; logits (n_outputs, n_vocab) of those that ask for them.

        Raises ModelError when the graph lacks what the edit needs.
        """
        visitor = ForwardPass(self._embedding_name(), self.n_layer, self.n_embd, rows, edit)
        logits = self._decode(rows, visitor)
        visitor.finish()
        return logits

    def decode_part(
        self,
        rows: Batch,
        part: Callable[[Graph], Part],
        *,
        want_logits: bool = True,
    ) -> FloatArray:
        """A decode of which only a part is computed; logits as `decode`, or none of them.

        part: given the graph, which nodes are left out, and what is written in their places.
        Raises ModelError when the graph cannot be taken apart.
        """
        for _ in range(2):
            if self._graph is not None:
                visitor = Rerun(self._graph, rows.tokens, part(self._graph))
                try:
                    return self._decode(rows, visitor, want_logits)
                except StaleGraphError:
                    self._forget_rows(rows)
                finally:
                    visitor.restore()
            self.learn_graph(rows)
            self._forget_rows(rows)
        raise ModelError("llama.cpp builds another graph at every decode")

    @property
    def can_leave_out(self) -> bool:
        """Whether parts of the graph can be switched off in this build of llama.cpp."""
        return ggml.FLAGS_PROVED

    @property
    def graph(self) -> Graph | None:
        """The graph that was learned last, if any."""
        return self._graph

    def learn_graph(self, rows: Batch) -> None:
        """Learn the graph by decoding some rows as they are."""
        recorder = Recorder()
        embedding = self._embedding_name()
        self._decode(rows, recorder)
        self._graph = Graph(recorder.addresses, embedding, self.n_layer)

    def clear(self) -> None:
        """Forget every sequence. The cache keeps its data, in the same cells."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)

    def forget(self, sequence: int, start: int) -> None:
        """Forget a sequence's tokens at positions `start` and after."""
        memory = llama.llama_get_memory(self._context)
        if not llama.llama_memory_seq_rm(memory, sequence, start, -1):
            raise ModelError("this model's memory cannot forget its latest tokens")

    def _forget_rows(self, rows: Batch) -> None:
        for sequence, start in rows.starts.items():
            self.forget(sequence, start)

    def check_length(self, n_tokens: int) -> None:
        """Raise LocalprobeError when a sequence of so many tokens does not fit the context."""
        if n_tokens > self.ctx:
            raise LocalprobeError(
                f"the prompt and its answer need {n_tokens} tokens, the context holds {self.ctx}; "
                "shorten the prompt or the answer, or raise --ctx "
                f"(the model was trained with {self.info.n_ctx_train})"
            )

    def _decode(self, rows: Batch, visitor: NodeVisitor, want_logits: bool = True) -> FloatArray:
        if len(rows.output_rows) > self._n_sequences:
            raise ValueError("more logits are asked for than was reserved")  # llama.cpp aborts
        _log.clear()
        with self._hook.armed(visitor):
            status = llama.llama_decode(self._context, rows.llama)
        if status != 0:
            raise ModelError(f"llama.cpp could not decode {len(rows)} tokens ({_last_error()})")
        n_outputs = len(rows.output_rows)
        if n_outputs == 0 or not want_logits:
            return np.empty((0, self.info.n_vocab), np.float32)
        logits: FloatArray = np.ctypeslib.as_array(
            llama.llama_get_logits(self._context), (n_outputs, self.info.n_vocab)
        ).copy()
        if not np.isfinite(logits).all():
            # A masked cell of the cache counts 0 x its value, which is not 0 for inf and nan:
            # what lies there would spoil every later pass.
            llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
            raise NotFiniteError("the model's logits are not finite numbers, so there is no answer")
        return logits

    def _make_room(self, n_tokens: int, *, keep: bool, n_sequences: int = 1) -> None:
        """A context that holds so many tokens; a growing one starts empty."""
        if (
            self._open_context is not None
            and n_tokens <= self._n_ctx
            and n_sequences <= self._n_sequences
        ):
            return
        if keep:
            raise RuntimeError("the context cannot grow without losing its KV cache: reserve first")
        self._free_context()
        self._graph = None
        self._n_sequences = max(n_sequences, self._n_sequences)
        n_tokens = max(n_tokens, self._n_ctx, self._least_ctx)
        self._n_ctx = -(-n_tokens // _CONTEXT_STEP) * _CONTEXT_STEP
        check_fits(
            self.context_bytes(self._n_ctx, self._n_sequences),
            f"a context of {self._n_ctx} tokens",
            "shorten the prompt, lower --batch, or take a smaller model",
        )
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._n_ctx
        params.n_threads = params.n_threads_batch = self._threads
        params.n_seq_max = self._n_sequences
        params.n_outputs_max = self._n_sequences
        params.flash_attn_type = 0
        params.type_k = params.type_v = 0
        params.kv_unified = True
        params.swa_full = True
        params.no_perf = True
        params.cb_eval = ctypes.cast(self._hook.callback, type(params.cb_eval))
        _log.clear()
        with held_back():
            self._open_context = llama.llama_init_from_model(self._model, params) or None
        if self._open_context is None:
            raise ModelError(
                f"llama.cpp could not make a context for {self.path} ({_last_error()})"
            )

    def context_bytes(self, n_tokens: int, n_sequences: int = 1) -> float:
        """About what a context of so many tokens takes: cache, attention scores, activations."""
        info = self.info
        cache = 2 * info.n_layer * info.n_embd * info.n_head_kv / max(1, info.n_head)
        scores = 2 * info.n_head * n_tokens
        activations = 16 * info.n_embd
        outputs = n_sequences * info.n_vocab
        return 4.0 * (n_tokens * (cache + scores + activations) + outputs)

    def reserve(self, n_tokens: int, n_sequences: int = 1) -> None:
        """Room for so many tokens in so many sequences, of which each may ask for logits.

        A context that has to grow loses its KV cache.
        """
        self._make_room(n_tokens, keep=False, n_sequences=n_sequences)

    def _embedding_name(self) -> bytes:
        if self._embedding is None:
            tokens = [0, 0]
            search = EmbeddingSearch(self.n_embd, len(tokens))
            self.clear()
            self._decode(Batch(sequence_rows(tokens, 0)), search)
            self.clear()
            if search.name is None:
                raise ModelError("no residual stream was found before the first block")
            self._embedding = search.name
        return self._embedding

    def _read_info(self) -> ModelInfo:
        model = self._model
        meta = self._metadata
        file_type = llama.llama_ftype_name(llama.llama_model_ftype(model)) or b"unknown"
        return ModelInfo(
            architecture=meta("general.architecture"),
            n_layer=llama.llama_model_n_layer(model),
            n_embd=llama.llama_model_n_embd(model),
            n_head=llama.llama_model_n_head(model),
            n_head_kv=llama.llama_model_n_head_kv(model),
            n_vocab=llama.llama_vocab_n_tokens(self._vocab),
            n_ctx_train=llama.llama_model_n_ctx_train(model),
            sliding_window=llama.llama_model_n_swa(model),
            n_params=llama.llama_model_n_params(model),
            file_type=file_type.decode().removeprefix("(guessed) "),
            tokenizer=meta("tokenizer.ggml.pre") or meta("tokenizer.ggml.model"),
            adds_bos=bool(llama.llama_vocab_get_add_bos(self._vocab)),
        )

    def _context_before_longrope(self) -> int:
        """The context up to which positions are turned by the short factors; 0 if there is none."""
        architecture = self.info.architecture
        if architecture not in _LONGROPE:
            return 0
        length = self._metadata(f"{architecture}.rope.scaling.original_context_length")
        return int(length) if length.isdecimal() else 0

    def unsupported(self) -> str | None:
        """Why this kind of model has no states to probe, or None."""
        if llama.llama_model_is_diffusion(self._model):
            return "it is a diffusion model, not an autoregressive one"
        if self._embeds():
            return "it is an embedding model: it gives vectors for texts, and no next token"
        if llama.llama_model_has_encoder(self._model) or not llama.llama_model_has_decoder(
            self._model
        ):
            return "it is not a decoder-only model"
        if llama.llama_model_is_recurrent(self._model) or llama.llama_model_is_hybrid(self._model):
            return "it is recurrent: its past is not held in a KV cache"
        return None

    def _embeds(self) -> bool:
        architecture = self.info.architecture
        is_causal = self._metadata(f"{architecture}.attention.causal") != "false"
        return not is_causal or "bert" in architecture or architecture in _EMBEDDERS

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        size = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return printable(buffer.value.decode(errors="replace")) if size >= 0 else ""


def has_gpu() -> bool:
    """Whether this build of llama.cpp can place blocks on a GPU."""
    return bool(llama.llama_supports_gpu_offload())


_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}


def quantize(source: Path, target: Path, kind: str) -> None:
    """Write a model with other weights. Raises ModelError where llama.cpp cannot."""
    _start_backend()
    params = llama.llama_model_quantize_default_params()
    params.ftype = _FILE_TYPES[kind]
    params.allow_requantize = True
    _log.clear()
    with held_back():
        status = llama.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(params)
        )
    if status != 0:
        raise ModelError(f"llama.cpp could not convert {source} to {kind} ({_last_error()})")


_EMBEDDERS = ("gemma-embedding", "llama-embed", "t5encoder")
"""And all that have "bert" in their names. Their attention looks both ways; some only say so in
llama.cpp's source."""

_LONGROPE = ("phi3", "phimoe", "minicpm", "minicpm3")

_MAPPED_AT_MOST = 1 << 29
"""Bytes. llama.cpp rearranges weights of many types for the CPU; beside a mapped file that is a
second copy in memory, instead of a read file it is the only one."""


def _checked_threads(threads: int) -> int:
    """0: as many as there are cores. Raises LocalprobeError where they would stand in each
    other's way: llama.cpp's threads wait for each other in loops.
    """
    cores = os.cpu_count() or 1
    if threads > 4 * cores:
        raise LocalprobeError(
            f"{threads} threads are too many for the {cores} cores of this machine; more than "
            f"{cores} make it slower"
        )
    return threads or cores


def _load(path: Path, gpu_layers: int) -> int:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}") from None
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file (it does not start with the letters GGUF)")
    _start_backend()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = gpu_layers if gpu_layers >= 0 else 1_000_000
    if gpu_layers == 0 and path.stat().st_size > _MAPPED_AT_MOST:
        params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    _log.clear()
    with held_back():
        model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelError(f"{path} is truncated, damaged or of an unknown kind ({_last_error()})")
    return int(model)


_backend_started = False


def _start_backend() -> None:
    global _backend_started
    if not _backend_started:
        # Where llama.cpp gives up, it would start a debugger on us.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        llama.llama_log_set(_keep_errors, None)
        llama.llama_backend_init()
        _backend_started = True


def _last_error() -> str:
    """The first thing llama.cpp complained of in the latest call: later ones follow from it."""
    said = [line for line in _log if line]
    return printable(said[0]) if said else "llama.cpp gave no reason"
