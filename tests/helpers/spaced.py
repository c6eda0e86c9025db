"""A tiny llama with a SentencePiece vocabulary, which puts a space before every text."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from helpers import tiny

WORDS = ("  ", " Paris", "Paris", " Rome", " is")


def write(path: Path) -> Path:
    t = tiny.build("llama")
    # What is spelt out of a word's letters must be there, too; earlier ones are merged first.
    parts = [word[:end] for word in WORDS for end in range(len(word), 0, -1)]
    pieces = [*dict.fromkeys([*sorted(parts, key=len, reverse=True), *"aeimoprsPR "])]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(pieces)
    # Two spaces go together before anything else, as in Llama 2.
    scores = [0.0 if piece == "  " else -1.0 - n for n, piece in enumerate(pieces)]
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(t.n_layer)
    w.add_context_length(t.n_ctx)
    w.add_embedding_length(t.n_embd)
    w.add_feed_forward_length(t.n_ff)
    w.add_head_count(t.n_head)
    w.add_head_count_kv(t.n_head_kv)
    w.add_layer_norm_rms_eps(t.eps)
    w.add_rope_dimension_count(t.head_dim)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("llama")
    w.add_token_list([*texts, *(piece.replace(" ", "▁") for piece in pieces)])
    w.add_token_scores([0.0] * len(texts) + scores)
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(True)
    w.add_add_space_prefix(True)
    rng = np.random.default_rng(0)
    for name, weight in t.weights.items():
        if name in ("token_embd.weight", "output.weight"):
            weight = rng.standard_normal((len(kinds), t.n_embd)).astype(np.float32)
        w.add_tensor(name, weight)
    w.write_header_to_file(path)
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
