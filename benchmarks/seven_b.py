"""The four models of the paper cannot be downloaded everywhere: this proves that their shape works.

    python benchmarks/seven_b.py [--shape llama-2-7b] [--type q4_0] [--blocks N] [--keep PATH]

Writes a GGUF of that shape with random weights (needs gguf, as the tests do), then, in a process
of its own, checks it and sweeps two capitals prompts at all layers. Exit code 1 when the peak of
that process's memory, in which the mapped file counts, is more than 1000 MB above the file's size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from tqdm import tqdm

from localprobe.engine.interventions import Freeze, Random, Shuffle, Skip
from localprobe.engine.resume import ResumeEngine
from localprobe.models import opening as models
from localprobe.tasks.capitals import Capitals

MOST_ABOVE_FILE = 1000e6
N_PROMPTS = 2
PATCHES = (Random(), Shuffle(), Freeze(), Skip())


@dataclass(frozen=True)
class Shape:
    n_head_kv: int = 32
    n_ff: int = 11008
    n_vocab: int = 32000
    n_ctx: int = 4096
    rope_base: float = 1e4
    n_layer: int = 32
    n_embd: int = 4096
    n_head: int = 32


SHAPES = {
    "llama-2-7b": Shape(),
    "mistral-7b": Shape(n_head_kv=8, n_ff=14336, n_ctx=32768),
    "yi-6b": Shape(n_head_kv=4, n_vocab=64000, rope_base=5e6),
    # Code Llama's vocabulary, but Llama 2's context and rope base.
    "llemma-7b": Shape(n_vocab=32016),
}
TYPES = {"q4_0": gguf.LlamaFileType.MOSTLY_Q4_0, "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M}

SCALES = {Kind.Q4_0: {0: 1.0}, Kind.Q4_K: {0: 1.0, 2: 7.5}, Kind.Q6_K: {208: 1.0}}
"""Where a block of a kind holds its float16 scales, and their ratio; Q4_K's second one, times 63,
is what is taken off all weights of the block."""
UNIT = {Kind.Q4_0: 4.64, Kind.Q4_K: 290.4, Kind.Q6_K: 1366.0}
"""The root mean square of weights whose first scale is 1 and whose other bits are random."""


@dataclass(frozen=True)
class Tensor:
    """rows 0: a norm, of `columns` numbers near 1. rms: of the weights."""

    name: str
    kind: Kind
    rows: int
    columns: int
    rms: float = 1.0

    def bytes_shape(self) -> tuple[int, int, int]:
        """(rows, blocks in a row, bytes in a block)."""
        elements, size = gguf.GGML_QUANT_SIZES[self.kind]
        return self.rows, self.columns // elements, size

    def data(self, rng: np.random.Generator) -> np.ndarray:
        if not self.rows:
            return (1 + 0.2 * rng.standard_normal(self.columns)).astype(np.float32)
        blocks = rng.integers(0, 256, self.bytes_shape(), np.uint8)
        sign = blocks[..., 1] & 0x80
        for at, ratio in SCALES[self.kind].items():
            scale = np.array([ratio * self.rms / UNIT[self.kind]], "<f2")
            blocks[..., at], high = scale.view(np.uint8)
            blocks[..., at + 1] = sign | high
        if self.kind is Kind.Q4_K:
            blocks[..., 4:16] = 0xFF  # all that is multiplied with the two scales: 63
        return blocks.reshape(self.rows, -1)


def tensors(shape: Shape, type_name: str) -> Iterator[Tensor]:
    """In the kinds that llama.cpp's own quantization gives them."""
    n, n_layer = shape.n_embd, shape.n_layer
    keys = n // shape.n_head * shape.n_head_kv
    usual = {"q4_0": Kind.Q4_0, "q4_k_m": Kind.Q4_K}[type_name]
    yield Tensor("token_embd.weight", usual, shape.n_vocab, n)
    for block in range(n_layer):
        eighth = n_layer // 8
        more_bits = not eighth <= block < 7 * n_layer // 8 or (block - eighth) % 3 == 2
        better = Kind.Q6_K if type_name == "q4_k_m" and more_bits else usual
        for name, kind, rows, columns in (
            ("attn_norm", Kind.F32, 0, n),
            ("attn_q", usual, n, n),
            ("attn_k", usual, keys, n),
            ("attn_v", better, keys, n),
            ("attn_output", usual, n, n),
            ("ffn_norm", Kind.F32, 0, n),
            ("ffn_gate", usual, shape.n_ff, n),
            ("ffn_up", usual, shape.n_ff, n),
            ("ffn_down", better, n, shape.n_ff),
        ):
            yield Tensor(f"blk.{block}.{name}.weight", kind, rows, columns, columns**-0.5)
    yield Tensor("output_norm.weight", Kind.F32, 0, n)
    yield Tensor("output.weight", Kind.Q6_K, shape.n_vocab, n, n**-0.5)


def write(shape: Shape, type_name: str, path: Path) -> None:
    """One tensor in memory at a time."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(shape.n_layer)
    w.add_context_length(shape.n_ctx)
    w.add_embedding_length(shape.n_embd)
    w.add_feed_forward_length(shape.n_ff)
    w.add_head_count(shape.n_head)
    w.add_head_count_kv(shape.n_head_kv)
    w.add_rope_dimension_count(shape.n_embd // shape.n_head)
    w.add_rope_freq_base(shape.rope_base)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_file_type(TYPES[type_name])
    _add_tokenizer(w, shape.n_vocab)
    todo = list(tensors(shape, type_name))
    for each in todo:
        if each.rows:
            rows, blocks, size = each.bytes_shape()
            n_bytes = rows * blocks * size
            w.add_tensor_info(
                each.name, (rows, blocks * size), np.dtype(np.uint8), n_bytes, each.kind
            )
        else:
            w.add_tensor_info(each.name, (each.columns,), np.dtype(np.float32), 4 * each.columns)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    rng = np.random.default_rng(0)
    for each in tqdm(todo, desc="writing", unit="tensor"):
        w.write_tensor_data(each.data(rng))
    w.close()


def _add_tokenizer(w: gguf.GGUFWriter, n_vocab: int) -> None:
    """Byte-level BPE that knows the words of the capitals task, so that its prompts are about as
    long as in the models' own tokens; then made-up tokens up to n_vocab."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    merges: dict[tuple[str, str], None] = {}
    for example in Capitals().examples():
        for word in re.findall(r" \w+", example.prompt):
            letters = "".join(stand_in[byte] for byte in word.encode())
            merges |= {(letters[:i], letters[i]): None for i in range(1, len(letters))}
    tokens = ["<s>", "</s>", *stand_in.values(), *map("".join, merges)]
    tokens += [f"<{number}>" for number in range(len(tokens), n_vocab)]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([control, control] + [normal] * (n_vocab - 2))
    w.add_token_merges([" ".join(pair) for pair in merges])
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    w.add_add_bos_token(True)


@dataclass(frozen=True)
class Measured:
    """seconds: what -> seconds a prompt. peak: of memory, in bytes."""

    load_s: float
    n_tokens: list[int]
    seconds: dict[str, float]
    peak: int


def sweep(path: Path) -> Measured:
    """Load, check and sweep; call it in a process of its own."""
    print("loading and checking", file=sys.stderr)
    start = time.perf_counter()
    with models.open_model(str(path)) as loaded:
        engine, reason = models.choose_engine(loaded)
        load_s = time.perf_counter() - start
        if not isinstance(engine, ResumeEngine):
            raise SystemExit(f"no resuming: {reason}")
        examples = Capitals().examples()[:N_PROMPTS]
        prompts = [loaded.model.tokenize(example.prompt) for example in examples]
        stops = [None] * N_PROMPTS
        layers = range(loaded.model.n_layer)
        seconds = {}
        start = time.perf_counter()
        runs = engine.clean(prompts, layers, max_tokens=1, stops=stops)
        seconds["clean"] = (time.perf_counter() - start) / N_PROMPTS
        for patch in PATCHES:
            start = time.perf_counter()
            defined = [layer for layer in layers if layer >= patch.first_layer]
            cells = engine.run(
                runs,
                [patch] * N_PROMPTS,
                defined,
                max_tokens=1,
                examples=range(N_PROMPTS),
                stops=stops,
            )
            for _ in tqdm(cells, desc=patch.name, total=len(defined) * N_PROMPTS, unit="answer"):
                pass
            seconds[patch.name] = (time.perf_counter() - start) / N_PROMPTS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
    return Measured(load_s, [len(prompt) for prompt in prompts], seconds, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--type", choices=TYPES, default="q4_0", help="of the weights")
    parser.add_argument("--blocks", type=int, help="fewer than the model has, for a try")
    parser.add_argument(
        "--keep", type=Path, metavar="PATH", help="instead of in a temporary folder"
    )
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    if options.blocks is not None:
        if options.blocks < 1:
            parser.error("a model has at least one block")
        shape = replace(shape, n_layer=options.blocks)
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} is there already")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOCALPROBE_CACHE"] = folder  # so that nothing is remembered of earlier checks
        path = options.keep or Path(folder) / f"{options.shape}.gguf"
        start = time.perf_counter()
        write(shape, options.type, path)
        write_s = time.perf_counter() - start
        size = path.stat().st_size
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            measured = pool.submit(sweep, path).result()

    above = measured.peak - size
    print(f"{options.shape}, random weights: {shape.n_layer} blocks, {options.type}")
    print(f"file: {size / 1e6:.0f} MB, written in {write_s:.0f} s")
    print(f"loaded and checked in {measured.load_s:.0f} s")
    lengths = " and ".join(map(str, measured.n_tokens))
    each = ", ".join(f"{what} {seconds:.2f}" for what, seconds in measured.seconds.items())
    total = sum(measured.seconds.values())
    print(f"prompts of {lengths} tokens, all layers: {total:.2f} s a prompt ({each})")
    print(
        f"peak memory: {measured.peak / 1e6:.0f} MB, the file's size + {above / 1e6:.0f} MB: ",
        end="",
    )
    print("more" if above > MOST_ABOVE_FILE else "not more", f"than {MOST_ABOVE_FILE / 1e6:.0f} MB")
    sys.exit(above > MOST_ABOVE_FILE)


if __name__ == "__main__":
    main()
