"""A decoder in plain numpy, and the paper's interventions on it.

Written from the definition of the architectures and from the paper, for the tiny models of
tiny.py: no KV cache, no batches, one whole float64 forward pass for every token. Shares nothing
with localprobe but the random draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tiny import Tiny

Array = np.ndarray
Change = Callable[[int, Array], Array]


def logits(
    tiny: Tiny, tokens: Sequence[int], change: Change = lambda k, h: h, off_from: int | None = None
) -> Array:
    """Next-token logits (n_vocab,) of the last token.

    change(k, h) replaces h (n_tokens, n_embd), the input of block k. Attention contributes
    nothing from block off_from on.
    """
    return _run(tiny, tokens, change, off_from)[0]


def states(tiny: Tiny, tokens: Sequence[int]) -> list[Array]:
    """The clean input of every block, (n_tokens, n_embd)."""
    return _run(tiny, tokens, lambda k, h: h, None)[1]


def intervened(
    tiny: Tiny,
    tokens: Sequence[int],
    name: str,
    k: int,
    draw: Callable[[str, Array, int], Array],
    injection: tuple[Sequence[int], Sequence[int], Sequence[int]] | None = None,
) -> Array:
    """Logits of the last token with every token but the last manipulated, as in the paper.

    draw(name, past, k) gives the random or shuffled states. injection: donor tokens, positions,
    donor positions.
    """
    if name == "skip":
        return logits(tiny, tokens, off_from=k)
    clean = states(tiny, tokens)
    donor = states(tiny, injection[0]) if injection else None

    def change(layer: int, h: Array) -> Array:
        h = h.copy()
        if name in ("random", "shuffle") and layer == k:
            h[:-1] = draw(name, h[:-1].astype(np.float32), k)
        if name == "freeze" and layer >= k:
            h[:-1] = clean[k - 1][:-1]
        if name == "inject" and layer == k:
            assert injection is not None and donor is not None
            for at, donor_at in zip(injection[1], injection[2], strict=True):
                h[at] = donor[k][donor_at]
        return h

    return logits(tiny, tokens, change)


def _run(
    tiny: Tiny, tokens: Sequence[int], change: Change, off_from: int | None
) -> tuple[Array, list[Array]]:
    weights = {name: weight.astype(np.float64) for name, weight in tiny.weights.items()}
    h = weights["token_embd.weight"][list(tokens)]
    if tiny.arch == "gemma3":
        h = h * np.sqrt(tiny.n_embd)
    seen = []
    for k in range(tiny.n_layer):
        h = change(k, h)
        seen.append(h)
        w = {
            name.removeprefix(f"blk.{k}."): weight
            for name, weight in weights.items()
            if name.startswith(f"blk.{k}.")
        }
        attention = _attention(tiny, w, k, _rms(h, w["attn_norm.weight"], tiny.eps))
        if tiny.arch == "gemma3":
            attention = _rms(attention, w["post_attention_norm.weight"], tiny.eps)
        if off_from is not None and k >= off_from:
            attention = np.zeros_like(attention)
        h = h + attention
        mlp = _mlp(tiny, w, _rms(h, w["ffn_norm.weight"], tiny.eps))
        if tiny.arch == "gemma3":
            mlp = _rms(mlp, w["post_ffw_norm.weight"], tiny.eps)
        h = h + mlp
    out = weights.get("output.weight", weights["token_embd.weight"])
    return out @ _rms(h[-1:], weights["output_norm.weight"], tiny.eps)[0], seen


def _rms(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def _attention(tiny: Tiny, w: dict[str, Array], k: int, x: Array) -> Array:
    n = len(x)

    def heads(name: str, count: int) -> Array:
        projected = x @ w[f"attn_{name}.weight"].T + w.get(f"attn_{name}.bias", 0)
        return projected.reshape(n, count, tiny.head_dim)

    q, key, value = (
        heads("q", tiny.n_head),
        heads("k", tiny.n_head_kv),
        heads("v", tiny.n_head_kv),
    )
    is_global = not tiny.sliding_window or k % 6 == 5
    base = tiny.rope_base if is_global else 10000.0
    if tiny.arch == "gemma3":
        q = _rms(q, w["attn_q_norm.weight"], tiny.eps)
        key = _rms(key, w["attn_k_norm.weight"], tiny.eps)
    q, key = _rope(tiny, q, base), _rope(tiny, key, base)
    # Grouped queries: head i reads the keys of group i // (n_head / n_head_kv).
    group = tiny.n_head // tiny.n_head_kv
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    scores = np.einsum("ihd,jhd->hij", q, key) / np.sqrt(tiny.head_dim)
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    hidden = j > i
    if not is_global:
        hidden |= i - j >= tiny.sliding_window
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("hij,jhd->ihd", weights, value).reshape(n, -1)
    return mixed @ w["attn_output.weight"].T


def _rope(tiny: Tiny, x: Array, base: float) -> Array:
    """Rotary embedding: llama's weights pair neighbours (2i, 2i+1), the others (i, i + d/2)."""
    half = tiny.head_dim // 2
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    if tiny.arch == "llama":
        a, b = x[..., 0::2], x[..., 1::2]
    else:
        a, b = x[..., :half], x[..., half:]
    rotated_a, rotated_b = a * cos - b * sin, a * sin + b * cos
    out = np.empty_like(x)
    if tiny.arch == "llama":
        out[..., 0::2], out[..., 1::2] = rotated_a, rotated_b
    else:
        out[..., :half], out[..., half:] = rotated_a, rotated_b
    return out


def _mlp(tiny: Tiny, w: dict[str, Array], x: Array) -> Array:
    gate, up = x @ w["ffn_gate.weight"].T, x @ w["ffn_up.weight"].T
    if tiny.arch == "gemma3":
        # ggml looks GELU up in a table over float16 numbers: its one step that is not float32.
        x16 = gate.astype(np.float16).astype(np.float32)
        gelu = 0.5 * x16 * (1 + np.tanh(np.sqrt(2 / np.pi) * x16 * (1 + 0.044715 * x16 * x16)))
        active = gelu.astype(np.float16).astype(np.float64)
        active = np.where(gate <= -10, 0, np.where(gate >= 10, gate, active))
    else:
        active = gate / (1 + np.exp(-gate))
    return (active * up) @ w["ffn_down.weight"].T
