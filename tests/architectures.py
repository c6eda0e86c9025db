"""Tiny random models of every decoder architecture that llama.cpp knows, and what comes of them.

    python tests/architectures.py                  # all of them, some ten minutes
    python tests/architectures.py falcon qwen35    # some

The metadata is ours; which tensors belong to it, and of which shape, llama.cpp says: it makes a
model from metadata alone (llama_model_init_from_user), and is asked for the tensors that it made.
Where it does not like the metadata it ends the process: each model is made in one of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from localprobe.models.known import KNOWN

EMBD, HEADS, FF, LAYERS, CTX, VOCAB = 64, 2, 96, 6, 256, 258

ARCHITECTURES = [
    "llama",
    "llama4",
    "deci",
    "falcon",
    "grok",
    "gpt2",
    "gptneox",
    "mpt",
    "baichuan",
    "starcoder",
    "refact",
    "bloom",
    "stablelm",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "qwen3next",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen35",
    "qwen35moe",
    "qwen4exp",
    "phi2",
    "phi3",
    "phimoe",
    "plamo",
    "plamo2",
    "plamo3",
    "codeshell",
    "orion",
    "internlm2",
    "minicpm",
    "minicpm3",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3n",
    "gemma4",
    "starcoder2",
    "mamba",
    "mamba2",
    "maple",
    "jamba",
    "falcon-h1",
    "xverse",
    "command-r",
    "cohere2",
    "cohere2moe",
    "dbrx",
    "olmo",
    "olmo2",
    "olmoe",
    "muse-glimmer",
    "openelm",
    "arctic",
    "deepseek",
    "deepseek2",
    "deepseek2-ocr",
    "deepseek32",
    "deepseek4",
    "chatglm",
    "glm4",
    "glm4moe",
    "glm-dsa",
    "bitnet",
    "jais",
    "jais2",
    "nemotron",
    "nemotron_h",
    "nemotron_h_moe",
    "exaone",
    "exaone4",
    "exaone-moe",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "arwkv7",
    "granite",
    "granitemoe",
    "granitehybrid",
    "graniteswitch",
    "granite_swa",
    "chameleon",
    "plm",
    "bailingmoe",
    "bailingmoe2",
    "bailingmoe3",
    "dots1",
    "dots3note",
    "arcee",
    "afmoe",
    "laguna",
    "ernie4_5",
    "ernie4_5-moe",
    "hunyuan-moe",
    "hunyuan-dense",
    "hunyuan_vl",
    "hy_v3",
    "hy_v4",
    "smollm3",
    "gpt-oss",
    "lfm2",
    "lfm2moe",
    "smallthinker",
    "seed_oss",
    "grovemoe",
    "apertus",
    "minimax-01",
    "hrm_text",
    "minimax-m2",
    "minimax-m3",
    "cogvlm",
    "pangu-embedded",
    "mistral3",
    "mistral4",
    "paddleocr",
    "mimo2",
    "step35",
    "spark2_5",
    "maincoder",
    "kimi-linear",
    "kimi-k3",
    "glm5-next",
    "talkie",
    "mellum",
    "nanbeige",
    "qwen3tts",
    "pockettts",
]
"""All of the bundled llama.cpp that decode: neither encoders nor drafts nor diffusion models."""

MLA = ["deepseek2", "deepseek32", "glm-dsa", "kimi-linear", "mistral4"]
PER_LAYER_HEADS = [
    "plamo2",
    "jamba",
    "nemotron_h",
    "nemotron_h_moe",
    "granitehybrid",
    "lfm2",
    "lfm2moe",
    "kimi-linear",
]
NEED_EXPERTS = [
    "llama4",
    "cohere2moe",
    "grok",
    "qwen2moe",
    "qwen3moe",
    "qwen3next",
    "qwen3vlmoe",
    "qwen35moe",
    "phimoe",
    "dbrx",
    "olmoe",
    "arctic",
    "deepseek",
    "deepseek2",
    "deepseek32",
    "glm4moe",
    "glm-dsa",
    "exaone-moe",
    "bailingmoe",
    "bailingmoe2",
    "dots1",
    "afmoe",
    "ernie4_5-moe",
    "hunyuan-moe",
    "gpt-oss",
    "lfm2moe",
    "smallthinker",
    "grovemoe",
    "minimax-m2",
    "mimo2",
    "kimi-linear",
    "step35",
    "mistral4",
    "mellum",
    "nomic-bert-moe",
    "nemotron_h_moe",
    "granitemoe",
    "granitehybrid",
    "deepseek2-ocr",
    "maple",
    "deepseek4",
    "dots3note",
    "laguna",
    "hy_v3",
    "hy_v4",
    "bailingmoe3",
    "kimi-k3",
    "glm5-next",
    "minimax-m3",
    "minimax-01",
    "qwen4exp",
    "jamba",
    "hunyuan-moe",
]
ALTERNATING = [bool(block % 2) for block in range(LAYERS)]
ARRAY_PATTERN = [
    "gemma4",
    "granite_swa",
    "mimo2",
    "step35",
    "spark2_5",
    "maple",
    "dots3note",
    "cohere2moe",
    "deepseek4",
    "hy_v4",
    "laguna",
]
KDA = {
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 32,
    "attention.key_length": 128 + 16,
    "attention.value_length": 128,
    "rope.dimension_count": 16,
    "attention.head_count_kv": [0, 1, 0, 1, 0, 1],
}
HYPER = {
    "hyper_connection.count": 4,
    "hyper_connection.sinkhorn_iterations": 3,
    "hyper_connection.epsilon": 1e-6,
}
OWN: dict[str, dict[str, Any]] = {
    "gemma4": {
        "embedding_length_per_layer_input": 16,
        "attention.key_length_swa": 32,
        "attention.value_length_swa": 32,
        "attention.shared_kv_layers": 2,
        "final_logit_softcapping": 30.0,
        "attention.sliding_window_pattern": [not is_local for is_local in ALTERNATING],
    },
    "qwen3next": {"ssm.state_size": 64},
    "qwen35": {"ssm.state_size": 64},
    "qwen35moe": {"ssm.state_size": 64},
    "rwkv6qwen2": {"token_shift_count": 1},
    "qwen4exp": {**HYPER, "ssm.state_size": 64, "hyper_connection.low_rank": 8},
    "rwkv7": {
        f"attention.{x}_lora_rank": 16 for x in ("decay", "iclr", "value_residual_mix", "gate")
    },
    "arwkv7": {
        f"attention.{x}_lora_rank": 16 for x in ("decay", "iclr", "value_residual_mix", "gate")
    },
    "graniteswitch": {
        "adapters.count": 2,
        "adapters.lora_rank": 4,
        "adapters.token_ids_activate": [250, 251],
        "adapters.token_ids_substitute": [252, 253],
        "adapters.router_gain": 1.0,
    },
    "bailingmoe3": {**KDA, "rope.dimension_sections": [2, 2, 2, 2], "kda.gate_lower_bound": -5.0},
    "kimi-k3": {
        **KDA,
        "attn_res.block_size": 2,
        "activation.situ_beta": 1.0,
        "activation.situ_linear_beta": 1.0,
        "expert_latent_length": 32,
    },
    "glm5-next": {
        **KDA,
        **HYPER,
        "attention.indexer.kpool": 4,
        "rope.dimension_count": 0,
        "attention.key_length": 128,
        "attention.key_length_mla": 32,
    },
    "dots3note": {
        "attention.head_count_kv": 1,
        "attention.key_length": 128 + 16,
        "attention.value_length": 128,
        "rope.dimension_count": 16,
        "attention.key_length_mla": 48,
        "attention.value_length_mla": 32,
        "attention.kv_lora_rank_swa": 128,
        "attention.key_length_mla_swa": 48,
        "attention.value_length_mla_swa": 32,
        "attention.indexer.types": [True] * LAYERS,
        "rope.freq_base_swa": 10000.0,
    },
    "glm-dsa": {"attention.indexer.types": [True, False, True, False, False, True]},
    "hy_v4": {
        **HYPER,
        "hyper_connection.magnitude": 1.0,
        "attention.head_count_kv": 1,
        "attention.key_length": 128 + 16,
        "attention.value_length": 128,
        "rope.dimension_count": 16,
        "attention.key_length_mla": 48,
        "attention.value_length_mla": 32,
        "attention.indexer.types": [True] * LAYERS,
    },
    "deepseek4": {
        **HYPER,
        "expert_gating_func": 4,
        "attention.head_count_kv": 1,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "swiglu_clamp_exp": [7.0] * LAYERS,
        "attention.output_group_count": 1,
        "attention.output_lora_rank": 16,
        "attention.compress_rope_freq_base": 10000.0,
        "attention.compress_ratios": [0, 4, 0, 4, 0, 4],
        "hash_layer_count": 0,
    },
    "maple": {"swiglu_clamp_exp": [7.0] * LAYERS},
    "minimax-01": {"residual_scale": 1.0},
    "minimax-m3": {"attention.indexer.block_size": 4, "attention.indexer.local_blocks": 1},
    "hrm_text": {"hrm.layers_per_stack": 3, "hrm.h_cycles": 1, "hrm.l_cycles": 1},
}


def metadata(arch: str) -> dict[str, Any]:
    """Of a small model, what most architectures ask for and some of their own."""
    embd, heads, ff, layers, vocab = EMBD, HEADS, FF, LAYERS, VOCAB
    if arch in MLA:
        embd, heads, ff = 128, 1, 192
    if arch == "gemma3n":
        layers = 24
    if arch == "chameleon":
        vocab = 10240
    head = embd // heads
    found: dict[str, Any] = {
        "vocab_size": vocab,
        "context_length": CTX,
        "embedding_length": embd,
        "features_length": embd,
        "block_count": layers,
        "leading_dense_block_count": 1,
        "feed_forward_length": ff,
        "use_parallel_residual": arch == "gptneox",
        "logit_scale": 1.0,
        "time_mix_extra_dim": 16,
        "time_decay_extra_dim": 32,
        "full_attention_interval": 2,
        "attention.head_count": heads,
        "attention.head_count_kv": heads,
        "attention.max_alibi_bias": 8.0,
        "attention.clamp_kqv": 1.0,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5,
        "attention.group_norm_groups": 8,
        "attention.q_lora_rank": 128,
        "attention.kv_lora_rank": 128,
        "attention.relative_buckets_count": 8,
        "attention.sliding_window": 32,
        "attention.sliding_window_pattern": 2,
        "attention.indexer.head_count": 1,
        "attention.indexer.key_length": 64,
        "attention.indexer.top_k": 8,
        "rope.dimension_sections": [head // 4] * 4,
        "xielu.alpha_n": [1.0] * layers,
        "xielu.alpha_p": [1.0] * layers,
        "xielu.beta": [1.0] * layers,
        "xielu.eps": [1e-7] * layers,
        "ssm.inner_size": 2 * embd,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 16,
        "ssm.time_step_rank": heads,
        "ssm.group_count": 0 if arch == "plamo2" else 2,
        "kda.head_dim": 32,
        "wkv.head_size": head,
        "shortconv.l_cache": 3,
    }
    if arch in MLA:
        found |= {
            "attention.key_length": 128 + 64,
            "attention.value_length": 128,
            "rope.dimension_count": 64,
            "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
        }
    if arch in NEED_EXPERTS:
        found |= {
            "expert_feed_forward_length": ff,
            "interleave_moe_layer_step": 2,
            "expert_count": 4,
            "expert_used_count": 2,
            "expert_shared_count": 1,
            "expert_gating_func": 2,
            "expert_group_scale": 1.0,
            "experts_per_group": 1,
        }
    if arch in PER_LAYER_HEADS:
        found["attention.head_count"] = [0 if b % 2 else heads for b in range(layers)]
        found["attention.head_count_kv"] = found["attention.head_count"]
    if arch.startswith("nemotron_h"):
        # A block is attention, state space or feed-forward.
        found["attention.head_count_kv"] = found["attention.head_count"] = [heads, 0, 0] * 2
        found["feed_forward_length"] = [0, 0, ff] * 2
        found["expert_shared_feed_forward_length"] = ff
    if arch in ARRAY_PATTERN:
        found["attention.sliding_window_pattern"] = ALTERNATING
    return found | OWN.get(arch, {})


def write(arch: str, path: Path, tensors: dict[str, np.ndarray], changes: dict[str, Any]) -> None:
    found = metadata(arch) | changes
    w = gguf.GGUFWriter(path, arch)
    for key, value in found.items():
        if value is None:
            continue
        key = key if key.startswith("xielu") else f"{arch}.{key}"
        if isinstance(value, bool):
            w.add_bool(key, value)
        elif isinstance(value, int):
            w.add_uint32(key, value)
        elif isinstance(value, float):
            w.add_float32(key, value)
        elif isinstance(value, str):
            w.add_string(key, value)
        else:
            w.add_array(key, value)
    n = found["vocab_size"]
    from helpers.tiny import _byte_tokens

    tokens = [*_byte_tokens(), "ab", "<|end|>"]
    tokens += [f"<unused{i}>" for i in range(len(tokens), n)]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([1] * 257 + [3] + [5] * (n - 258))
    w.add_token_merges(["a b"])
    w.add_bos_token_id(257)
    w.add_eos_token_id(257)
    w.add_add_bos_token(False)
    for name, data in tensors.items():
        w.add_tensor(name, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def shapes(stub: Path) -> dict[str, tuple[int, ...]]:
    """The tensors that llama.cpp makes of the metadata alone, by name."""
    import llama_cpp.llama_cpp as llama

    from localprobe.llama import backend, ggml

    class Init(ctypes.Structure):
        _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

    backend.start()
    open_gguf = ggml.function("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, Init)
    context = open_gguf(str(stub).encode(), Init(True, None))
    found: dict[str, tuple[int, ...]] = {}

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    def note(address: int, _: object) -> None:
        tensor = ggml.at(address)
        assert tensor.type == 0, tensor.name
        found[tensor.name.decode()] = tuple(reversed(tensor.ne))

    make = llama._lib.llama_model_init_from_user
    make.restype = ctypes.c_void_p
    make.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, llama.llama_model_params]
    model = make(
        context, ctypes.cast(note, ctypes.c_void_p), None, llama.llama_model_default_params()
    )
    if not model:
        raise SystemExit(f"no model: {backend.last_error()}")
    return {
        k: (
            s[3:] if s[:3] == (1, 1, 1) else s[2:] if s[:2] == (1, 1) else s[1:] if s[0] == 1 else s
        )
        for k, s in found.items()
    }


def weights(shape: dict[str, tuple[int, ...]], arch: str, scales: bool) -> dict[str, np.ndarray]:
    """Random weights, each the same in every run. scales: those that quantized weights may have."""
    made = {}
    for name, size in shape.items():
        if "scale" in name.rsplit(".", 1)[-1] and not scales:
            continue
        seed = int.from_bytes(hashlib.sha256(f"{arch} {name}".encode()).digest()[:8], "little")
        draw = np.random.default_rng(seed).standard_normal(size)
        last = name.split(".")[2:3]
        if "norm" in name and name.endswith(".weight"):
            drawn = 1 + 0.2 * draw
        elif last == ["ssm_a"]:
            drawn = -np.exp(0.5 * draw)
        elif len(size) == 1:
            drawn = 1 + 0.2 * draw if "scale" in name else 0.2 * draw
        else:
            drawn = draw if name.startswith("token_embd") else 1.5 * draw / np.sqrt(size[-1])
        made[name] = drawn.astype(np.float32)
    return made


EXPERTS = {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": FF}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama+moe": ("llama", EXPERTS),
    "granite+moe": ("granite", EXPERTS),
    "gptneox+serial": ("gptneox", {"use_parallel_residual": False}),
    "olmo2+scales": ("olmo2", {}),
    "exaone4+scales": ("exaone4", {}),
    "gemma4+dense": (
        "gemma4",
        {"embedding_length_per_layer_input": 0, "attention.shared_kv_layers": 0},
    ),
    "gemma4+shared": ("gemma4", {"embedding_length_per_layer_input": 0}),
    "glm4moe+nextn": ("glm4moe", {}),
    "qwen35+nextn": ("qwen35", {}),
}
"""Usual variants: their architecture, and what is otherwise in the metadata."""


def make(name: str, path: Path) -> Path:
    """A tiny random model. Where the metadata makes no sense, llama.cpp ends the process."""
    arch, changes = VARIANTS.get(name, (name, {}))
    stub = path.with_suffix(".stub")
    write(arch, stub, {}, changes)
    made = weights(shapes(stub), arch, name.endswith("+scales"))
    stub.unlink()
    if name.endswith("+nextn"):
        made |= _predicting_block(made)
        longer = {"block_count": LAYERS + 1, "nextn_predict_layers": 1}
        lists = {k: v for k, v in metadata(arch).items() if isinstance(v, list)}
        changes = longer | {k: [*v, v[-1]] for k, v in lists.items() if len(v) == LAYERS}
    write(arch, path, made, changes)
    return path


def _predicting_block(made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One block more, which predicts the token after the next; it has no part in usual decodes."""
    last, more = f"blk.{LAYERS - 1}.", f"blk.{LAYERS}."
    block = {k.replace(last, more): v for k, v in made.items() if k.startswith(last)}
    embd = made["token_embd.weight"].shape[1]
    ones = np.ones(embd, np.float32)
    block |= {f"{more}nextn.{norm}.weight": ones for norm in ("enorm", "hnorm", "shared_head_norm")}
    return block | {f"{more}nextn.eh_proj.weight": np.ones((embd, 2 * embd), np.float32) / embd}


PROMPT, TOKENS = "It was the best of times, it was the worst of times: an age", 4
DONOR = "It was the best of lives, it was the worst of lives: an age"


def survey(path: Path) -> dict[str, Any]:
    """What localprobe says and does about a model, resuming held to whole passes."""
    from localprobe.engine.full import FullEngine
    from localprobe.engine.interventions import Donor, by_name, kinds
    from localprobe.errors import LocalprobeError
    from localprobe.models.opening import choose_engine, open_model

    try:
        with open_model(str(path), threads=1, attention="exact") as loaded:
            model = loaded.model
            engine, reason = choose_engine(loaded)
            full = FullEngine(model)
            found = {
                "engine": engine.name,
                "why_full": reason,
                "refused": {k.name: full.why_not(k.name) for k in kinds() if full.why_not(k.name)},
                "longest": model.verdict.longest,
                "side_channels": model.side_channels(),
                "has_inputs": model.verdict.has_inputs,
                "shared": model.verdict.shared,
                "unread": model.verdict.unread,
            }
            prompt, donor = model.tokenize(PROMPT), model.tokenize(DONOR)
            if 0 < model.verdict.longest < len(prompt) + TOKENS:
                prompt, donor = (
                    prompt[: found["longest"] - TOKENS],
                    donor[: found["longest"] - TOKENS],
                )
            layers = range(model.n_layer)
            if model.n_layer > 8:
                layers = range(0, model.n_layer, 5)
            states = full.states(donor, layers)
            (clean,) = engine.clean([prompt], layers, max_tokens=TOKENS, stops=[None])
            worst, unlike = 0.0, []
            for kind in kinds():
                if full.why_not(kind.name):
                    continue
                one = by_name(kind.name, 0, Donor(states, (1,), (2,)))
                asked = [layer for layer in layers if layer >= kind.first_layer]
                cells = engine.run(
                    [clean], [one], asked, max_tokens=TOKENS, examples=[0], stops=[None]
                )
                for _, layer, answer in list(cells):
                    want = full.answer(prompt, max_tokens=TOKENS, intervention=one, layer=layer)
                    spread = float(want.logits.max() - want.logits.min())
                    worst = max(worst, float(np.abs(want.logits - answer.logits).max()) / spread)
                    if want.tokens != answer.tokens and min(want.margin, answer.margin) > 1e-3:
                        unlike.append(f"{kind.name} {layer}")
            return found | {"worst": worst, "unlike": unlike}
    except LocalprobeError as error:
        return {"error": str(error)}


def surveyed(arch: str, folder: Path) -> dict[str, Any]:
    """What comes out for an architecture, in a process of its own."""
    child = subprocess.run(
        [sys.executable, __file__, "--one", arch, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        last = (child.stderr.strip() or "no word").splitlines()[-1]
        return {"crash": f"exit code {child.returncode}: {last}"}
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def line(arch: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    for bad in ("crash", "error"):
        if bad in found:
            return f"{arch:15} {bad}: {found[bad]}"
    said = f"{arch:15} {found['engine']:6} {found['worst']:.0e}"
    if found["unlike"]:
        said += f" UNLIKE WHOLE PASSES: {', '.join(found['unlike'])}"
    for reason in dict.fromkeys(found["refused"].values()):
        names = [name for name, why in found["refused"].items() if why == reason]
        said += f" not {', '.join(names)}: {reason}"
    if found["longest"]:
        said += f" up to {found['longest']} tokens"
    if found["has_inputs"]:
        said += " per-layer inputs stay"
    if found["shared"] is not None:
        said += f" keys and values shared at {found['shared']}"
    if found["unread"] is not None:
        said += f" past unread from {found['unread']}"
    return said


def main(arguments: list[str]) -> int:
    """A table of all architectures, or of those named; each is made and tried in its own process.

    Columns: the engine; by how much resuming differs from whole passes at most, as a share of the
    logits' spread; what is refused, and why.
    """
    if arguments[:1] == ["--one"]:
        arch, folder = arguments[1], Path(arguments[2])
        path = folder / f"{arch}.gguf"
        if not path.exists():
            make(arch, path)
        print(json.dumps(survey(path)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(os.environ.get("ARCHITECTURES", temporary))
        results = {}
        for arch in arguments or [*ARCHITECTURES, *VARIANTS]:
            results[arch] = surveyed(arch, folder)
            print(line(arch, results[arch]), flush=True)
    of_kind = {arch: each for arch, each in results.items() if arch in ARCHITECTURES}
    able = [arch for arch, each in of_kind.items() if len(each.get("refused", ["all"] * 5)) <= 1]
    otherwise = sorted({*able} ^ (KNOWN & {*of_kind}))
    unlike = [arch for arch, each in results.items() if each.get("unlike")]
    crashed = [arch for arch, each in results.items() if "crash" in each]
    print(f"{len(able)} of {len(of_kind)} architectures with at least four interventions")
    print(f"unlike whole passes: {unlike or 'none'}; crashed: {crashed or 'none'}")
    print(f"not as localprobe/models/known.py has it: {otherwise or 'none'}")
    return 1 if unlike or crashed or otherwise else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
