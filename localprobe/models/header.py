"""What a GGUF says it holds, read without trusting it.

Every count and every length is held against the bytes that are left in the file before anything is
made of it, so that a broken file costs neither memory nor time, and is refused with the place where
it is broken. What a file may still have wrong, llama.cpp finds out: see `vetting`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, TypeAlias

from localprobe.errors import ModelError
from localprobe.files.foreign import printable
from localprobe.files.parts import parts_of

_MOST_METADATA = 256 << 20
_MOST_KEYS = 1 << 16
_MOST_TENSORS = 1 << 17
_MOST_STRINGS = 1 << 22
_LONGEST_NAME = 63
_LONGEST_TOKEN = 1 << 12
_MOST_ELEMENTS = 2**63 - 1

_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"

# By ggml's number of a type: weights in a block, bytes of a block. A test holds it to the library.
BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)},
    **{9: (32, 36), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210)},
    **{15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18)},
    **{21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4)},
    **{27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66)},
    **{39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)},
}

# By llama.cpp's number of a file's type, what it calls it. A test holds it to the library.
FILE_TYPES = {
    **{0: "all F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1"},
    **{10: "Q2_K - Medium", 11: "Q3_K - Small", 12: "Q3_K - Medium", 13: "Q3_K - Large"},
    **{14: "Q4_K - Small", 15: "Q4_K - Medium", 16: "Q5_K - Small", 17: "Q5_K - Medium"},
    **{18: "Q6_K", 19: "IQ2_XXS - 2.0625 bpw", 20: "IQ2_XS - 2.3125 bpw", 21: "Q2_K - Small"},
    **{22: "IQ3_XS - 3.3 bpw", 23: "IQ3_XXS - 3.0625 bpw", 24: "IQ1_S - 1.5625 bpw"},
    **{25: "IQ4_NL - 4.5 bpw", 26: "IQ3_S - 3.4375 bpw", 27: "IQ3_S mix - 3.66 bpw"},
    **{28: "IQ2_S - 2.5 bpw", 29: "IQ2_M - 2.7 bpw", 30: "IQ4_XS - 4.25 bpw"},
    **{31: "IQ1_M - 1.75 bpw", 32: "BF16", 36: "TQ1_0 - 1.69 bpw ternary"},
    **{37: "TQ2_0 - 2.06 bpw ternary", 38: "MXFP4 MoE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0"},
}

# What a model of any architecture keeps to. llama.cpp divides by some of these.
_BOUNDS = {
    "block_count": (1, 512),
    "context_length": (4, 2**31 - 1),
    "embedding_length": (1, 2**20),
    "feed_forward_length": (0, 2**24),
    "vocab_size": (0, 2**24),
    "expert_count": (0, 2**12),
    "expert_used_count": (0, 2**12),
    "attention.head_count": (0, 2**14),
    "attention.head_count_kv": (0, 2**14),
    "attention.key_length": (1, 2**14),
    "attention.value_length": (0, 2**14),
    "rope.dimension_count": (0, 2**14),
}

_TOKENIZERS = (b"llama", b"gpt2", b"gemma4")

Scalar: TypeAlias = "int | float | bool | bytes"


@dataclass(frozen=True)
class Array:
    """An array of the metadata. kind: GGUF's number of its type. data: numbers, as in the file."""

    kind: int
    count: int
    data: bytes = b""
    strings: tuple[bytes, ...] = ()

    def numbers(self) -> tuple[int | float, ...]:
        return struct.unpack(f"<{self.count}{_SCALARS[self.kind]}", self.data)


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies. kind: ggml's number of its type. start: its first byte in the file.

    file: the part that it lies in, where there are several.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int
    size: int
    file: Path


@dataclass(frozen=True)
class Header:
    """Metadata (texts as bytes: they need not be UTF-8) and tensors, in the file's order.

    Of several parts: the metadata of the first, and the tensors of all.
    """

    metadata: dict[str, Scalar | Array]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> Header:
    """Read and check everything but the weights. path: the first part, where there are several.

    Raises ModelError with what is wrong.
    """
    files = parts_of(path)
    metadata: dict[str, Scalar | Array] = {}
    tensors: dict[str, Tensor] = {}
    for number, file in enumerate(files):
        try:
            with file.open("rb") as opened:
                found, its_tensors = _read(_Reader(opened), file)
            _check_part(found, number, len(files))
            for tensor in its_tensors:
                if tensor.name in tensors:
                    _broken(f"it has the tensor {tensor.name} of an earlier part again")
                tensors[tensor.name] = tensor
            metadata = metadata or found
            if file == files[-1]:
                file = path  # what is wrong from here on is wrong with all of it
                _check_metadata(metadata, tensors)
        except _BrokenError as error:
            raise ModelError(f"{file} cannot be used: {printable(str(error))}") from None
        except OSError as error:
            raise ModelError(f"cannot read the model file {file}: {error.strerror}") from None
    return Header(metadata, tuple(tensors.values()))


class _BrokenError(Exception):
    """What is wrong with the file."""


def _broken(reason: str) -> NoReturn:
    raise _BrokenError(reason)


class _Reader:
    """Numbers and texts from the start of a file, never beyond its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.at = file.seek(0)

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            _broken(
                f"it is truncated or damaged: {what} takes {count} bytes from byte {self.at} on, "
                f"and the file ends at byte {self.size}"
            )
        if self.at + count > _MOST_METADATA:
            _broken(f"its metadata take more than {_MOST_METADATA >> 20} MB ({what})")
        data = self._file.read(count)
        if len(data) != count:
            _broken("it changed while it was read")
        self.at += count
        return data

    def number(self, form: str, what: str) -> int:
        value = struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))[0]
        return int(value)

    def text(self, what: str) -> bytes:
        return self.take(self.number("Q", what), what)

    def texts(self, count: int, what: str) -> Iterator[bytes]:
        # Vocabularies have hundreds of thousands: what goes well is done here, the rest by `text`.
        read, end = self._file.read, min(self.size, _MOST_METADATA)
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            if self.at + 8 + length > end:
                self._file.seek(self.at)
                yield self.text(what)
                continue
            self.at += 8 + length
            yield read(length)

    def count(self, what: str, smallest: int, most: int) -> int:
        """A number of things, each of which takes so many bytes at least."""
        count = self.number("Q", f"the number of {what}")
        if count > most or count * smallest > self.size - self.at:
            _broken(
                f"it is truncated or damaged: it announces {count} {what}, and "
                f"{self.size - self.at} bytes are left"
            )
        return count


def _read(reader: _Reader, file: Path) -> tuple[dict[str, Scalar | Array], tuple[Tensor, ...]]:
    if reader.size < 4 or reader.take(4, "its mark") != b"GGUF":
        _broken("it is not a GGUF file (it does not start with the letters GGUF)")
    version = reader.number("I", "its version")
    if version and version & 0xFFFF == 0:
        _broken("it is a GGUF for machines of the other byte order (big-endian)")
    if version not in (2, 3):
        _broken(f"it is in version {version} of GGUF; llama.cpp reads versions 2 and 3")
    n_tensors = reader.count("tensors", 32, _MOST_TENSORS)
    n_keys = reader.count("keys", 13, _MOST_KEYS)
    metadata: dict[str, Scalar | Array] = {}
    for number in range(n_keys):
        key = reader.text(f"the name of key {number}").decode(errors="replace")
        if not key or "\0" in key:
            _broken(f"key {number} has no name, or one that breaks off")
        if key in metadata:
            _broken(f"it has the key {key} twice")
        metadata[key] = _value(reader, key)
    return metadata, tuple(_tensors(reader, file, n_tensors, _alignment(metadata)))


def _check_part(metadata: dict[str, Scalar | Array], number: int, count: int) -> None:
    """llama.cpp finds the other parts by the first one's name: it must be what was read here."""
    parts, part = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if not (type(parts) is int and type(part) is int):
        _broken("it does not say in a number which part it is")
    if max(1, parts) != count:
        _broken(
            f"it says that it is one of {parts} parts, and its name does not; the first should be "
            f"called NAME-00001-of-{parts:05}.gguf"
            if count == 1
            else f"its name says that it is one of {count} parts, and its header does not"
        )
    if part != number:
        _broken(f"it says that it is part {part + 1}, and its name says {number + 1}")


def _value(reader: _Reader, key: str) -> Scalar | Array:
    kind = reader.number("I", f"the type of {key}")
    if kind == _STRING:
        return reader.text(key)
    if kind in _SCALARS:
        form = "<" + _SCALARS[kind]
        scalar: int | float = struct.unpack(form, reader.take(struct.calcsize(form), key))[0]
        return scalar
    if kind != _ARRAY:
        _broken(f"{key} has the unknown type {kind}")
    kind = reader.number("I", f"the type of {key}")
    if kind == _STRING:
        count = reader.count(f"texts in {key}", 8, _MOST_STRINGS)
        return Array(kind, count, strings=tuple(reader.texts(count, key)))
    if kind not in _SCALARS:
        _broken(f"{key} is an array of type {kind}, which llama.cpp cannot read")
    width = struct.calcsize("<" + _SCALARS[kind])
    count = reader.count(f"values in {key}", width, _MOST_METADATA)
    return Array(kind, count, reader.take(count * width, key))


def _alignment(metadata: dict[str, Scalar | Array]) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 1 <= value <= 1 << 20 or value & (value - 1):
        _broken("general.alignment is not a power of two up to 1 MB")
    return value


def _tensors(reader: _Reader, file: Path, count: int, alignment: int) -> Iterator[Tensor]:
    found: dict[str, tuple[int, tuple[int, ...], int]] = {}
    end = 0
    for number in range(count):
        raw = reader.text(f"the name of tensor {number}")
        if len(raw) > _LONGEST_NAME:
            _broken(f"the name of tensor {number} is longer than {_LONGEST_NAME} bytes")
        if not raw or b"\0" in raw:
            _broken(f"tensor {number} has no name, or one that breaks off")
        name = raw.decode(errors="replace")
        if name in found:
            _broken(f"it has the tensor {name} twice")
        n_dims = reader.number("I", f"the dimensions of {name}")
        if not 1 <= n_dims <= 4:
            _broken(f"the tensor {name} has {n_dims} dimensions")
        shape = tuple(reader.number("q", f"the shape of {name}") for _ in range(n_dims))
        kind = reader.number("I", f"the type of {name}")
        offset = reader.number("Q", f"the place of {name}")
        size = _size(name, kind, shape)
        if offset != end:
            _broken(f"the tensor {name} starts at {offset}, where {end} is the next place")
        end += _padded(size, alignment)
        found[name] = kind, shape, size
    start = _padded(reader.at, alignment)
    for name, (kind, shape, size) in found.items():
        if start + size > reader.size:
            _broken(
                f"it is truncated: the tensor {name} ends at byte {start + size}, the file at "
                f"byte {reader.size}"
            )
        yield Tensor(name, kind, shape, start, size, file)
        start += _padded(size, alignment)


def _size(name: str, kind: int, shape: tuple[int, ...]) -> int:
    if kind not in BLOCKS:
        _broken(f"the tensor {name} has the unknown type {kind}")
    elements = 1
    for length in shape:
        elements *= length
        if length < 1 or elements > _MOST_ELEMENTS:
            _broken(f"the tensor {name} has the impossible shape {list(shape)}")
    weights, width = BLOCKS[kind]
    if shape[0] % weights:
        _broken(f"the tensor {name} has rows of {shape[0]}, which are no blocks of {weights}")
    return elements // weights * width


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _check_metadata(metadata: dict[str, Scalar | Array], tensors: dict[str, Tensor]) -> None:
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, bytes):
        _broken("it does not say of which architecture it is")
    prefix = architecture.decode(errors="replace") + "."
    for name, (low, high) in _BOUNDS.items():
        for value in _integers(metadata.get(prefix + name)):
            if not low <= value <= high:
                _broken(f"its {name} is {value}, which is not within {low} and {high}")
    heads = _integers(metadata.get(prefix + "attention.head_count"))
    shared = _integers(metadata.get(prefix + "attention.head_count_kv"))
    for block in range(max(len(heads), len(shared)) if heads and shared else 0):
        head, kv = heads[block % len(heads)], shared[block % len(shared)]
        if kv and head % kv:
            _broken(f"its {head} heads cannot share the keys of {kv}")
    _check_tokens(metadata, tensors.get("token_embd.weight"))


def _integers(value: Scalar | Array | None) -> list[int]:
    """The whole numbers in it, one or many; of another type, none: llama.cpp checks types."""
    if isinstance(value, Array):
        numbers = value.numbers() if value.kind != _STRING and value.count <= 512 else ()
        return [number for number in numbers if type(number) is int]
    return [value] if type(value) is int else []


def _check_tokens(metadata: dict[str, Scalar | Array], embedding: Tensor | None) -> None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array):
        return
    longest = max(map(len, tokens.strings), default=0)
    if longest > _LONGEST_TOKEN:
        _broken(f"it has a token of {longest} bytes, which is no token of a language")
    for name in ("scores", "token_type"):
        other = metadata.get(f"tokenizer.ggml.{name}")
        if isinstance(other, Array) and other.count < tokens.count:
            _broken(f"it has {tokens.count} tokens and {other.count} {name}")
    if embedding is not None and embedding.shape[1:] != (tokens.count,):
        _broken(f"it has {tokens.count} tokens and embeddings of shape {list(embedding.shape)}")
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in _TOKENIZERS:
        # Others hold tables of their own, where a bad place is met when a text leads there.
        shown = kind.decode(errors="replace") if isinstance(kind, bytes) else kind
        _broken(f"its tokenizer is of the kind {shown!r}, which localprobe has no use for")
    if kind == b"llama":
        # llama.cpp spells out in bytes what is no token, and aborts where a byte is none either:
        # on the day when someone types it.
        known = set(tokens.strings)
        for byte in [*range(0x80), *range(0x80, 0xC0), *range(0xC2, 0xF5)]:
            if b"<0x%02X>" % byte not in known and bytes([byte]) not in known:
                _broken(f"its vocabulary has no token for the byte {byte:#04x}")
