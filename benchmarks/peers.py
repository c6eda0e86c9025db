"""The same work in PyTorch and TransformerLens, on the weights of the same GGUF.

    python benchmarks/peers.py [-m MODEL] [--also MODEL@q4_0] [--tokens 200] [--markdown] [--slow]

Needs torch, transformers, accelerate and gguf, and takes transformer-lens where it is installed;
localprobe itself needs none of them. random, shuffle, freeze and skip, next token at all layers of
capitals prompts (--tokens: of so many tokens, of SQuAD). In PyTorch bfloat16 with one
pass a layer, as the paper's code does it, with all layers of a prompt as one batch, and with
several prompts in a batch, too; in float32 as one batch (--slow: also a pass a layer); in
TransformerLens with run_with_hooks a layer, and as one batch. In localprobe as shipped, with the
weights as they are in the file, and in the type that is the fastest here. Runs are interleaved;
medians, and ratios of one run. See peers_map.py for the knockout map.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import time
from collections.abc import Callable
from statistics import median

from apart import Apart

from localprobe.api import Model
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Random, Shuffle, Skip
from localprobe.engine.resume import BATCH_SIZE, ResumeEngine
from localprobe.llama.memory import free_memory
from localprobe.llama.text import Vocabulary
from localprobe.models import opening as models
from localprobe.models.prepare import prepare
from localprobe.models.registry import DEFAULT_MODEL
from localprobe.models.speed import fastest, speeds
from localprobe.tasks import task_by_name
from localprobe.tasks.base import TaskOptions
from localprobe.tasks.capitals import Capitals

OURS = "localprobe"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help="of localprobe and the peers")
    parser.add_argument("--also", action="append", default=[], help="a model of ours; may repeat")
    parser.add_argument(
        "--prompts", type=int, help=f"for localprobe ({BATCH_SIZE}, as a sweep; long ones: 8)"
    )
    parser.add_argument("--peer-prompts", type=int, default=1, help="for the others (default 1)")
    parser.add_argument("--batch", type=int, default=4, help="prompts in PyTorch's largest batch")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tokens", type=int, help="prompts of so many tokens, of SQuAD")
    parser.add_argument("--slow", action="store_true", help="also float32 with a pass a layer")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    options = parser.parse_args()
    options.prompts = options.prompts or (BATCH_SIZE if options.tokens is None else 8)
    timed: dict[str, list[float]] = {}

    def measure(name: str, prompts: int, doing: Callable[[], object]) -> None:
        start = time.perf_counter()
        doing()
        timed.setdefault(name, []).append((time.perf_counter() - start) / prompts)

    own = ours_prepared(options.model, options.threads)
    own |= {f"{OURS}, {name}": name for name in options.also}
    with models.open_model(options.model, threads=options.threads) as loaded:
        n = max(options.prompts, options.batch)
        prompts = prompts_for(loaded.model, n, options.tokens)
        clean = ResumeEngine(loaded.model).answer(prompts[0], max_tokens=1).tokens[0]
    lens = importlib.util.find_spec("transformer_lens") is not None
    kinds, gguf = ("bfloat16", "float32"), models.find(options.model)[1]
    peers = Apart("torch_peer", "Peers", gguf, options.threads, kinds, lens=lens)
    print(peers("about"))
    if not lens:
        print("TransformerLens: not installed, so skipped (pip install transformer-lens)")
    peers("check", prompts[0], clean)
    few = prompts[: options.peer_prompts]
    same, prompts = prompts[: options.batch], prompts[: options.prompts]

    for _ in range(options.runs):
        for kind in peers("names"):
            for name, groups, one_batch in (
                ("one pass a layer", [[each] for each in few], False),
                ("one batch", [[each] for each in few], True),
                (f"{len(same)} prompts a batch", [same], True),
            ):
                is_slow = kind.endswith("float32") and not one_batch
                if (is_slow and not options.slow) or (groups == [same] and len(same) == 1):
                    continue
                doing = functools.partial(peers, "work", kind, groups, one_batch=one_batch)
                measure(f"{kind}, {name}", sum(map(len, groups)), doing)
        for label, name in own.items():
            with Model(name, threads=options.threads) as model:
                engine = model.engine()
                measure(label, len(prompts), functools.partial(ours, engine, prompts))

    print(
        f"random, shuffle, freeze and skip, all layers, prompts of {len(prompts[0])} tokens, "
        f"medians of {options.runs}"
    )
    for line in table(timed, markdown=options.markdown):
        print(line)


def ours_prepared(name: str, threads: int) -> dict[str, str]:
    """Label -> model: as shipped, as in its file, and in the type that is the fastest here."""
    base = name.rpartition("@")[0] or name
    known, path, digest = models.find(base)
    best = fastest(speeds(path, threads), free_memory()).type
    found = {name: "as shipped"}
    found.setdefault(base, "as in the file")
    found.setdefault(prepare(known, path, digest, best)[0], "the fastest here")
    labels = {}
    for model, what in found.items():
        with models.open_model(model) as loaded:
            labels[f"{OURS}, {loaded.model.info.file_type}, {what}"] = model
    return labels


def table(timed: dict[str, list[float]], *, markdown: bool = False) -> list[str]:
    """The best peer, the other peers, ours as shipped, ours prepared: seconds and ratios."""
    others = [name for name in timed if not name.startswith(OURS)]
    order = sorted(others, key=lambda name: median(timed[name]))
    best = median(timed[order[0]])
    order += [name for name in timed if name.startswith(OURS)]
    rows = [
        (name, f"{median(timed[name]):.2f}", f"{best / median(timed[name]):.2f}") for name in order
    ]
    if not markdown:
        return [f"{name:<48} {s:>7} s a prompt   best peer / this {r}" for name, s, r in rows]
    head = ["| | seconds a prompt | times as fast as the best peer |", "|---|---|---|"]
    return head + [f"| {' | '.join(row)} |" for row in rows]


def prompts_for(model: Vocabulary, n: int, n_tokens: int | None) -> list[list[int]]:
    """Prompts of one length: of capitals; where a number of tokens is asked for, of SQuAD, cut at
    their beginning. One that is too short is put after those before it.
    """
    if n_tokens is None:
        every = [model.tokenize(example.prompt) for example in Capitals().examples()]
        # Of one length: the peers' one prompt is as long as ours are.
        return [each for each in every if len(each) == len(every[0])][:n]
    task = task_by_name("squad", TaskOptions())
    every = [model.tokenize(example.prompt) for example in task.examples()]
    found = []
    for place in range(n):
        tokens = list[int]()
        while len(tokens) < n_tokens:
            tokens = every[place % len(every)] + tokens
            place -= 1
        found.append(tokens[-n_tokens:])
    return found


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


if __name__ == "__main__":
    main()
