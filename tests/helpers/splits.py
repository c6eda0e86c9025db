"""A model on devices held to itself on the CPU, in every way of computing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localprobe.engine.full import Answer, FullEngine
from localprobe.engine.interventions import Donor, FloatArray, Freeze, by_name, names, only_at
from localprobe.engine.lens import by_head, by_whole_passes
from localprobe.engine.resume import ResumeEngine
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.experiments.attention import attend
from localprobe.llama.devices import Device, Placement
from localprobe.llama.model import Model
from localprobe.llama.rpc import Workers
from localprobe.models.header import read_header
from localprobe.models.placement import needs

LONG = [(37 * place + 11) % 256 for place in range(40)]
SHORT = [11, 48, 7]
"""A large decode and, right after it, a small one: what lies in memory between them is no zero.
The large one is longer than the gemmas' window."""
MAX_TOKENS = 2
Split = tuple[int, ...]
"""Layers on the first device, or on each of two."""
Answers = dict[tuple[str, str, int, int], Answer]


@dataclass
class Counts:
    """worst: the largest difference of a logit. share: the same, of the logits' spread."""

    splits: int = 0
    cells: int = 0
    worst: float = 0.0
    share: float = 0.0

    def add(self, other: Counts) -> None:
        self.splits += other.splits
        self.cells += other.cells
        self.worst = max(self.worst, other.worst)
        self.share = max(self.share, other.share)

    def __str__(self) -> str:
        return (
            f"{self.splits} splits, {self.cells:,} answers, worst difference {self.worst:.2g} "
            f"({self.share:.2g} of the spread)"
        )


def n_layers(path: Path) -> int:
    """Blocks, and the output."""
    return len(needs(read_header(path)).layers)


def splits(path: Path, *, every: bool) -> Iterator[Split]:
    """Over one device and over two; not every: some of each, ends and middles."""
    total = n_layers(path)
    one = [(count,) for count in range(1, total + 1)]
    two = [(a, b) for a in range(1, total) for b in range(1, total + 1 - a)]
    if not every:
        middle = total // 2
        one = [(1,), (total - 1,), (total,)]
        two = [(1, middle), (middle, total - middle), (middle - 1, 2), (1, total - 2)]
    yield from dict.fromkeys(one)
    yield from dict.fromkeys(two)


def reference(path: Path) -> Answers:
    with Model(path, threads=1) as model:
        return answers(model)


def compare(
    path: Path,
    split: Split,
    devices: Sequence[Device],
    workers: Workers | None,
    expected: Answers,
    counts: Counts,
) -> None:
    """Every answer on a split against the CPU's; the worst difference of a logit is kept."""
    placement = Placement(n_layers(path) - 1, tuple(zip(devices, split, strict=False)))
    with Model(path, threads=1, placement=placement, workers=workers) as model:
        found = answers(model)
    assert found.keys() == expected.keys()
    for cell, answer in found.items():
        logits = expected[cell].logits
        difference = float(np.abs(answer.logits - logits).max())
        assert np.isfinite(answer.logits).all()
        assert answer.tokens == expected[cell].tokens or difference, (split, cell)
        counts.worst = max(counts.worst, difference)
        counts.share = max(counts.share, difference / float(np.ptp(logits)))
        counts.cells += 1
    counts.splits += 1


def answers(model: Model, layers: Sequence[int] | None = None) -> Answers:
    """By engine, intervention, layer (all, if not given) and prompt."""
    found: Answers = {}
    layers = layers or range(model.n_layer)
    for engine in (FullEngine(model), ResumeEngine(model, 2)):
        prompts = [LONG, SHORT]
        runs = engine.clean(prompts, layers, max_tokens=MAX_TOKENS, stops=[None, None])
        for place, run in enumerate(runs):
            found[engine.name, "clean", 0, place] = run.answer
        donor = Donor(engine.states(LONG[:6], layers), (1,), (4,))
        for name in names():
            kind = by_name(name, 3, donor)
            defined = [layer for layer in layers if layer >= kind.first_layer]
            for place, layer, answer in engine.run(
                runs,
                [kind, kind],
                defined,
                max_tokens=MAX_TOKENS,
                examples=[0, 1],
                stops=[None, None],
            ):
                found[engine.name, name, layer, place] = answer
    return found


def maps(model: Model) -> dict[str, FloatArray]:
    """With tokens hidden or written to, the lens, states and attention weights, by their names."""
    layers = range(model.n_layer)
    found = {}
    hiding = [Act((p,)) for p in (0, 20, 37, 38)]
    windows = [Act(act.at, window=2) for act in hiding]
    writing = [Act(act.at, only_at(Freeze(), act.at)) for act in hiding]
    for name, acts, first in (("hide", hiding, None), ("some", windows, None), ("w", writing, 0)):
        for prompt in (WholePasses(model, LONG), Resumed(model, LONG, first)):
            for layer, numbers, logits in prompt.cells(acts, layers):
                for number, row in zip(numbers, logits, strict=True):
                    found[f"{name} {type(prompt).__name__} {layer} {number}"] = row
    states = WholePasses(model, LONG).states()
    found["states"] = states
    for by in (by_head, by_whole_passes):
        logits = [logits for _, logits in by(model, states[-1])]
        found[by.__name__] = np.concatenate(logits)
    found["attention"] = attend(model, "", LONG, layers).weights
    return found
