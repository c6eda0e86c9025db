"""The same interventions as one writes them in PyTorch, and in TransformerLens where it is there.

Both work on the weights of a GGUF, as dense tensors: transformers can leave them packed and unpack
them at each use, which would be no fair opponent. Row i of a batch has its intervention at layer
layers[i], so that all layers of a prompt, and several prompts, can be one batch. What is below a
layer is the same in many rows; starting each row at its own layer is no longer what one writes in
an evening, and is not done.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PATCHES = ("random", "shuffle", "freeze", "skip")


class NextLogits(Protocol):
    n_layer: int

    def next_logits(
        self, prompts: list[list[int]], patch: str, layers: list[int]
    ) -> torch.Tensor: ...


def dense(gguf: Path, dtype: torch.dtype) -> Any:
    """The GGUF's weights in transformers. Raises SystemExit where one of them is not dense."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=dtype,
        attn_implementation="sdpa",
        quantization_config=GgufConfig(dequantize=True),
    ).eval()
    for name, module in model.named_modules():
        for weight in module.parameters(recurse=False):
            if "Linear" in type(module).__name__:
                shape = (module.out_features, module.in_features)
                is_plain = type(module) is torch.nn.Linear and module.weight.shape == shape
            else:
                is_plain = True
            if weight.dtype != dtype or not is_plain:
                raise SystemExit(f"{name}: {type(module).__name__}, {weight.dtype}: not dense")
    return model


def what(model: Any) -> str:
    """What its weights are, and what they are multiplied with."""
    classes = Counter(type(each).__name__ for each in model.modules() if "Linear" in str(each)[:9])
    types = Counter(str(each.dtype).removeprefix("torch.") for each in model.parameters())
    linear = ", ".join(f"{n} {name}" for name, n in classes.items())
    return f"{linear}; parameters: " + ", ".join(f"{n} of {kind}" for kind, n in types.items())


class Peer:
    """A transformers model with hooks, all of the work in place."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.hidden = torch.empty(0, dtype=torch.long)
        self.blocks = self.model.model.layers
        self.n_layer = len(self.blocks)
        self.patch, self.layers = "", torch.empty(0)
        self.frozen: dict[int, torch.Tensor] = {}
        for number, block in enumerate(self.blocks):
            block.register_forward_pre_hook(self._before(number), with_kwargs=True)
            block.self_attn.register_forward_hook(self._attended(number))
            block.self_attn.register_forward_pre_hook(self._hides(number), with_kwargs=True)

    @torch.inference_mode()
    def next_logits(self, prompts: list[list[int]], patch: str, layers: list[int]) -> torch.Tensor:
        """(prompts x layers, n_vocab): the last token's logits with the patch at each layer.

        The prompts must be of one length.
        """
        self.patch, self.layers, self.frozen = patch, torch.tensor(layers * len(prompts)), {}
        batch = torch.tensor([prompt for prompt in prompts for _ in layers])
        return self.model(batch, use_cache=False, logits_to_keep=1).logits[:, -1]

    @torch.inference_mode()
    def knocked_out(self, prompt: list[int], layer: int, tokens: list[int]) -> torch.Tensor:
        """(len(tokens), n_vocab): from the layer on, row i's last token does not see tokens[i]."""
        self.patch, self.layers = "knockout", torch.tensor([layer])
        self.hidden = torch.tensor(tokens)
        batch = torch.tensor([prompt] * len(tokens))
        return self.model(batch, use_cache=False, logits_to_keep=1).logits[:, -1]

    def _hides(self, block: int) -> Callable[..., object]:
        def hook(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]):
            if self.patch != "knockout":
                return None
            h = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            n = h.shape[1]
            mask = torch.full((n, n), -torch.inf, dtype=h.dtype).triu(1)
            mask = mask.repeat(len(self.hidden), 1, 1, 1)
            if block >= int(self.layers[0]):
                mask[torch.arange(len(self.hidden)), 0, -1, self.hidden] = -torch.inf
            return args, {**kwargs, "attention_mask": mask}

        return hook

    def _before(self, block: int) -> Callable[..., object]:
        def hook(_module: object, args: tuple[torch.Tensor, ...], kwargs: dict[str, object]):
            if self.patch not in ("random", "shuffle", "freeze"):
                return None
            h = args[0]
            if self.patch == "freeze":
                return (_frozen(h, block, self.layers, self.frozen), *args[1:]), kwargs
            here = (self.layers == block).nonzero().flatten()
            if not len(here):
                return None
            return (_written(h, self.patch, here), *args[1:]), kwargs

        return hook

    def _attended(self, block: int) -> Callable[..., object]:
        def hook(_module: object, _args: object, output: tuple[torch.Tensor, ...]):
            if self.patch != "skip":
                return None
            off = (self.layers <= block)[:, None, None]
            return (output[0].masked_fill(off, 0.0), *output[1:])

        return hook


class Lens:
    """TransformerLens: run_with_hooks, hooks of the layers that are asked for.

    model: a dense one without hooks, of the GGUF.
    """

    def __init__(self, gguf: Path, model: Any) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
            self.model = TransformerBridge.boot_transformers(
                folder, device="cpu", dtype=model.dtype
            )
        self.n_layer = self.model.cfg.n_layers

    @torch.inference_mode()
    def next_logits(self, prompts: list[list[int]], patch: str, layers: list[int]) -> torch.Tensor:
        """As `Peer.next_logits`."""
        batch = torch.tensor([prompt for prompt in prompts for _ in layers])
        every = torch.tensor(layers * len(prompts))
        frozen: dict[int, torch.Tensor] = {}

        def writes(h: torch.Tensor, hook: object, block: int) -> torch.Tensor:
            return _written(h, patch, (every == block).nonzero().flatten())

        def freezes(h: torch.Tensor, hook: object, block: int) -> torch.Tensor:
            return _frozen(h, block, every, frozen)

        def turns_off(out: torch.Tensor, hook: object, block: int) -> torch.Tensor:
            return out.masked_fill((every <= block)[:, None, None], 0.0)

        start = min(layers)
        on = range(start - (patch == "freeze"), self.n_layer)
        if patch == "skip":
            hooks = [(f"blocks.{k}.hook_attn_out", partial(turns_off, block=k)) for k in on]
        elif patch == "freeze":
            hooks = [(f"blocks.{k}.hook_resid_pre", partial(freezes, block=k)) for k in on]
        elif patch:
            hooks = [
                (f"blocks.{k}.hook_resid_pre", partial(writes, block=k)) for k in sorted({*layers})
            ]
        else:
            hooks = []
        return self.model.run_with_hooks(batch, return_type="logits", fwd_hooks=hooks)[:, -1]


def _written(h: torch.Tensor, patch: str, rows: torch.Tensor) -> torch.Tensor:
    """All tokens but the last, in these rows: noise of the same norm, or shuffled."""
    h = h.clone()
    past = h[rows, :-1]
    if patch == "random":
        noise = torch.randn_like(past)
        past = noise * past.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    else:
        past = past.gather(-1, torch.rand_like(past).argsort(dim=-1))
    h[rows, :-1] = past
    return h


def _frozen(
    h: torch.Tensor, block: int, layers: torch.Tensor, frozen: dict[int, torch.Tensor]
) -> torch.Tensor:
    """freeze at layer k: from there on what tokens held at k - 1. Noted, then put back."""
    rows = [row for row, layer in enumerate(layers.tolist()) if layer <= block]
    for row in (layers == block + 1).nonzero().flatten().tolist():
        frozen[row] = h[row, :-1].clone()
    if not rows:
        return h
    h = h.clone()
    h[rows, :-1] = torch.stack([frozen[row] for row in rows])
    return h


class Peers:
    """All of them on the weights of one GGUF, by name; what is asked and said is plain data."""

    def __init__(self, gguf: Path, threads: int, kinds: Sequence[str], *, lens: bool) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.said: list[str] = []
        self._peers: dict[str, NextLogits] = {}
        for kind in kinds:
            model = dense(gguf, getattr(torch, kind))
            self.said.append(f"PyTorch {kind}: {what(model)}")
            if lens:
                self._peers[f"TransformerLens {kind}"] = Lens(gguf, model)
            self._peers[f"PyTorch {kind}"] = Peer(model)

    def names(self) -> list[str]:
        return list(self._peers)

    def about(self) -> str:
        """What they are, a line each, and with what they compute."""
        capability = torch.backends.cpu.get_cpu_capability()
        with_what = (
            f"torch {torch.__version__} ({capability}, oneDNN "
            f"{torch.backends.mkldnn.is_available()}), transformers {transformers.__version__}, "
            f"{torch.get_num_threads()} threads"
        )
        return "\n".join([*self.said, with_what])

    def check(self, prompt: list[int], clean: int) -> None:
        """All say the same next token, and what each does is what it is called.

        In float32, batched layers are what layers one by one are, and all peers agree. bfloat16
        rounds away up to a fifth of the logits; so there each answer must be nearer to float32's of
        the same patch at the same layer than to any other: clean, of the other patch, at the other
        layer.
        """
        reference = self._peers["PyTorch float32"]
        layers = [reference.n_layer // 3, reference.n_layer * 2 // 3]
        batches = [("", [0]), ("freeze", layers), ("skip", layers)]
        alone = [(patch, [k]) for patch, some in batches for k in some]
        exact = _logits(reference, prompt, alone)
        for name, peer in self._peers.items():
            found = _logits(peer, prompt, batches)
            if int(found[0].argmax()) != clean:
                raise SystemExit(f"{name} answers token {int(found[0].argmax())}, not {clean}")
            if name.endswith("float32"):
                for other in (exact, _logits(peer, prompt, alone)):
                    if bool(((found - other).norm(dim=1) > 1e-3 * exact.norm(dim=1)).any()):
                        raise SystemExit(f"{name}: layers in a batch are another thing")
            nearest = torch.cdist(found, exact).argmin(dim=1).tolist()
            if nearest != list(range(len(alone))):
                raise SystemExit(f"{name}: of {alone}, nearest to {nearest} in float32")

    def next_tokens(self, name: str, prompt: list[int], patch: str, layers: list[int]) -> list[int]:
        """The likeliest next token with the patch at each layer, as one batch."""
        logits = self._peers[name].next_logits([prompt], patch, layers)
        return [int(token) for token in logits.argmax(-1)]

    def work(self, name: str, groups: list[list[list[int]]], *, one_batch: bool) -> None:
        """All patches at all layers of prompts; see `work`."""
        work(self._peers[name], groups, one_batch=one_batch)

    def at_layers(self, name: str, prompts: list[list[int]], layers: list[int]) -> None:
        """All patches at some layers of prompts, the layers of a prompt as one batch."""
        for prompt in prompts:
            for patch in PATCHES:
                defined = [k for k in layers if k > 0 or patch != "freeze"]
                self._peers[name].next_logits([prompt], patch, defined)

    def knock_out(
        self, name: str, prompt: list[int], cells: list[tuple[int, list[int]]]
    ) -> list[int]:
        """From a layer on, each of some tokens is hidden; the likeliest token for the last one."""
        peer = self._peers[name]
        assert isinstance(peer, Peer)
        found = [peer.knocked_out(prompt, layer, tokens)[-1] for layer, tokens in cells]
        return [int(logits.argmax()) for logits in found]


def _logits(
    peer: NextLogits, prompt: list[int], asked: Sequence[tuple[str, list[int]]]
) -> torch.Tensor:
    """(rows, n_vocab) in float32, of patches at layers, each of them one batch."""
    return torch.cat([peer.next_logits([prompt], *each).float() for each in asked])


def work(peer: NextLogits, groups: list[list[list[int]]], *, one_batch: bool) -> None:
    """All patches at all layers of prompts; those of a group are one batch, with all layers."""
    for patch in PATCHES:
        layers = list(range(1 if patch == "freeze" else 0, peer.n_layer))
        for group in groups:
            for chosen in [layers] if one_batch else [[layer] for layer in layers]:
                peer.next_logits(group, patch, chosen)
