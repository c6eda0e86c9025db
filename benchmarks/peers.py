"""The same work in PyTorch, on the weights dequantised from the same GGUF.

    python benchmarks/peers.py [-m MODEL ...] [--tokens 200]
    python benchmarks/peers.py --map [-m MODEL ...]

Needs torch, transformers and accelerate, which localprobe itself never does. random, shuffle,
freeze and skip, next token at all layers of capitals prompts: in PyTorch with one forward pass a
layer, as the paper's code does it, and with all layers of a prompt as one batch; in localprobe by
resuming, the clean pass included. PyTorch in bfloat16, which on processors that know it is the
peer to beat, also with several prompts in a batch, and in float32. Runs are interleaved; medians
and ratios of one run. --tokens: prompts of so many tokens, cut from SQuAD's; else capitals.

--map: the whole knockout map of a prompt instead, layers x tokens: in PyTorch bfloat16 and float32
with a mask a layer, one pass a cell, and all tokens at a layer as one batch; in localprobe by
whole passes, one a cell, and by resuming. Of what makes one pass a cell, every 15th cell is timed.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import transformers
from transformers import AutoModelForCausalLM

from localprobe.api import Model
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Random, Shuffle, Skip
from localprobe.engine.resume import ResumeEngine
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.llama.text import Vocabulary
from localprobe.models import opening as models
from localprobe.tasks import task_by_name
from localprobe.tasks.base import TaskOptions
from localprobe.tasks.capitals import Capitals

PATCHES = ("random", "shuffle", "freeze", "skip")


class Peer:
    """A transformers model with an intervention at layer `layers[i]` in row i of the batch."""

    def __init__(self, gguf: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=dtype, attn_implementation="sdpa"
        ).eval()
        self.hidden = torch.empty(0, dtype=torch.long)
        self.blocks = self.model.model.layers
        self.patch, self.layers = "", torch.empty(0)
        self.frozen: dict[int, torch.Tensor] = {}
        for number, block in enumerate(self.blocks):
            block.register_forward_pre_hook(self._before(number), with_kwargs=True)
            block.self_attn.register_forward_hook(self._attended(number))
            block.self_attn.register_forward_pre_hook(self._hides(number), with_kwargs=True)

    @torch.no_grad()
    def next_logits(self, prompts: list[list[int]], patch: str, layers: list[int]) -> torch.Tensor:
        """(prompts x layers, n_vocab): the last token's logits with the patch at each layer.

        The prompts must be of one length.
        """
        self.patch, self.layers, self.frozen = patch, torch.tensor(layers * len(prompts)), {}
        batch = torch.tensor([prompt for prompt in prompts for _ in layers])
        return self.model(batch, use_cache=False, logits_to_keep=1).logits[:, -1]

    @torch.no_grad()
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
            h = args[0]
            past = h[:, :-1].clone()
            here = self.layers == block
            if self.patch == "random" and here.any():
                noise = torch.randn_like(past[here])
                norm = past[here].norm(dim=-1, keepdim=True)
                past[here] = noise * norm / noise.norm(dim=-1, keepdim=True)
            elif self.patch == "shuffle" and here.any():
                order = torch.rand_like(past[here]).argsort(dim=-1)
                past[here] = past[here].gather(-1, order)
            elif self.patch == "freeze":
                for row in (self.layers <= block).nonzero().flatten().tolist():
                    past[row] = self.frozen[row]
                for row in (self.layers == block + 1).nonzero().flatten().tolist():
                    self.frozen[row] = past[row].clone()
            return (torch.cat([past, h[:, -1:]], dim=1), *args[1:]), kwargs

        return hook

    def _attended(self, block: int) -> Callable[..., object]:
        def hook(_module: object, _args: object, output: tuple[torch.Tensor, ...]):
            if self.patch != "skip":
                return None
            off = (self.layers <= block)[:, None, None]
            return (output[0].masked_fill(off, 0.0), *output[1:])

        return hook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", action="append", help="of localprobe; may be repeated")
    parser.add_argument("--prompts", type=int, default=4, help="for localprobe (default 4)")
    parser.add_argument("--peer-prompts", type=int, default=1, help="for PyTorch (default 1)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, help="prompts of so many tokens, of SQuAD")
    parser.add_argument("--map", action="store_true", help="the whole knockout map of a prompt")
    options = parser.parse_args()
    names = options.model or ["smollm2-135m"]
    if options.map:
        knockout_map(names, options.runs)
        return
    timed: dict[str, list[float]] = {}

    def measure(name: str, prompts: int, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        timed.setdefault(name, []).append((time.perf_counter() - start) / prompts)

    gguf = models.find(names[0])[1]
    peers = {"bfloat16": Peer(gguf, torch.bfloat16), "float32": Peer(gguf)}
    with models.open_model(names[0]) as loaded:
        prompts = prompts_for(loaded.model, options.prompts, options.tokens)
        clean = ResumeEngine(loaded.model).answer(prompts[0], max_tokens=1).tokens[0]
        theirs = int(peers["float32"].next_logits(prompts[:1], "", [0])[0].argmax())
        if clean != theirs:
            raise SystemExit(f"PyTorch answers token {theirs}, localprobe {clean}")
    few = prompts[: options.peer_prompts]
    same = [prompt for prompt in prompts if len(prompt) == len(prompts[0])]

    for _ in range(options.runs):
        for kind, peer in peers.items():
            one_by_one = functools.partial(torch_work, peer, [[each] for each in few], False)
            measure(f"PyTorch {kind}, one pass a layer", len(few), one_by_one)
            one_batch = functools.partial(torch_work, peer, [[each] for each in few], True)
            measure(f"PyTorch {kind}, one batch", len(few), one_batch)
            if len(same) > 1:
                several = functools.partial(torch_work, peer, [same], True)
                measure(f"PyTorch {kind}, {len(same)} prompts a batch", len(same), several)
        for name in names:
            with Model(name) as model:
                work = functools.partial(ours, model.engine(), prompts)
                measure(f"localprobe, {name}", len(prompts), work)

    print(f"torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; random, shuffle, freeze and skip, all layers, ")
    print(f"prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens")
    peer = min(median(taken) for name, taken in timed.items() if name.startswith("PyTorch"))
    for name, seconds in sorted(timed.items(), key=lambda item: median(item[1])):
        each = median(seconds)
        print(f"{name:<40} {each:7.2f} s a prompt   best peer / this {peer / each:.2f}")


def prompts_for(model: Vocabulary, n: int, n_tokens: int | None) -> list[list[int]]:
    """Prompts of capitals; where a number of tokens is asked for, the ends of SQuAD's."""
    if n_tokens is None:
        return [model.tokenize(example.prompt) for example in Capitals().examples()[:n]]
    task = task_by_name("squad", TaskOptions())
    every = (model.tokenize(example.prompt) for example in task.examples())
    long = [tokens[-n_tokens:] for tokens in every if len(tokens) >= n_tokens]
    return long[:n]


def torch_work(peer: Peer, groups: list[list[list[int]]], one_batch: bool) -> None:
    for patch in PATCHES:
        layers = list(range(1 if patch == "freeze" else 0, len(peer.blocks)))
        for group in groups:
            for chosen in [layers] if one_batch else [[layer] for layer in layers]:
                peer.next_logits(group, patch, chosen)


def ours(engine: FullEngine, prompts: list[list[int]]) -> None:
    layers, stops = range(engine.model.n_layer), [None] * len(prompts)
    runs = engine.clean(prompts, layers, max_tokens=1, stops=stops)
    for intervention in (Random(), Shuffle(), Freeze(), Skip()):
        defined = [layer for layer in layers if layer >= intervention.first_layer]
        cells = engine.run(
            runs,
            [intervention] * len(runs),
            defined,
            max_tokens=1,
            examples=range(len(runs)),
            stops=stops,
        )
        for _ in cells:
            pass


EVERY = 15


def knockout_map(names: list[str], runs: int) -> None:
    gguf = models.find(names[0])[1]
    peers = {"bfloat16": Peer(gguf, torch.bfloat16), "float32": Peer(gguf)}
    timed: dict[str, list[float]] = {}

    def measure(name: str, share: float, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        timed.setdefault(name, []).append((time.perf_counter() - start) / share)

    with Model(names[0]) as model:
        prompt = model.loaded.model.tokenize(Capitals().examples()[0].prompt)
        last = Resumed(model.loaded.model, prompt)
        theirs = peers["float32"].knocked_out(prompt, 3, [len(prompt) - 2])[0]
        ((_, _, ours),) = last.cells([Act((len(prompt) - 2,))], [3])
        if int(ours[0].argmax()) != int(theirs.argmax()):
            raise SystemExit(f"PyTorch answers token {int(theirs.argmax())}, localprobe another")
    past = list(range(len(prompt) - 1))
    layers = list(range(len(peers["float32"].blocks)))
    cells = [(k, p) for k in layers for p in past]
    some = cells[::EVERY]
    for _ in range(runs):
        for kind, peer in peers.items():
            one_by_one = functools.partial(_each, peer, prompt, some)
            measure(f"PyTorch {kind}, one pass a cell", len(some) / len(cells), one_by_one)
            batched = functools.partial(_batches, peer, prompt, layers, past)
            measure(f"PyTorch {kind}, one batch a layer", 1, batched)
        for name in names:
            with Model(name) as model:
                acts = [Act((p,)) for p in past]
                whole = WholePasses(model.loaded.model, prompt)
                slow = functools.partial(_whole, whole, some)
                measure(f"localprobe, {name}, a pass a cell", len(some) / len(cells), slow)
                fast = functools.partial(_map, model, prompt, acts, layers)
                fast()  # the graph is learned
                measure(f"localprobe, {name}", 1, fast)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; {len(layers)} layers x {len(past)} tokens")
    ours_s = median(timed[f"localprobe, {names[0]}"])
    for name, seconds in timed.items():
        print(f"{name:<48} {median(seconds):8.2f} s   / ours {median(seconds) / ours_s:.1f}")


def _each(peer: Peer, prompt: list[int], cells: list[tuple[int, int]]) -> None:
    for layer, token in cells:
        peer.knocked_out(prompt, layer, [token])


def _batches(peer: Peer, prompt: list[int], layers: list[int], past: list[int]) -> None:
    for layer in layers:
        peer.knocked_out(prompt, layer, past)


def _whole(prompt: WholePasses, cells: list[tuple[int, int]]) -> None:
    for layer, token in cells:
        for _ in prompt.cells([Act((token,))], [layer]):
            pass


def _map(model: Model, prompt: list[int], acts: list[Act], layers: list[int]) -> None:
    for _ in Resumed(model.loaded.model, prompt).cells(acts, layers):
        pass


if __name__ == "__main__":
    main()
