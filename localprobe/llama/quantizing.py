"""A GGUF written anew with weights of another type."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp.llama_cpp as llama

from localprobe.errors import ModelError
from localprobe.llama import backend
from localprobe.llama.interrupts import held_back

_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}


def quantize(source: Path, target: Path, kind: str) -> None:
    """Write a model with other weights. Raises ModelError where llama.cpp cannot."""
    backend.start()
    params = llama.llama_model_quantize_default_params()
    params.ftype = _FILE_TYPES[kind]
    params.allow_requantize = True
    backend.forget_errors()
    with held_back():
        status = llama.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(params)
        )
    if status != 0:
        raise ModelError(f"llama.cpp could not convert {source} to {kind} ({backend.last_error()})")


def type_name(number: int) -> str:
    """What llama.cpp calls a GGUF's file type."""
    name: bytes = llama.llama_ftype_name(number) or b"unknown type"
    return name.decode().removeprefix("(guessed) ")
