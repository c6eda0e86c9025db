"""Tiny float32 GGUFs with random weights, and the same weights as numpy arrays.

The tokenizer is byte-level BPE without merges of any use: one token a byte, so that any text can
be used with any of these models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

N_VOCAB = 258
EOS = 257
CONVOLVED = 4
"""Tokens that the convolution before a state space looks at."""
LAYER_NORMS = ("gpt2", "gptneox", "falcon", "phi2", "command-r")
GEMMAS = ("gemma2", "gemma3", "gemma4")
ONE_NORM = ("falcon", "phi2", "command-r")
"""Blocks in parallel in which one norm is before both attention and feed-forward."""


@dataclass
class Tiny:
    """Hyper-parameters and weights of a tiny model. Weights are (rows out, columns in)."""

    arch: str
    n_layer: int
    n_embd: int = 32
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 8
    n_ff: int = 48
    eps: float = 1e-5
    rope_base: float = 10000.0
    sliding_window: int = 0
    window_pattern: int = 0
    """The last of every so many blocks attends globally, the others within the sliding window.
    Not written: llama.cpp has it from the architecture."""
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    n_expert: int = 0
    n_expert_used: int = 0
    n_ctx: int = 512
    original_ctx: int = 0
    logit_scale: float = 0.0
    n_input: int = 0
    """Of models that give each block an input of its own beside the state: its width."""
    shared_kv: int = 0
    """The last blocks, which attend to keys and values of earlier ones."""
    n_state: int = 0
    """Numbers that the memory of a recurrent block has for each channel."""
    dt_rank: int = 2
    weights: dict[str, np.ndarray] = field(default_factory=dict)


def build(arch: str, seed: int = 0, n_layer: int | None = None, like: Tiny | None = None) -> Tiny:
    """Random weights for one of these architectures. like: instead of its usual shape."""
    made = like or shape(arch, n_layer)
    _Weights(made, np.random.default_rng(seed)).fill()
    return made


def shape(arch: str, n_layer: int | None = None) -> Tiny:
    """What an architecture looks like. gptneox, falcon, phi2 and command-r have parallel blocks."""
    return {
        "llama": Tiny("llama", n_layer or 4),
        "qwen2": Tiny("qwen2", n_layer or 3, eps=1e-6),
        # Heads that together are wider than the residual stream.
        "qwen3": Tiny("qwen3", n_layer or 3, head_dim=16, eps=1e-6, rope_base=1e6),
        "qwen3moe": Tiny(
            "qwen3moe", n_layer or 3, n_ff=24, eps=1e-6, rope_base=1e6, n_expert=6, n_expert_used=2
        ),
        # Windows that prompts outgrow, and caps that scores and logits come near to.
        "gemma2": Tiny(
            "gemma2",
            n_layer or 4,
            eps=1e-6,
            sliding_window=6,
            window_pattern=2,
            attention_cap=5.0,
            logit_cap=12.0,
        ),
        "gemma3": Tiny(
            "gemma3", n_layer or 7, eps=1e-6, sliding_window=6, window_pattern=6, rope_base=1e6
        ),
        "phi3": Tiny("phi3", n_layer or 3),
        "gpt2": Tiny("gpt2", n_layer or 3, n_head_kv=4),
        "gptneox": Tiny("gptneox", n_layer or 2, n_head_kv=4),
        "falcon": Tiny("falcon", n_layer or 2),
        "phi2": Tiny("phi2", n_layer or 2, n_head_kv=4),
        "command-r": Tiny("command-r", n_layer or 2, logit_scale=0.5),
        "mamba": Tiny("mamba", n_layer or 2, n_state=4),
        # Small Gemma 4: every other block attends within a window, and the last two share.
        "gemma4": Tiny(
            "gemma4",
            n_layer or 6,
            eps=1e-6,
            sliding_window=6,
            window_pattern=2,
            rope_base=1e6,
            logit_cap=12.0,
            n_input=16,
            shared_kv=2,
        ),
        # Every other block attends, the others have a state space.
        "jamba": Tiny("jamba", n_layer or 4, n_state=4),
    }[arch]


class _Weights:
    def __init__(self, tiny: Tiny, rng: np.random.Generator) -> None:
        self.tiny, self.rng, self.out = tiny, rng, tiny.weights

    def matrix(self, name: str, rows: int, columns: int, gain: float = 1.0) -> None:
        scale = gain / np.sqrt(columns)
        self.out[name] = (self.rng.standard_normal((rows, columns)) * scale).astype(np.float32)

    def vector(self, name: str, size: int, mean: float = 0.0) -> None:
        self.out[name] = (mean + 0.2 * self.rng.standard_normal(size)).astype(np.float32)

    def fill(self) -> None:
        t = self.tiny
        self.matrix("token_embd.weight", N_VOCAB, t.n_embd, gain=np.sqrt(t.n_embd))
        self.vector("output_norm.weight", t.n_embd, 1)
        if t.arch == "mamba":
            self.mamba()
            return
        if t.arch not in (*GEMMAS, "command-r"):
            self.matrix("output.weight", N_VOCAB, t.n_embd, gain=2)
        has_biases = t.arch in ("gpt2", "gptneox", "phi2")
        if has_biases or t.arch == "falcon":
            self.vector("output_norm.bias", t.n_embd)
        if t.arch == "phi2":
            self.vector("output.bias", N_VOCAB)
        if t.n_input:
            inputs = t.n_layer * t.n_input
            self.matrix("per_layer_token_embd.weight", N_VOCAB, inputs, gain=np.sqrt(inputs))
            self.matrix("per_layer_model_proj.weight", inputs, t.n_embd)
            self.vector("per_layer_proj_norm.weight", t.n_input, 1)
            self.vector("rope_freqs.weight", t.head_dim // 2, 2)
        if t.arch == "gpt2":
            self.matrix("position_embd.weight", t.n_ctx, t.n_embd, gain=np.sqrt(t.n_embd))
        for block in range(t.n_layer):
            if has_biases:
                self.biased_block(f"blk.{block}.")
            elif t.arch == "falcon":
                self.falcon_block(f"blk.{block}.")
            elif t.arch == "jamba":
                self.jamba_block(f"blk.{block}.", attends=block % 2 == 1)
            else:
                self.block(f"blk.{block}.")

    def block(self, blk: str) -> None:
        t = self.tiny
        queries, keys = t.n_head * t.head_dim, t.n_head_kv * t.head_dim
        self.vector(blk + "attn_norm.weight", t.n_embd, 1)
        self.matrix(blk + "attn_q.weight", queries, t.n_embd, gain=2)
        self.matrix(blk + "attn_k.weight", keys, t.n_embd, gain=2)
        self.matrix(blk + "attn_v.weight", keys, t.n_embd)
        self.matrix(blk + "attn_output.weight", t.n_embd, queries)
        if t.arch == "qwen2":
            for name, size in (("q", queries), ("k", keys), ("v", keys)):
                self.vector(f"{blk}attn_{name}.bias", size)
        if t.arch in ("qwen3", "qwen3moe", "gemma3", "gemma4"):
            # Gemma 4 does not scale its scores: its norms have to.
            scale = t.head_dim**-0.5 if t.arch == "gemma4" else 1
            self.vector(blk + "attn_q_norm.weight", t.head_dim, scale)
            self.vector(blk + "attn_k_norm.weight", t.head_dim, 1)
        if t.n_input:
            self.matrix(blk + "inp_gate.weight", t.n_input, t.n_embd)
            self.matrix(blk + "proj.weight", t.n_embd, t.n_input)
            self.vector(blk + "post_norm.weight", t.n_embd, 0.5)
            self.vector(blk + "layer_output_scale.weight", 1, 1)
        if t.arch in GEMMAS:
            self.vector(blk + "post_attention_norm.weight", t.n_embd, 1)
            self.vector(blk + "post_ffw_norm.weight", t.n_embd, 1)
        if t.arch not in ONE_NORM:
            self.vector(blk + "ffn_norm.weight", t.n_embd, 1)
        if t.n_expert:
            self.experts(blk)
            return
        self.matrix(blk + "ffn_gate.weight", t.n_ff, t.n_embd)
        self.matrix(blk + "ffn_up.weight", t.n_ff, t.n_embd)
        self.matrix(blk + "ffn_down.weight", t.n_embd, t.n_ff)
        if t.arch == "phi3":
            self.fuse(blk, "attn_qkv", ("attn_q", "attn_k", "attn_v"))
            self.fuse(blk, "ffn_up", ("ffn_gate", "ffn_up"))

    def fuse(self, blk: str, name: str, parts: tuple[str, ...]) -> None:
        rows = [self.out.pop(f"{blk}{part}.weight") for part in parts]
        self.out[f"{blk}{name}.weight"] = np.concatenate(rows)

    def experts(self, blk: str) -> None:
        """Experts that differ from one another by their own router logits, and by nothing else.

        Where two logits tie, the two experts give the same output: it makes no difference which of
        them is taken, and the sum over the chosen ones has no jumps that rounding could decide.
        """
        t = self.tiny
        self.matrix(blk + "ffn_gate_inp.weight", t.n_expert, t.n_embd, gain=2)
        router = self.out[blk + "ffn_gate_inp.weight"]
        for name in ("gate", "up"):
            self.matrix("common", t.n_ff, t.n_embd)
            follows = self.rng.standard_normal((t.n_ff, 1)).astype(np.float32)
            self.out[f"{blk}ffn_{name}_exps.weight"] = (
                self.out.pop("common") + follows * router[:, None, :]
            )
        self.matrix("common", t.n_embd, t.n_ff)
        self.out[blk + "ffn_down_exps.weight"] = np.stack([self.out.pop("common")] * t.n_expert)

    def biased_block(self, blk: str) -> None:
        t = self.tiny
        for name in ("attn_norm",) if t.arch in ONE_NORM else ("attn_norm", "ffn_norm"):
            self.vector(f"{blk}{name}.weight", t.n_embd, 1)
            self.vector(f"{blk}{name}.bias", t.n_embd)
        for name, rows, columns in (
            ("attn_qkv", 3 * t.n_embd, t.n_embd),
            ("attn_output", t.n_embd, t.n_embd),
            ("ffn_up", t.n_ff, t.n_embd),
            ("ffn_down", t.n_embd, t.n_ff),
        ):
            self.matrix(f"{blk}{name}.weight", rows, columns)
            self.vector(f"{blk}{name}.bias", rows)

    def falcon_block(self, blk: str) -> None:
        t = self.tiny
        heads = (t.n_head + 2 * t.n_head_kv) * t.head_dim
        self.vector(blk + "attn_norm.weight", t.n_embd, 1)
        self.vector(blk + "attn_norm.bias", t.n_embd)
        self.matrix(blk + "attn_qkv.weight", heads, t.n_embd, gain=2)
        self.matrix(blk + "attn_output.weight", t.n_embd, t.n_embd)
        self.matrix(blk + "ffn_up.weight", t.n_ff, t.n_embd)
        self.matrix(blk + "ffn_down.weight", t.n_embd, t.n_ff)

    def jamba_block(self, blk: str, *, attends: bool) -> None:
        if attends:
            self.block(blk)
            return
        t = self.tiny
        self.state_space(blk)
        for name, size in (("dt", t.dt_rank), ("b", t.n_state), ("c", t.n_state)):
            self.vector(f"{blk}ssm_{name}_norm.weight", size, 1)
        self.vector(blk + "ffn_norm.weight", t.n_embd, 1)
        self.matrix(blk + "ffn_gate.weight", t.n_ff, t.n_embd)
        self.matrix(blk + "ffn_up.weight", t.n_ff, t.n_embd)
        self.matrix(blk + "ffn_down.weight", t.n_embd, t.n_ff)

    def mamba(self) -> None:
        for block in range(self.tiny.n_layer):
            self.state_space(f"blk.{block}.")

    def state_space(self, blk: str) -> None:
        t = self.tiny
        inner, state, rank = 2 * t.n_embd, t.n_state, t.dt_rank
        self.vector(blk + "attn_norm.weight", t.n_embd, 1)
        self.matrix(blk + "ssm_in.weight", 2 * inner, t.n_embd)
        self.matrix(blk + "ssm_conv1d.weight", inner, CONVOLVED)
        self.vector(blk + "ssm_conv1d.bias", inner)
        self.matrix(blk + "ssm_x.weight", rank + 2 * state, inner)
        self.matrix(blk + "ssm_dt.weight", inner, rank)
        self.vector(blk + "ssm_dt.bias", inner)
        self.matrix(blk + "ssm_a", inner, state)
        # Memories fade: they do not grow.
        self.out[blk + "ssm_a"] = -np.abs(self.out[blk + "ssm_a"])
        self.vector(blk + "ssm_d", inner)
        self.matrix(blk + "ssm_out.weight", t.n_embd, inner)


def write(
    tiny: Tiny, path: Path, adds: tuple[str, ...] = (), chat: str = "", part: int = 0
) -> Path:
    """The tiny model as a GGUF. adds: of "bos" and "eos", which tokens it asks for.

    chat: its chat template. part: tensors a file, where it is to be in several; the first is given.
    """
    w = gguf.GGUFWriter(path, tiny.arch, split_max_tensors=part)
    w.add_block_count(tiny.n_layer)
    w.add_context_length(tiny.n_ctx)
    w.add_embedding_length(tiny.n_embd)
    w.add_feed_forward_length(tiny.n_ff)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    if tiny.n_state:
        w.add_ssm_conv_kernel(CONVOLVED)
        w.add_ssm_inner_size(2 * tiny.n_embd)
        w.add_ssm_state_size(tiny.n_state)
        w.add_ssm_time_step_rank(tiny.dt_rank)
    if tiny.arch == "mamba":
        w.add_head_count(0)
        w.add_layer_norm_rms_eps(tiny.eps)
    else:
        w.add_head_count(tiny.n_head)
        if tiny.arch == "jamba":
            w.add_head_count_kv([tiny.n_head_kv * (block % 2) for block in range(tiny.n_layer)])
        else:
            w.add_head_count_kv(tiny.n_head_kv)
        w.add_key_length(tiny.head_dim)
        w.add_value_length(tiny.head_dim)
        w.add_rope_freq_base(tiny.rope_base)
        w.add_rope_dimension_count(tiny.head_dim)
        if tiny.arch in LAYER_NORMS:
            w.add_layer_norm_eps(tiny.eps)
        else:
            w.add_layer_norm_rms_eps(tiny.eps)
        if tiny.arch == "gptneox":
            w.add_parallel_residual(True)
        if tiny.logit_scale:
            w.add_logit_scale(tiny.logit_scale)
        if tiny.original_ctx:
            w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
            w.add_rope_scaling_orig_ctx_len(tiny.original_ctx)
        if tiny.sliding_window:
            w.add_sliding_window(tiny.sliding_window)
        if tiny.n_input:
            pattern = [(k + 1) % tiny.window_pattern != 0 for k in range(tiny.n_layer)]
            w.add_sliding_window_pattern(pattern)
            w.add_embedding_length_per_layer_input(tiny.n_input)
            w.add_shared_kv_layers(tiny.shared_kv)
            w.add_key_length_swa(tiny.head_dim)
            w.add_value_length_swa(tiny.head_dim)
            w.add_rope_freq_base_swa(10000.0)
        if tiny.attention_cap:
            w.add_attn_logit_softcapping(tiny.attention_cap)
        if tiny.logit_cap:
            w.add_final_logit_softcapping(tiny.logit_cap)
        if tiny.n_expert:
            w.add_expert_count(tiny.n_expert)
            w.add_expert_used_count(tiny.n_expert_used)
            w.add_expert_feed_forward_length(tiny.n_ff)
    tokens = [*_byte_tokens(), "ab", "<|end|>"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL])
    w.add_token_merges(["a b"])
    w.add_bos_token_id(EOS)
    w.add_eos_token_id(EOS)
    if chat:
        w.add_chat_template(chat)
    w.add_add_bos_token("bos" in adds)
    w.add_add_eos_token("eos" in adds)
    for name, weight in tiny.weights.items():
        w.add_tensor(name, weight)
    w.write_header_to_file(path)
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if part else path


def _byte_tokens() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    stand_ins = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in stand_ins]
    stand_ins |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [stand_ins[byte] for byte in range(256)]


def long_rope(arch: str, original: int, path: Path) -> Path:
    """A model of 512 tokens that turns positions otherwise in a context beyond `original`."""
    shape = build(arch)
    shape.original_ctx = original
    half = shape.head_dim // 2
    shape.weights["rope_factors_short.weight"] = np.ones(half, np.float32)
    shape.weights["rope_factors_long.weight"] = np.linspace(1, 9, half).astype(np.float32)
    return write(shape, path)
