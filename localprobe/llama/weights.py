"""A GGUF that is loaded: its weights in memory, and what it says of itself."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import llama_cpp.llama_cpp as llama

from localprobe.errors import LocalprobeError, ModelError
from localprobe.files.foreign import printable
from localprobe.files.parts import total_size
from localprobe.llama import backend, rearranged
from localprobe.llama.devices import RPC, Placement, build
from localprobe.llama.interrupts import held_back
from localprobe.llama.rpc import Workers

if TYPE_CHECKING:
    from typing_extensions import Self

GGUF_MAGIC = b"GGUF"

_EMBEDDERS = ("gemma-embedding", "llama-embed", "t5encoder")
"""And all that have "bert" in their names. Their attention looks both ways; some only say so in
llama.cpp's source."""

_LONGROPE = ("phi3", "phimoe", "minicpm", "minicpm3")
"""And all whose files say so. These have factors for long contexts without saying."""

CONTEXT_STEP = 256
"""Contexts hold a multiple of so many tokens."""

_MAPPED_AT_MOST = 1 << 29
"""Bytes. llama.cpp rearranges weights of many types for the CPU; beside a mapped file that is a
second copy in memory, instead of a read file it is the only one."""


INDEXER = "choice of tokens"
_LIMITS = {
    "attention.indexer.top_k": INDEXER,
    "attention.sliding_window": "sliding window",
    "attention.chunk_size": "chunk of attention",
}


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


class Weights:
    """A loaded GGUF. placement: which blocks are not on the CPU; None: all of them are on it.

    workers: those that some of the devices belong to; to be closed after it. tiles: whether weights
    may lie as AMX wants them; see `rearranged.fit_tiles`.

    Raises ModelError when the file is not a GGUF that llama.cpp can read.
    """

    def __init__(
        self,
        path: Path,
        placement: Placement | None = None,
        workers: Workers | None = None,
        *,
        tiles: bool = False,
    ) -> None:
        self.path = path
        self.placement = placement if placement and placement.n_placed else None
        self._workers = workers or Workers(())
        self.in_tiles = tiles and rearranged.has_tiles() and rearranged.is_safe()
        """Whether weights lie as AMX wants them."""
        may_rearrange = self.in_tiles or not rearranged.has_tiles()
        with self._workers.watched():
            tick = self._workers.tick
            self._open_model: int | None = _load(path, self.placement, tick, may_rearrange)
        self.info = self._read_info()
        self.n_layer, self.n_embd = self.info.n_layer, self.info.n_embd

    @property
    def on_cpu(self) -> bool:
        """Whether all of it is: the same work then gives the same bits."""
        return self.placement is None

    @property
    def devices(self) -> str:
        """What it is computed on, as runs write it down: the same text, the same arithmetic."""
        return self.placement.record if self.placement else "cpu"

    @property
    def checked_on(self) -> str:
        """What checks of it hold for: devices, where workers are, and this build of llama.cpp."""
        of_workers = [
            f"{device.name} is {device.description} with {device.memory()[1]} bytes"
            for device in (self.placement.devices if self.placement else ())
            if device.backend == RPC
        ]
        return ", ".join([self.devices, *of_workers, *self._ways, f"build {build()}"])

    @property
    def _ways(self) -> list[str]:
        """How it computes there, where that is not the usual way."""
        return ["AMX"] if self.in_tiles else []

    def __enter__(self) -> Self:
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
        if self._open_model is not None:
            with self._workers.watched():
                llama.llama_model_free(self._open_model)
            self._open_model = None

    # llama.cpp reads from whatever address it is given: none of a closed model may reach it.

    def check_open(self) -> None:
        """Raise LocalprobeError where it was closed."""
        _ = self._model

    @property
    def _model(self) -> int:
        if self._open_model is None:
            raise LocalprobeError(f"the model {self.path} is closed; open it again")
        return self._open_model

    @property
    def _vocab(self) -> Any:
        return llama.llama_model_get_vocab(self._model)

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

    def context_before_longrope(self) -> int:
        """The context up to which positions are turned by the short factors; 0 if there is none.

        llama.cpp rounds contexts up, and looks at what comes of it.
        """
        architecture = self.info.architecture
        kind = self._metadata(f"{architecture}.rope.scaling.type")
        if architecture not in _LONGROPE and kind != "longrope":
            return 0
        length = self._metadata(f"{architecture}.rope.scaling.original_context_length")
        original = int(length) if length.isdecimal() else self.info.n_ctx_train
        return original // CONTEXT_STEP * CONTEXT_STEP

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
        return None

    @property
    def is_recurrent(self) -> bool:
        """Whether a part of what it knows of the past is not held in a KV cache, token by token."""
        is_hybrid = llama.llama_model_is_hybrid(self._model)
        return bool(is_hybrid or llama.llama_model_is_recurrent(self._model))

    def limits(self) -> dict[str, int]:
        """Lengths in tokens which the file names, beyond which attention works otherwise."""
        found = {}
        for key, what in _LIMITS.items():
            length = self._metadata(f"{self.info.architecture}.{key}")
            if length.isdecimal() and int(length) > 0:
                found[what] = int(length)
        return found

    def _embeds(self) -> bool:
        architecture = self.info.architecture
        is_causal = self._metadata(f"{architecture}.attention.causal") != "false"
        return not is_causal or "bert" in architecture or architecture in _EMBEDDERS

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        size = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return printable(buffer.value.decode(errors="replace")) if size >= 0 else ""


def _load(
    path: Path,
    placement: Placement | None,
    tick: Callable[[], None] | None,
    may_rearrange: bool,
) -> int:
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}") from None
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file (it does not start with the letters GGUF)")
    backend.start()
    params = llama.llama_model_default_params()
    shares = placement.shares if placement else ()
    # An empty list, unlike none: then a build for GPUs does with them what one for CPUs does.
    devices = (ctypes.c_void_p * (len(shares) + 1))(*(device.address for device, _ in shares), None)
    split = (ctypes.c_float * llama.LLAMA_MAX_DEVICES)(*(count for _, count in shares))
    params.devices = ctypes.cast(devices, ctypes.c_void_p)
    params.tensor_split = split
    params.n_gpu_layers = placement.n_placed if placement else 0
    if tick is not None:
        params.progress_callback = _progress(tick)
    params.use_extra_bufts = may_rearrange
    if placement is None and total_size(path) > _MAPPED_AT_MOST:
        params.load_mode = llama.LLAMA_LOAD_MODE_NONE
    backend.forget_errors()
    with held_back():
        model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if not model and placement:
        raise ModelError(
            f"{path} could not be placed as asked for, {placement} ({backend.last_error()})"
        )
    if not model:
        raise ModelError(
            f"{path} is truncated, damaged or of an unknown kind ({backend.last_error()})"
        )
    return int(model)


def _progress(tick: Callable[[], None]) -> Any:
    """A callback that llama.cpp calls as weights come in; it goes on as long as that says so."""

    def went_on(_share: float, _user_data: object) -> bool:
        tick()
        return True

    return llama.llama_progress_callback(went_on)
