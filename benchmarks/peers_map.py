"""The whole knockout map of a prompt, layers x tokens, in PyTorch and in localprobe.

    python benchmarks/peers_map.py [-m MODEL ...]

In PyTorch bfloat16 and float32 with a mask a layer, one pass a cell, and all tokens at a layer as
one batch; in localprobe by whole passes, one a cell, and by resuming. Of what makes one pass a
cell, every 15th cell is timed. Needs what peers.py needs.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from collections.abc import Callable
from statistics import median

import torch
import transformers
from torch_peer import Peer, dense

from localprobe.api import Model
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.models import opening as models
from localprobe.tasks.capitals import Capitals

EVERY = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", action="append", help="of localprobe; may be repeated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    knockout_map(options.model or ["smollm2-135m"], options.runs)


def knockout_map(names: list[str], runs: int) -> None:
    gguf = models.find(names[0])[1]
    peers = {kind: Peer(dense(gguf, getattr(torch, kind))) for kind in ("bfloat16", "float32")}
    timed: dict[str, list[float]] = {}

    def measure(name: str, share: float, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        timed.setdefault(name, []).append((time.perf_counter() - start) / share)

    with Model(names[0], attention="exact") as model:
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
            with Model(name, attention="exact") as model:
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
