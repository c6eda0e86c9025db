"""How time grows with the tokens of a prompt, with layers and with prompts, ours and PyTorch's.

    python benchmarks/growth.py [-m MODEL] [-o benchmarks/figures/growth]

random, shuffle, freeze and skip, next token: at every fifth layer of a prompt of 25 to 1,000
tokens; of 50 tokens, at the last eighth to all of the layers; and at every fifth layer of 1 to 8
prompts of 25 tokens. localprobe as shipped and with the weights as they are in the file; PyTorch
bfloat16 with all layers as one batch, where it is installed. Writes OUTPUT.png and OUTPUT.json. A
point that would take longer than --seconds, by the one before, is left out, and all after it, and
it is said. Less than five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from apart import Apart

from localprobe.api import Model
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Freeze, Random, Shuffle, Skip
from localprobe.models import opening as models
from localprobe.models.registry import DEFAULT_MODEL
from localprobe.tasks.squad import plain_text

TOKENS = (25, 50, 100, 200, 400, 1000)
PROMPTS = (1, 2, 4, 8)
STEP = 5
SECONDS = 60.0
"""A point that is expected to take longer, by the one before, is left out, and all after it."""
PATCHES = (Random(), Shuffle(), Freeze(), Skip())

Work = Callable[[list[list[int]], Sequence[int]], None]
"""Prompts, layers."""
Line = list[tuple[int, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", default=DEFAULT_MODEL, help="of localprobe")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/figures/growth"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=SECONDS, help="at most, for a point")
    options = parser.parse_args()
    found: dict[str, dict[str, Line]] = {}
    for name, open_it in lines(options.model, options.threads).items():
        with open_it() as (tokens, n_layer, work):
            found[name] = measured(name, tokens, n_layer, work, options.seconds)
    said = {axis: slopes(axis, found) for axis in next(iter(found.values()))}
    for line in said.values():
        print(line)
    record = {"threads": options.threads, "work": "random, shuffle, freeze, skip", "lines": found}
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    draw(found, said, options.output.with_suffix(".png"))


def lines(name: str, threads: int) -> dict[str, Callable[[], Any]]:
    """Label -> what opens it: tokens to cut prompts from, number of layers, work."""
    path = models.find(name)[1]
    found: dict[str, Callable[[], Any]] = {"localprobe, as shipped": partial(Ours, name, threads)}
    if base := name.rpartition("@")[0]:
        found["localprobe, as in the file"] = partial(Ours, base, threads)
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        print("PyTorch: not installed, so skipped")
    else:
        found["PyTorch bfloat16, one batch"] = partial(Theirs, path, threads)
    return found


class Ours:
    """localprobe, as `sweep` does it by itself."""

    def __init__(self, name: str, threads: int) -> None:
        self.model = Model(name, threads=threads)

    def __enter__(self) -> tuple[list[int], int, Work]:
        engine = self.model.engine()
        tokens = text_tokens(self.model)
        return tokens, self.model.n_layer, partial(_resumed, engine)

    def __exit__(self, *_: object) -> None:
        self.model.close()


def text_tokens(model: Model) -> list[int]:
    return model.loaded.model.tokenize(plain_text())


def _resumed(engine: FullEngine, prompts: list[list[int]], layers: Sequence[int]) -> None:
    stops = [None] * len(prompts)
    runs = engine.clean(prompts, layers, max_tokens=1, stops=stops)
    for each in PATCHES:
        defined = [layer for layer in layers if layer >= each.first_layer]
        kinds, numbers = [each] * len(runs), range(len(runs))
        for _ in engine.run(runs, kinds, defined, max_tokens=1, examples=numbers, stops=stops):
            pass


class Theirs:
    """PyTorch, all layers of a prompt as one batch."""

    def __init__(self, gguf: Path, threads: int) -> None:
        self.gguf = gguf
        self.peers = Apart("torch_peer", "Peers", gguf, threads, ("bfloat16",), lens=False)

    def __enter__(self) -> tuple[list[int], int, Work]:
        with models.open_model(str(self.gguf)) as loaded:
            tokens = loaded.model.tokenize(plain_text())
            return tokens, loaded.model.n_layer, self._work

    def __exit__(self, *_: object) -> None:
        pass

    def _work(self, prompts: list[list[int]], layers: Sequence[int]) -> None:
        self.peers("at_layers", "PyTorch bfloat16", prompts, list(layers))


def measured(
    name: str, tokens: list[int], n_layer: int, work: Work, seconds: float
) -> dict[str, Line]:
    """Axis -> (what grows, seconds) by point. Where that is short, the best of three."""
    layers = range(n_layer)
    some = layers[::STEP]
    text = tokens * (1 + 2000 // len(tokens))

    def cut(n: int, length: int) -> list[list[int]]:
        return [[text[0], *text[7 * i + 1 : 7 * i + length]] for i in range(n)]

    work(cut(1, 25), some)
    last = sorted({max(1, n_layer * share // 8) for share in (1, 2, 4, 8)})
    return {
        "tokens of a prompt": _line(name, TOKENS, lambda n: work(cut(1, n), some), seconds),
        "layers, from the last one": _line(
            name, last, lambda n: work(cut(1, 50), layers[-n:]), seconds
        ),
        "prompts": _line(name, PROMPTS, lambda n: work(cut(n, 25), some), seconds),
    }


def _line(name: str, points: Sequence[int], doing: Callable[[int], None], seconds: float) -> Line:
    found: Line = []
    for point in points:
        # At least as the arithmetic grows, from the point before.
        if found and found[-1][1] * point / found[-1][0] > seconds:
            print(f"{name}: {point} and more left out, {seconds:.0f} s and more each")
            break
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            doing(point)
            taken.append(time.perf_counter() - start)
            if sum(taken) > 2:
                break
        found.append((point, min(taken)))
    return found


def slopes(axis: str, found: dict[str, dict[str, Line]]) -> str:
    """In words: to which power of what is on the axis time grows, over the upper half of it."""
    said = []
    what = axis.split()[0].rstrip(",")
    for name, by_axis in found.items():
        upper = by_axis[axis][len(by_axis[axis]) // 2 - 1 :]
        if len(upper) > 1:
            (x0, y0), (x1, y1) = upper[0], upper[-1]
            power = math.log(y1 / y0) / math.log(x1 / x0)
            said.append(f"{name} {power:.2f} ({x0:,} to {x1:,})")
    line = f"time grows as {what} to the power of: " + "; ".join(said)
    if what == "layers":
        line += "; where blocks below a layer are not computed again, their number grows as 2"
    return line


def draw(found: dict[str, dict[str, Line]], said: dict[str, str], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = plt.subplots(1, len(said), figsize=(10, 4), sharey=True, layout="constrained")
    styles = ("o-", "s-", "^--")
    colors = ("#0072b2", "#009e73", "#d55e00")
    for place, axis in zip(axes, said, strict=True):
        every: set[int] = set()
        for (name, by_axis), style, color in zip(found.items(), styles, colors, strict=False):
            points = by_axis[axis]
            every |= {x for x, _ in points}
            place.plot(*zip(*points, strict=True), style, color=color, label=name, markersize=4)
        (x, y) = next(iter(found.values()))[axis][0]
        ends = [min(every), max(every)]
        linear = [y / 2 * end / x for end in ends]
        place.plot(ends, linear, ":", color="#777777", label="linear", linewidth=1)
        place.set(xscale="log", yscale="log", xlabel=axis)
        place.set_xticks(sorted(every), [f"{x:,}" for x in sorted(every)])
        place.xaxis.set_minor_locator(NullLocator())
        place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        place.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[0].legend(frameon=False, fontsize=8)
    titles = (
        "every fifth layer, one prompt",
        "one prompt of 50 tokens",
        "every fifth layer, 25 tokens",
    )
    for place, title in zip(axes, titles, strict=True):
        place.set_title(title, fontsize=9)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
