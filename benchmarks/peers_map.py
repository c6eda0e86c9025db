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

from apart import Apart

from localprobe.api import Model
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.models import opening as models
from localprobe.models.registry import DEFAULT_MODEL
from localprobe.tasks.capitals import Capitals

EVERY = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", action="append", help="of localprobe; may be repeated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    knockout_map(options.model or [DEFAULT_MODEL], options.runs, options.threads)


def knockout_map(names: list[str], runs: int, threads: int) -> None:
    kinds, gguf = ("bfloat16", "float32"), models.find(names[0])[1]
    peers = Apart("torch_peer", "Peers", gguf, threads, kinds, lens=False)
    print(peers("about"))
    timed: dict[str, list[float]] = {}

    def measure(name: str, share: float, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        timed.setdefault(name, []).append((time.perf_counter() - start) / share)

    with Model(names[0], attention="exact", threads=threads) as model:
        n_layer = model.n_layer
        prompt = model.loaded.model.tokenize(Capitals().examples()[0].prompt)
        last = Resumed(model.loaded.model, prompt)
        (theirs,) = peers("knock_out", "PyTorch float32", prompt, [(3, [len(prompt) - 2])])
        ((_, _, ours),) = last.cells([Act((len(prompt) - 2,))], [3])
        if int(ours[0].argmax()) != theirs:
            raise SystemExit(f"PyTorch answers token {theirs}, localprobe another")
    past = list(range(len(prompt) - 1))
    layers = list(range(n_layer))
    cells = [(k, p) for k in layers for p in past]
    some = cells[::EVERY]
    for _ in range(runs):
        for name in peers("names"):
            each = [(k, [p]) for k, p in some]
            one_by_one = functools.partial(peers, "knock_out", name, prompt, each)
            measure(f"{name}, one pass a cell", len(some) / len(cells), one_by_one)
            batches = [(k, past) for k in layers]
            batched = functools.partial(peers, "knock_out", name, prompt, batches)
            measure(f"{name}, one batch a layer", 1, batched)
        for name in names:
            with Model(name, attention="exact", threads=threads) as model:
                acts = [Act((p,)) for p in past]
                whole = WholePasses(model.loaded.model, prompt)
                slow = functools.partial(_whole, whole, some)
                measure(f"localprobe, {name}, a pass a cell", len(some) / len(cells), slow)
                fast = functools.partial(_map, model, prompt, acts, layers)
                fast()  # the graph is learned
                measure(f"localprobe, {name}", 1, fast)
    print(f"{len(layers)} layers x {len(past)} tokens, medians of {runs}")
    ours_s = median(timed[f"localprobe, {names[0]}"])
    for name, seconds in timed.items():
        print(f"{name:<48} {median(seconds):8.2f} s   / ours {median(seconds) / ours_s:.1f}")


def _whole(prompt: WholePasses, cells: list[tuple[int, int]]) -> None:
    for layer, token in cells:
        for _ in prompt.cells([Act((token,))], [layer]):
            pass


def _map(model: Model, prompt: list[int], acts: list[Act], layers: list[int]) -> None:
    for _ in Resumed(model.loaded.model, prompt).cells(acts, layers):
        pass


if __name__ == "__main__":
    main()
