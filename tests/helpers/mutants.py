"""Broken GGUFs: a file taken apart into keys and tensors, spoilt in one of many ways, and packed.

    make("offsets", seed_file("llama"), random.Random(7))   # -> bytes

Nothing here minds whether what it packs makes sense.
"""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

from helpers import tiny

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B"}
FORMS |= {U64: "Q", I64: "q", F64: "d"}

ODD = (0, 1, 2, 3, 5, 7, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
ODDER = (*ODD, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass
class Key:
    """raw: written in the place of the value, type and all."""

    name: bytes
    kind: int
    value: Any
    raw: bytes | None = None


@dataclass
class Weights:
    """offset: written in the place of the right one."""

    name: bytes
    shape: list[int]
    kind: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None

    def __deepcopy__(self, _memo: object) -> Weights:
        return Weights(self.name, list(self.shape), self.kind, self.data, self.offset, self.n_dims)


@dataclass
class File:
    """A GGUF in parts. n_keys, n_tensors: announced in the place of the right ones."""

    keys: list[Key] = field(default_factory=list)
    tensors: list[Weights] = field(default_factory=list)
    mark: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    n_keys: int | None = None
    n_tensors: int | None = None

    def key(self, name: str) -> Key:
        return next(key for key in self.keys if key.name.endswith(name.encode()))

    def has(self, name: str) -> bool:
        return any(key.name.endswith(name.encode()) for key in self.keys)

    @property
    def arch(self) -> bytes:
        return bytes(self.key("general.architecture").value)

    def header(self) -> bytes:
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        out = [self.mark, pack(U32, self.version), pack(U64, n_tensors), pack(U64, n_keys)]
        for key in self.keys:
            out.append(pack(STRING, key.name))
            out.append(
                pack(U32, key.kind) + pack(key.kind, key.value) if key.raw is None else key.raw
            )
        offset = 0
        for each in self.tensors:
            n_dims = len(each.shape) if each.n_dims is None else each.n_dims
            out += [pack(STRING, each.name), pack(U32, n_dims)]
            out += [pack(U64, length) for length in each.shape]
            out.append(pack(U32, each.kind))
            out.append(pack(U64, offset if each.offset is None else each.offset))
            offset += padded(len(each.data), self.alignment)
        header = b"".join(out)
        return header + bytes(padded(len(header), self.alignment) - len(header))

    def pack(self) -> bytes:
        bodies = (
            each.data + bytes(padded(len(each.data), self.alignment) - len(each.data))
            for each in self.tensors
        )
        return self.header() + b"".join(bodies)


def padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def pack(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return struct.pack("<Q", len(value)) + value
    if kind == ARRAY:
        inner, values = value
        packed = b"".join(pack(inner, each) for each in values)
        return struct.pack("<IQ", inner, len(values)) + packed
    form = "<" + FORMS[kind]
    if kind in (F32, F64):
        try:
            return struct.pack(form, float(value))
        except OverflowError:
            return struct.pack(form, float("inf"))
    width = struct.calcsize(form)
    return (int(value) & (1 << 8 * width) - 1).to_bytes(width, "little")


class _Unpacker:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def value(self, kind: int) -> Any:
        if kind == STRING:
            length = self.value(U64)
            self.at += length
            return self.data[self.at - length : self.at]
        if kind == ARRAY:
            inner, count = self.value(U32), self.value(U64)
            return inner, [self.value(inner) for _ in range(count)]
        form = "<" + FORMS[kind]
        self.at += struct.calcsize(form)
        return struct.unpack_from(form, self.data, self.at - struct.calcsize(form))[0]


def unpack(data: bytes) -> File:
    """A good GGUF in parts."""
    file, reader = File(), _Unpacker(data)
    reader.at = 8
    n_tensors, n_keys = reader.value(U64), reader.value(U64)
    for _ in range(n_keys):
        name, kind = reader.value(STRING), reader.value(U32)
        file.keys.append(Key(name, kind, reader.value(kind)))
    places = []
    for _ in range(n_tensors):
        name, n_dims = reader.value(STRING), reader.value(U32)
        shape = [reader.value(U64) for _ in range(n_dims)]
        file.tensors.append(Weights(name, shape, reader.value(U32), b""))
        places.append(reader.value(U64))
    start = padded(reader.at, file.alignment)
    for each, place, end in zip(file.tensors, places, [*places[1:], None], strict=True):
        block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(each.kind)]
        size = int(np.prod(each.shape)) // block * width
        each.data = data[start + place : start + place + size]
        assert end is None or end - place == padded(size, file.alignment)
    return file


# Seeds

SEEDS = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gptneox",
    "mamba",
)
QUANTISED = {
    "llama-q8_0": "Q8_0",
    "llama-q4_0": "Q4_0",
    "llama-f16": "F16",
    "qwen3moe-bf16": "BF16",
}
ALL_SEEDS = (*SEEDS, *QUANTISED, "llama-spm")


@functools.cache
def seed_file(name: str) -> File:
    """A good tiny model in parts; not to be changed."""
    arch, _, variant = name.partition("-")
    with TemporaryDirectory() as folder:
        path = tiny.write(tiny.build(arch, n_layer=2), Path(folder) / "seed.gguf", ("bos",))
        file = unpack(path.read_bytes())
    if name in QUANTISED:
        kind = gguf.GGMLQuantizationType[QUANTISED[name]]
        for each in file.tensors:
            if len(each.shape) > 1 and each.shape[0] % 32 == 0:
                weights = np.frombuffer(each.data, np.float32).reshape(each.shape[::-1])
                each.kind, each.data = int(kind), quantize(weights, kind).tobytes()
    if variant == "spm":
        _make_spm(file)
    return file


def _make_spm(file: File) -> None:
    tokens = [b"<0x%02X>" % byte for byte in range(256)] + [b"ab", b"</s>"]
    file.key("ggml.model").value = b"llama"
    file.key("ggml.tokens").value = (STRING, tokens)
    file.key("ggml.token_type").value = (I32, [6] * 256 + [1, 3])
    file.keys = [key for key in file.keys if not key.name.endswith((b"merges", b"ggml.pre"))]
    file.keys.append(Key(b"tokenizer.ggml.scores", ARRAY, (F32, [0.0] * len(tokens))))


# Mutations of parts

Mutation = Callable[[File, random.Random], "bytes | None"]
MUTATIONS: dict[str, Mutation] = {}


def mutation(name: str) -> Callable[[Mutation], Mutation]:
    def register(function: Mutation) -> Mutation:
        MUTATIONS[name] = function
        return function

    return register


def make(kind: str, seed: File, rng: random.Random) -> bytes:
    """A file spoilt in this way, and sometimes in another one too."""
    if rng.random() < 0.15:
        # What the second needs, the first may have taken away.
        with suppress(ValueError, IndexError, StopIteration, TypeError, AttributeError):
            return _spoilt(seed, (rng.choice(PARTS), kind), rng)
    return _spoilt(seed, (kind,), rng)


def _spoilt(seed: File, kinds: tuple[str, ...], rng: random.Random) -> bytes:
    file = deepcopy(seed)
    changed = None
    for kind in kinds:
        changed = MUTATIONS[kind](file, rng)
    return file.pack() if changed is None else changed


def _numbers(file: File) -> list[Key]:
    """The hyper-parameters that are whole numbers."""
    return [key for key in file.keys if key.name.startswith(file.arch + b".") and key.kind in FORMS]


@mutation("counts of keys, tensors")
def _(file: File, rng: random.Random) -> None:
    off = rng.choice((-3, -1, 1, 2, 1000, *ODDER))
    if rng.random() < 0.5:
        file.n_keys = rng.choice((off, len(file.keys) + off))
    else:
        file.n_tensors = rng.choice((off, len(file.tensors) + off))


@mutation("lengths")
def _(file: File, rng: random.Random) -> None:
    key = rng.choice([key for key in file.keys if key.kind in (STRING, ARRAY)])
    length = rng.choice((*ODDER, rng.randrange(1 << 20)))
    packed = bytearray(pack(key.kind, key.value))
    at = 4 if key.kind == ARRAY and rng.random() < 0.7 else 0
    if key.kind == ARRAY and at == 0 and key.value[0] == STRING:
        at = 12  # of the first text
    packed[at : at + 8] = struct.pack("<Q", length)
    key.raw = pack(U32, key.kind) + bytes(packed)


@mutation("names")
def _(file: File, rng: random.Random) -> None:
    part = rng.choice((rng.choice(file.keys), rng.choice(file.tensors)))
    name = part.name
    part.name = rng.choice(
        (
            b"",
            name + b"\0",
            name * 3,
            b"\xff" + name,
            name[:-1],
            b"a" * 64,
            b"\x1b[2J",
            b"blk.9" + name,
        )
    )


@mutation("offsets")
def _(file: File, rng: random.Random) -> None:
    for each in rng.sample(file.tensors, rng.choice((1, 1, 2, 5))):
        each.offset = rng.choice((*ODDER, rng.randrange(1 << 18), 32 * rng.randrange(1 << 12)))


@mutation("tensor types")
def _(file: File, rng: random.Random) -> None:
    each = rng.choice(file.tensors)
    each.kind = rng.choice((*range(45), *ODD))
    if rng.random() < 0.5:
        _fit(each)


@mutation("shapes")
def _(file: File, rng: random.Random) -> None:
    each = rng.choice(file.tensors)
    match rng.randrange(5):
        case 0:
            each.shape.reverse()
        case 1:
            each.shape[rng.randrange(len(each.shape))] = rng.choice(ODDER)
        case 2:
            each.n_dims = rng.choice((0, 1, 2, 3, 4, 5, *ODD))
        case 3:
            each.shape += [rng.choice((0, 1, 2, 2**62))] * rng.choice((1, 2, 3))
        case _:
            each.shape[-1] = max(1, each.shape[-1] + rng.choice((-1, 1, 2, 32)))
    if rng.random() < 0.6:
        _fit(each)


def _fit(each: Weights) -> None:
    """As many weights as the shape says, where they are few."""
    try:
        block, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(each.kind)]
    except ValueError:
        return
    size = int(np.prod([float(length) for length in each.shape])) // block * width
    if size < 1 << 22:
        each.data = (each.data * (size // max(1, len(each.data)) + 1))[:size]


@mutation("all shapes of one size")
def _(file: File, rng: random.Random) -> None:
    """A length that llama.cpp has from the file, other than it was but the same everywhere."""
    old = rng.choice((32, 48, 8, 16, 258, 96, 24))
    new = rng.choice((1, 2, 3, 7, old - 1, old + 1, 2 * old, old // 2))
    for each in file.tensors:
        if old in each.shape:
            each.shape = [new if length == old else length for length in each.shape]
            _fit(each)
    for key in _numbers(file):
        if key.value == old:
            key.value = new


@mutation("weights NaN, infinite")
def _(file: File, rng: random.Random) -> None:
    for each in rng.sample(file.tensors, rng.choice((1, 1, 3))):
        odd = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\xff\x7f"))
        at = 4 * rng.randrange(max(1, len(each.data) // 4))
        count = rng.choice((1, 1, 1000000))
        spoilt = odd * min(count, (len(each.data) - at) // 4)
        each.data = each.data[:at] + spoilt + each.data[at + len(spoilt) :]


@mutation("weights huge, tiny, none")
def _(file: File, rng: random.Random) -> None:
    for each in rng.sample(file.tensors, rng.choice((1, 1, 3, len(file.tensors)))):
        value = rng.choice((3e38, -3e38, 1e30, 1e-42, 0.0, 1e19))
        count = rng.choice((1, len(each.data) // 4))
        each.data = struct.pack("<f", value) * count + each.data[4 * count :]


@mutation("blocks")
def _(file: File, rng: random.Random) -> None:
    file.key(".block_count").value = rng.choice((*ODDER, 1, 2, 3, 4, 511, 512, 513))


@mutation("vocabulary size")
def _(file: File, rng: random.Random) -> None:
    key = file.key(rng.choice(("ggml.tokens", "ggml.token_type")))
    inner, values = key.value
    size = rng.choice((0, 1, 2, len(values) - 1, len(values) + 1, rng.randrange(300), 5000))
    fresh = [b"new%d" % number if inner == STRING else 1 for number in range(size)]
    values = values[:size] + fresh[len(values) :]
    key.value = (inner, values)
    if inner == STRING and rng.random() < 0.6:
        for each in file.tensors:
            if each.shape[-1] == 258:
                each.shape[-1] = size
                _fit(each)
        file.key("ggml.token_type").value = (I32, [1] * size)
        if file.has("ggml.scores"):
            file.key("ggml.scores").value = (F32, [0.0] * size)


@mutation("keys twice")
def _(file: File, rng: random.Random) -> None:
    file.keys.insert(rng.randrange(len(file.keys)), deepcopy(rng.choice(file.keys)))


@mutation("tensors twice")
def _(file: File, rng: random.Random) -> None:
    each = deepcopy(rng.choice(file.tensors))
    if rng.random() < 0.5:
        rng.choice(file.tensors).name = each.name
    else:
        file.tensors.append(each)


@mutation("tensors dropped, added")
def _(file: File, rng: random.Random) -> None:
    if rng.random() < 0.5:
        for each in rng.sample(file.tensors, rng.choice((1, 1, 2, len(file.tensors)))):
            file.tensors.remove(each)
    else:
        each = deepcopy(rng.choice(file.tensors))
        each.name = rng.choice(
            (
                *(b"rope_freqs.weight", b"output.bias", b"output.weight", b"token_types.weight"),
                *(b"position_embd.weight", b"rope_factors_long.weight", b"blk.0.attn_q.bias"),
                *(b"blk.1.attn_qkv.weight", b"blk.1.ffn_gate_inp.weight", b"blk.0.attn_sinks"),
                *(
                    b"token_embd_norm.weight",
                    b"blk.1.attn_q_norm.weight",
                    b"blk.0.rope_freqs.weight",
                ),
                *(b"blk.7.attn_norm.weight", b"blk.99999999999.x", b"blk.-1.attn_norm.weight"),
            )
        )
        if rng.random() < 0.5:
            each.shape = rng.choice(([8], [4], [32], [32, 512], [32, 258], [32, 96], [258], [1]))
            each.kind = 0
            _fit(each)
        file.tensors.append(each)


@mutation("order of tensors")
def _(file: File, rng: random.Random) -> None:
    rng.shuffle(file.tensors)


@mutation("alignment")
def _(file: File, rng: random.Random) -> None:
    value = rng.choice((*ODDER, 4, 8, 16, 32, 64, 128, 4096, 65536))
    file.keys.append(Key(b"general.alignment", rng.choice((U32, U32, U32, U64, I32, F32)), value))
    if 0 < value <= 65536 and rng.random() < 0.6:
        file.alignment = value


ARCHITECTURES = sorted(gguf.MODEL_ARCH_NAMES.values())


@mutation("architecture")
def _(file: File, rng: random.Random) -> None:
    key, old = file.key("general.architecture"), file.arch
    key.value = rng.choice([*ARCHITECTURES, "", "no", "LLAMA", "\x1b[2Jllama"]).encode()
    if rng.random() < 0.1:
        key.kind, key.value = rng.choice(((U32, 1), (ARRAY, (STRING, [b"llama"])), (F32, 1.5)))
        return
    if rng.random() < 0.8:
        for each in file.keys:
            if each.name.startswith(old + b"."):
                each.name = key.value + each.name[len(old) :]


def _odd_value(rng: random.Random) -> tuple[int, Any]:
    """A type and a value of it."""
    kind = rng.choice((U32, U32, U32, U32, I32, U64, I64, F32, F64, U8, U16, BOOL, STRING, ARRAY))
    if kind == STRING:
        return kind, rng.choice((b"", b"1", b"\xff\xfe", b"x" * 5000, b"yarn", b"longrope"))
    if kind == ARRAY:
        inner = rng.choice((U32, I32, F32, BOOL, U8, U64, STRING))
        count = rng.choice((0, 1, 2, 3, 4, 512, 513, 5000))
        odd = [b"x" if inner == STRING else rng.choice(ODD) for _ in range(count)]
        return kind, (inner, odd)
    if kind in (F32, F64):
        return kind, rng.choice((0.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), 0.5))
    return kind, rng.choice((*ODDER, -1, 4, 8, 16, 64))


@mutation("hyper-parameters")
def _(file: File, rng: random.Random) -> None:
    for key in rng.sample(_numbers(file), rng.choice((1, 1, 1, 2))):
        if rng.random() < 0.5:
            key.value = rng.choice((*ODDER, -1, 4, 8, 16, 31, 33, 64))
        else:
            key.kind, key.value = _odd_value(rng)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADDED = _words("""
vocab_size embedding_length_out feed_forward_length expert_feed_forward_length
leading_dense_block_count use_parallel_residual expert_count expert_used_count expert_shared_count
expert_group_count expert_group_used_count expert_weights_scale expert_weights_norm
expert_gating_func moe_every_n_layers nextn_predict_layers pooling_type logit_scale
decoder_block_count attn_logit_softcapping router_logit_softcapping final_logit_softcapping
residual_scale embedding_scale interleave_moe_layer_step full_attention_interval num_loops
attention.max_alibi_bias attention.clamp_kqv attention.key_length attention.value_length
attention.layer_norm_epsilon attention.layer_norm_rms_epsilon attention.group_norm_groups
attention.causal attention.sliding_window attention.sliding_window_pattern attention.scale
attention.temperature_length attention.temperature_scale attention.key_length_swa
attention.value_length_swa attention.shared_kv_layers attention.recurrent_layers
attention.head_count attention.head_count_kv rope.dimension_count rope.dimension_count_swa
rope.dimension_sections rope.freq_base rope.freq_base_swa rope.scale_linear rope.scaling.type
rope.scaling.factor rope.scaling.alpha rope.scaling.attn_factor
rope.scaling.original_context_length rope.scaling.yarn_ext_factor rope.scaling.yarn_beta_fast
rope.scaling.yarn_log_multiplier ssm.conv_kernel ssm.inner_size ssm.state_size
ssm.time_step_rank ssm.group_count classifier.output_labels context_length""")
ADDED_ELSEWHERE = _words("""
general.file_type general.name general.quantization_version split.count split.no
split.tensors.count general.type tokenizer.ggml.token_type_count tokenizer.ggml.scores
tokenizer.ggml.add_space_prefix tokenizer.ggml.add_sep_token tokenizer.ggml.add_eos_token
tokenizer.ggml.remove_extra_whitespaces tokenizer.ggml.precompiled_charsmap
tokenizer.ggml.suppress_tokens tokenizer.ggml.unknown_token_id tokenizer.ggml.padding_token_id
tokenizer.ggml.fim_pad_token_id tokenizer.ggml.normalizer.lowercase tokenizer.chat_template
tokenizer.ggml.eot_token_id general.sampling.top_k""")


@mutation("keys added")
def _(file: File, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.7:
            name = file.arch + b"." + rng.choice(ADDED).encode()
        else:
            name = rng.choice(ADDED_ELSEWHERE).encode()
        file.keys = [key for key in file.keys if key.name != name]
        file.keys.append(Key(name, *_odd_value(rng)))


@mutation("keys dropped")
def _(file: File, rng: random.Random) -> None:
    for key in rng.sample(file.keys, rng.choice((1, 1, 2, 5))):
        file.keys.remove(key)


@mutation("keys of wrong type")
def _(file: File, rng: random.Random) -> None:
    key = rng.choice(file.keys)
    if rng.random() < 0.5:
        key.raw = pack(U32, rng.choice((*range(15), *ODD))) + pack(key.kind, key.value)
    else:
        key.kind, key.value = _odd_value(rng)


@mutation("nested arrays")
def _(file: File, rng: random.Random) -> None:
    depth = rng.choice((1, 2, 10, 1000))
    key = rng.choice(file.keys)
    key.raw = pack(U32, ARRAY) + struct.pack("<IQ", ARRAY, 1) * depth + pack(U64, 0)


@mutation("texts that are no UTF-8")
def _(file: File, rng: random.Random) -> None:
    key = rng.choice([key for key in file.keys if key.kind == STRING])
    old = key.value
    at = rng.randrange(len(old) + 1)
    odd = rng.choice(
        (b"\xff", b"\xc3\x28", b"\0", b"\x1b[31m", b"\xed\xa0\x80", b"\xf4\xbf\xbf\xbf")
    )
    key.value = old[:at] + odd + old[at:]


@mutation("tokens")
def _(file: File, rng: random.Random) -> None:
    _inner, tokens = file.key("ggml.tokens").value
    tokens = list(tokens)
    for _ in range(rng.choice((1, 1, 5, 300))):
        at = rng.randrange(len(tokens))
        tokens[at] = rng.choice(
            (
                *(b"", b" ", b"\xff\xfe", b"\xc3", b"\0", b"x" * 3000, rng.choice(tokens)),
                *(b"<|endoftext|>", b"</s>", b"<unk>", b"<0x0A>", b"<0xZZ>", b"unused"),
                *(rng.randbytes(rng.randrange(1, 9)), "漢é😀".encode(), "\u2581".encode()),
            )
        )
    file.key("ggml.tokens").value = (STRING, tokens)
    if rng.random() < 0.2:
        inner = rng.choice((U8, U32, F32, BOOL))
        file.key("ggml.tokens").value = (inner, [1] * len(tokens))


@mutation("token types")
def _(file: File, rng: random.Random) -> None:
    key = file.key("ggml.token_type")
    inner, kinds = key.value
    kinds = [
        rng.choice((*range(8), -1, 2**31 - 1)) if rng.random() < 0.3 else each for each in kinds
    ]
    if rng.random() < 0.3:
        kinds = [rng.randrange(8)] * len(kinds)
    key.value = (rng.choice((inner, inner, inner, U32, F32, U8)), kinds)


@mutation("merges, scores")
def _(file: File, rng: random.Random) -> None:
    count = rng.choice((0, 1, 3, 300))
    if file.has("ggml.scores") and rng.random() < 0.7:
        odd = (float("nan"), float("inf"), -1e38, 0.0, 1.0)
        scores = [rng.choice(odd) for _ in range(rng.choice((258, 258, 257, 0)))]
        file.key("ggml.scores").value = (rng.choice((F32, F32, F64, I32)), [0] * len(scores))
        if rng.random() < 0.7:
            file.key("ggml.scores").value = (F32, scores)
        return
    merges = [
        rng.choice(
            (b"", b" ", b"a", b"a b c", b" a", b"a ", b"\xff \xfe", b"a b", b"\0 \0", b"x" * 999)
        )
        for _ in range(count)
    ]
    file.keys = [key for key in file.keys if not key.name.endswith(b"merges")]
    inner = rng.choice((STRING, STRING, STRING, U32, F32))
    values = merges if inner == STRING else [1] * count
    file.keys.append(Key(b"tokenizer.ggml.merges", ARRAY, (inner, values)))


@mutation("special tokens")
def _(file: File, rng: random.Random) -> None:
    for name in rng.sample(("bos", "eos", "unknown", "padding", "eot", "seperator", "mask"), 2):
        full = f"tokenizer.ggml.{name}_token_id".encode()
        file.keys = [key for key in file.keys if key.name != full]
        kind = rng.choice((U32, U32, U32, I32, U64, F32))
        file.keys.append(Key(full, kind, rng.choice((*ODDER, -1, -2, 257, 258, 259))))
    for name in ("add_bos_token", "add_eos_token", "add_sep_token"):
        full = f"tokenizer.ggml.{name}".encode()
        file.keys = [key for key in file.keys if key.name != full]
        if rng.random() < 0.7:
            file.keys.append(
                Key(full, rng.choice((BOOL, BOOL, BOOL, U32)), rng.choice((0, 1, 255)))
            )


PRE = _words(
    "default gpt-2 llama-bpe deepseek-llm qwen2 smollm tekken kimi-k2 bloom gpt-4o chameleon"
)


@mutation("tokenizer")
def _(file: File, rng: random.Random) -> None:
    models = _words(
        "llama bert gpt2 t5 rwkv plamo2 none no_vocab test gemma4 hybriddna whitespace xyz"
    )
    file.key("ggml.model").value = rng.choice(models).encode()
    if file.has("ggml.pre") and rng.random() < 0.5:
        file.key("ggml.pre").value = rng.choice((*PRE, "", "\x1b[2J")).encode()
    if rng.random() < 0.5 and not file.has("ggml.scores"):
        file.keys.append(Key(b"tokenizer.ggml.scores", ARRAY, (F32, [0.0] * 258)))
    if rng.random() < 0.4:
        _inner, tokens = file.key("ggml.tokens").value
        spm = [b"<0x%02X>" % byte for byte in range(256)] + list(tokens[256:])
        file.key("ggml.tokens").value = (STRING, spm[: len(tokens)])


@mutation("chat template")
def _(file: File, rng: random.Random) -> None:
    template = rng.choice(
        (
            *("{{ x", "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ 1/0 }}", "\x1b[2J"),
            *("{{ messages[9].content }}", "{{ ''.__class__.__mro__ }}", "{% include 'x' %}", ""),
            *("{{ raise_exception('\x1b[2J') }}", "{{ messages[0].content }}{{ bos_token }}"),
        )
    )
    file.keys.append(Key(b"tokenizer.chat_template", STRING, template.encode()))


@mutation("mark, version")
def _(file: File, rng: random.Random) -> None:
    if rng.random() < 0.3:
        file.mark = rng.choice((b"GGML", b"FUGG", b"ggjt", b"\0\0\0\0", b"GGU", b"PK\3\4"))
    else:
        file.version = rng.choice((0, 1, 2, 4, 0x03000000, 2**32 - 1, 0x00030000))


PARTS = tuple(MUTATIONS)
"""Mutations that leave a file in parts."""


# Mutations of bytes


@mutation("bits of the header")
def _(file: File, rng: random.Random) -> bytes:
    return _flipped(file.pack(), rng, 0, len(file.header()))


@mutation("bits of the body")
def _(file: File, rng: random.Random) -> bytes:
    data = file.pack()
    return _flipped(data, rng, min(len(file.header()), len(data) - 1), len(data))


def _flipped(data: bytes, rng: random.Random, start: int, end: int) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
    return bytes(out)


@mutation("bytes of the header")
def _(file: File, rng: random.Random) -> bytes:
    out = bytearray(file.pack())
    at, count = rng.randrange(len(file.header())), rng.choice((1, 2, 4, 8, 16))
    out[at : at + count] = rng.choice((bytes(count), b"\xff" * count, rng.randbytes(count)))
    return bytes(out)


@mutation("numbers of the header")
def _(file: File, rng: random.Random) -> bytes:
    """Whatever stands before the tokens, and after the merges, is mostly numbers."""
    out, header = bytearray(file.pack()), file.header()
    tokens = header.find(b"tokenizer.ggml.tokens") % len(header)
    merges = header.find(b"tokenizer.ggml.merges") % len(header)
    at = rng.choice(
        (rng.randrange(8, tokens), rng.randrange(min(merges, len(header) - 8), len(header)))
    )
    form = rng.choice(("<Q", "<I"))
    width = struct.calcsize(form)
    out[at : at + width] = struct.pack(form, rng.choice(ODDER) & (1 << 8 * width) - 1)
    return bytes(out)


@mutation("bytes lost, put in")
def _(file: File, rng: random.Random) -> bytes:
    data = file.pack()
    at, count = rng.randrange(len(file.header())), rng.choice((1, 4, 8, 32, 1000))
    if rng.random() < 0.5:
        return data[:at] + data[at + count :]
    return data[:at] + rng.randbytes(count) + data[at:]


@mutation("cut")
def _(file: File, rng: random.Random) -> bytes:
    data = file.pack()
    return data[: rng.randrange(len(data))]


@mutation("cut in the header")
def _(file: File, rng: random.Random) -> bytes:
    return file.pack()[: rng.randrange(len(file.header()))]


@mutation("header and body of two")
def _(file: File, rng: random.Random) -> bytes:
    other = seed_file(rng.choice(ALL_SEEDS))
    return file.header() + other.pack()[len(other.header()) :]
