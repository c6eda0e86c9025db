"""A decoder in plain numpy, and the paper's interventions on it.

Written from the definition of the architectures and from the paper, for the tiny models of
tiny.py: no KV cache, no batches, one whole float64 forward pass for every token. Shares nothing
with localprobe but the random draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from helpers.tiny import CONVOLVED, GEMMAS, LAYER_NORMS, ONE_NORM, Tiny

Array = np.ndarray
Change = Callable[[int, Array], Array]


Hidden = Callable[[int], Sequence[int]]


def logits(
    tiny: Tiny,
    tokens: Sequence[int],
    change: Change = lambda k, h: h,
    off_from: int | None = None,
    hidden: Hidden = lambda k: (),
) -> Array:
    """Next-token logits (n_vocab,) of the last token.

    change(k, h) replaces h (n_tokens, n_embd), the input of block k. Attention contributes
    nothing from block off_from on. In block k the last token attends to none of hidden(k).
    """
    return _run(tiny, tokens, change, off_from, hidden)[0]


def states(tiny: Tiny, tokens: Sequence[int]) -> list[Array]:
    """The clean input of every block, (n_tokens, n_embd)."""
    return _run(tiny, tokens, lambda k, h: h, None)[1]


def lens(tiny: Tiny, tokens: Sequence[int]) -> Array:
    """Logits (n_layer, n_tokens, n_vocab) of final norm and output matrix on every state."""
    return np.stack([_head(tiny, _float64(tiny), h) for h in states(tiny, tokens)])


def attention(tiny: Tiny, tokens: Sequence[int]) -> list[Array]:
    """The clean attention weights of every block, (n_head, n_tokens, n_tokens)."""
    weights: list[Array] = []
    _run(tiny, tokens, lambda k, h: h, None, shares=weights)
    return weights


def knocked_out(
    tiny: Tiny, tokens: Sequence[int], at: Sequence[int], k: int, window: int | None = None
) -> Array:
    """Logits where the last token attends to none of these positions from block k on."""
    end = tiny.n_layer if window is None else k + window
    return logits(tiny, tokens, hidden=lambda block: at if k <= block < end else ())


def touched(
    tiny: Tiny,
    tokens: Sequence[int],
    name: str,
    at: Sequence[int],
    k: int,
    draw: Callable[[str, Array, int, int], Array],
    donor: Sequence[int] = (),
    window: int | None = None,
) -> Array:
    """Logits where an intervention is made on these positions alone, in so many layers from k on.

    draw(name, state, layer, position) gives the random or shuffled state of one token. "swap": the
    state of the same position of another prompt, `donor`. window: freeze goes on to the last layer
    without one, the others stay at layer k.
    """
    clean = states(tiny, tokens)
    donated = states(tiny, donor) if donor else []
    if window is None:
        window = tiny.n_layer if name == "freeze" else 1

    def change(layer: int, h: Array) -> Array:
        h = h.copy()
        for p in at:
            if not k <= layer < k + window:
                continue
            if name == "freeze":
                h[p] = clean[k - 1][p]
            elif name == "swap":
                h[p] = donated[layer][p]
            else:
                h[p] = draw(name, h[p].astype(np.float32), layer, p)
        return h

    return logits(tiny, tokens, change)


def intervened(
    tiny: Tiny,
    tokens: Sequence[int],
    name: str,
    k: int,
    draw: Callable[[str, Array, int], Array],
    injection: tuple[Sequence[int], Sequence[int], Sequence[int]] | None = None,
    at: Sequence[int] | None = None,
) -> Array:
    """Logits of the last token with every token but the last manipulated, as in the paper.

    draw(name, past, k) gives the random or shuffled states. injection: donor tokens, positions,
    donor positions. at: the only positions that random, shuffle and freeze write to.
    """
    if name == "skip":
        return logits(tiny, tokens, off_from=k)
    clean = states(tiny, tokens)
    donor = states(tiny, injection[0]) if injection else None
    written = list(range(len(tokens) - 1)) if at is None else list(at)

    def change(layer: int, h: Array) -> Array:
        h = h.copy()
        if name in ("random", "shuffle") and layer == k:
            h[written] = draw(name, h[:-1].astype(np.float32), k)[written]
        if name == "freeze" and layer >= k:
            h[written] = clean[k - 1][written]
        if name == "inject" and layer == k:
            assert injection is not None and donor is not None
            for at, donor_at in zip(injection[1], injection[2], strict=True):
                h[at] = donor[k][donor_at]
        return h

    return logits(tiny, tokens, change)


def _float64(tiny: Tiny) -> dict[str, Array]:
    return {name: weight.astype(np.float64) for name, weight in tiny.weights.items()}


def _head(tiny: Tiny, weights: dict[str, Array], h: Array) -> Array:
    """Logits of states (..., n_embd)."""
    out = weights.get("output.weight", weights["token_embd.weight"])
    logits = _norm(tiny, weights, "output_norm", h) @ out.T + weights.get("output.bias", 0)
    return _cap(logits * (tiny.logit_scale or 1), tiny.logit_cap)


def _run(
    tiny: Tiny,
    tokens: Sequence[int],
    change: Change,
    off_from: int | None,
    hidden: Hidden = lambda k: (),
    shares: list[Array] | None = None,
) -> tuple[Array, list[Array]]:
    attended: list[Array] = [] if shares is None else shares
    weights = _float64(tiny)
    h = weights["token_embd.weight"][list(tokens)]
    if tiny.arch in GEMMAS:
        h = h * np.sqrt(tiny.n_embd)
    inputs = _inputs(tiny, weights, tokens, h) if tiny.n_input else []
    made: list[tuple[Array, Array]] = []
    if tiny.arch == "gpt2":
        h = h + weights["position_embd.weight"][: len(tokens)]
    seen = []
    for k in range(tiny.n_layer):
        h = change(k, h)
        seen.append(h)
        w = {
            name.removeprefix(f"blk.{k}."): weight
            for name, weight in weights.items()
            if name.startswith(f"blk.{k}.")
        }
        normed = _norm(tiny, w, "attn_norm", h)
        if "ssm_in.weight" in w:
            attention = _state_space(tiny, w, normed)
        else:
            w["rope_freqs"] = weights.get("rope_freqs.weight", np.ones(1))
            attention, each = _attention(tiny, w, k, normed, hidden(k), made)
            attended.append(each)
        if tiny.arch in GEMMAS:
            attention = _norm(tiny, w, "post_attention_norm", attention)
        if off_from is not None and k >= off_from:
            attention = np.zeros_like(attention)
        # In parallel, the feed-forward looks at what the attention looked at.
        seen_by_mlp = h if tiny.arch in ("gptneox", *ONE_NORM) else h + attention
        h = h + attention
        mlp_norm = "attn_norm" if tiny.arch in ONE_NORM else "ffn_norm"
        mlp = _mlp(tiny, w, _norm(tiny, w, mlp_norm, seen_by_mlp))
        if tiny.arch in GEMMAS:
            mlp = _norm(tiny, w, "post_ffw_norm", mlp)
        h = h + mlp
        if tiny.n_input:
            gated = _gelu(h @ w["inp_gate.weight"].T) * inputs[k]
            h = h + _norm(tiny, w, "post_norm", gated @ w["proj.weight"].T)
            h = h * w["layer_output_scale.weight"]
    return _head(tiny, weights, h[-1]), seen


def _inputs(tiny: Tiny, weights: dict[str, Array], tokens: Sequence[int], h: Array) -> list[Array]:
    """What each block is given beside the state, (n_tokens, n_input): of the clean embedding."""

    def by_block(rows: Array) -> Array:
        return rows.reshape(len(tokens), tiny.n_layer, tiny.n_input)

    looked_up = weights["per_layer_token_embd.weight"][list(tokens)] * np.sqrt(tiny.n_input)
    projected = by_block(h @ weights["per_layer_model_proj.weight"].T / np.sqrt(tiny.n_embd))
    projected = _norm(tiny, weights, "per_layer_proj_norm", projected)
    both = (projected + by_block(looked_up)) / np.sqrt(2)
    return [both[:, k] for k in range(tiny.n_layer)]


def _norm(tiny: Tiny, w: dict[str, Array], name: str, x: Array) -> Array:
    """RMS norm; a layer norm is that of what is left without the mean, and has a bias."""
    if tiny.arch in LAYER_NORMS:
        x = x - x.mean(-1, keepdims=True)
    scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + tiny.eps) * w[name + ".weight"]
    return scaled + w.get(name + ".bias", 0)


def _cap(x: Array, cap: float) -> Array:
    return cap * np.tanh(x / cap) if cap else x


def _softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _attention(
    tiny: Tiny,
    w: dict[str, Array],
    k: int,
    x: Array,
    unseen: Sequence[int],
    made: list[tuple[Array, Array]],
) -> tuple[Array, Array]:
    """What block k's attention contributes, and its weights.

    unseen: by the last token. made: keys and values of the blocks before it; its own are added.
    """
    n = len(x)

    def project(name: str) -> Array:
        return x @ w[f"attn_{name}.weight"].T + w.get(f"attn_{name}.bias", 0)

    if "attn_qkv.weight" in w:
        queries, keys = tiny.n_head * tiny.head_dim, tiny.n_head_kv * tiny.head_dim
        projected = np.split(project("qkv"), [queries, queries + keys], axis=1)
    else:
        projected = [project("q"), project("k"), project("v")]
    q, key, value = (each.reshape(n, -1, tiny.head_dim) for each in projected)
    is_global = not tiny.sliding_window or k % tiny.window_pattern == tiny.window_pattern - 1
    if tiny.arch in ("qwen3", "qwen3moe", "gemma3", "gemma4"):
        q = _norm(tiny, w, "attn_q_norm", q)
        key = _norm(tiny, w, "attn_k_norm", key)
    if tiny.arch not in ("gpt2", "jamba"):
        base = tiny.rope_base if is_global else 10000.0
        slower = w["rope_freqs"] if is_global else np.ones(1)
        q, key = _rope(tiny, q, base, slower), _rope(tiny, key, base, slower)
    if tiny.arch == "gemma4":
        value = value / np.sqrt((value * value).mean(-1, keepdims=True) + tiny.eps)
        n_own = tiny.n_layer - tiny.shared_kv
        if k >= n_own:
            # Those of the last block before with a window, or without one, as this has.
            key, value = made[n_own - (1 if is_global else 2)]
    made.append((key, value))
    # Grouped queries: head i reads the keys of group i // (n_head / n_head_kv).
    group = tiny.n_head // tiny.n_head_kv
    key, value = key.repeat(group, axis=1), value.repeat(group, axis=1)
    scores = np.einsum("ihd,jhd->hij", q, key)
    if tiny.arch != "gemma4":
        scores = scores / np.sqrt(tiny.head_dim)
    scores = _cap(scores, tiny.attention_cap)
    i, j = np.arange(n)[:, None], np.arange(n)[None, :]
    hidden = j > i
    if not is_global:
        hidden |= i - j >= tiny.sliding_window
    hidden[-1, list(unseen)] = True
    weights = _softmax(np.where(hidden, -np.inf, scores))
    mixed = np.einsum("hij,jhd->ihd", weights, value).reshape(n, -1)
    return mixed @ w["attn_output.weight"].T + w.get("attn_output.bias", 0), weights


def _state_space(tiny: Tiny, w: dict[str, Array], x: Array) -> Array:
    """Mamba's: a convolution, then a memory of each channel that fades and takes in what comes.

    Gu and Dao, 2023 (arXiv 2312.00752), algorithm 2; dt, B and C have norms in Jamba.
    """
    inner = 2 * tiny.n_embd
    taken, gate = np.split(x @ w["ssm_in.weight"].T, 2, axis=1)
    before = np.concatenate([np.zeros((CONVOLVED - 1, inner)), taken])
    seen = np.stack([before[i : i + CONVOLVED] for i in range(len(x))])
    taken = _silu(np.einsum("nci,ic->ni", seen, w["ssm_conv1d.weight"]) + w["ssm_conv1d.bias"])
    parts = np.split(
        taken @ w["ssm_x.weight"].T, [tiny.dt_rank, tiny.dt_rank + tiny.n_state], axis=1
    )
    dt, b, c = (
        _norm(tiny, w, f"ssm_{name}_norm", part) if f"ssm_{name}_norm.weight" in w else part
        for name, part in zip(("dt", "b", "c"), parts, strict=True)
    )
    dt = np.log1p(np.exp(dt @ w["ssm_dt.weight"].T + w["ssm_dt.bias"]))
    memory, out = np.zeros((inner, tiny.n_state)), []
    for step in range(len(x)):
        fades = np.exp(dt[step][:, None] * w["ssm_a"])
        memory = fades * memory + (dt[step] * taken[step])[:, None] * b[step]
        out.append(memory @ c[step] + w["ssm_d"] * taken[step])
    return (np.array(out) * _silu(gate)) @ w["ssm_out.weight"].T


def _rope(tiny: Tiny, x: Array, base: float, slower: Array) -> Array:
    """Rotary embedding: some pair neighbours (2i, 2i+1), the others (i, i + d/2).

    slower: by how much each pair turns slower than usual.
    """
    half = tiny.head_dim // 2
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(half) / half) / slower
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    if tiny.arch in ("llama", "command-r"):
        a, b = x[..., 0::2], x[..., 1::2]
    else:
        a, b = x[..., :half], x[..., half:]
    rotated_a, rotated_b = a * cos - b * sin, a * sin + b * cos
    out = np.empty_like(x)
    if tiny.arch in ("llama", "command-r"):
        out[..., 0::2], out[..., 1::2] = rotated_a, rotated_b
    else:
        out[..., :half], out[..., half:] = rotated_a, rotated_b
    return out


def _mlp(tiny: Tiny, w: dict[str, Array], x: Array) -> Array:
    if tiny.n_expert:
        return _experts(tiny, w, x)
    up = x @ w["ffn_up.weight"].T + w.get("ffn_up.bias", 0)
    if tiny.arch in ("gpt2", "gptneox", "falcon", "phi2"):
        active = _gelu(up)
    elif tiny.arch == "phi3":
        gate, up = np.split(up, 2, axis=1)
        active = _silu(gate) * up
    else:
        gate = x @ w["ffn_gate.weight"].T
        active = (_gelu(gate) if tiny.arch in GEMMAS else _silu(gate)) * up
    return active @ w["ffn_down.weight"].T + w.get("ffn_down.bias", 0)


def _experts(tiny: Tiny, w: dict[str, Array], x: Array) -> Array:
    """Every expert on every token, weighted; the weights are 0 but for a token's likeliest."""
    share = _softmax(x @ w["ffn_gate_inp.weight"].T)
    least = np.sort(share)[:, -tiny.n_expert_used, None]
    share = np.where(share < least, 0, share)
    share /= share.sum(-1, keepdims=True)
    gate = np.einsum("nd,efd->nef", x, w["ffn_gate_exps.weight"])
    up = np.einsum("nd,efd->nef", x, w["ffn_up_exps.weight"])
    return np.einsum("ne,nef,edf->nd", share, _silu(gate) * up, w["ffn_down_exps.weight"])


def _silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def _gelu(x: Array) -> Array:
    # ggml looks GELU up in a table over float16 numbers: its one step that is not float32.
    x16 = x.astype(np.float16).astype(np.float32)
    gelu = 0.5 * x16 * (1 + np.tanh(np.sqrt(2 / np.pi) * x16 * (1 + 0.044715 * x16 * x16)))
    gelu = gelu.astype(np.float16).astype(np.float64)
    return np.where(x <= -10, 0, np.where(x >= 10, x, gelu))
