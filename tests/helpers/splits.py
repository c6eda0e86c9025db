"""A model on devices held to itself on the CPU, in every way of computing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localprobe.engine.full import Answer, FullEngine
from localprobe.engine.interventions import Donor, by_name, names
from localprobe.engine.resume import ResumeEngine
from localprobe.llama.devices import Placement
from localprobe.llama.model import Model
from localprobe.llama.rpc import Workers
from localprobe.models.header import read_header
from localprobe.models.placement import needs

LONG = [(37 * place + 11) % 256 for place in range(40)]
SHORT = [11, 48, 7]
"""A large decode and, right after it, a small one: what lies in memory between them is no zero."""
MAX_TOKENS = 2
Split = tuple[int, ...]
"""Layers on the first worker, or on each of two."""
Answers = dict[tuple[str, str, int, int], Answer]


@dataclass
class Counts:
    splits: int = 0
    cells: int = 0
    worst: float = 0.0


def n_layers(path: Path) -> int:
    """Blocks, and the output."""
    return len(needs(read_header(path)).layers)


def splits(path: Path, *, every: bool) -> Iterator[Split]:
    """Over one worker and over two; not every: some of each, ends and middles."""
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


def compare(path: Path, split: Split, workers: Workers, expected: Answers, counts: Counts) -> None:
    """Every answer on a split against the CPU's; the worst difference of a logit is kept."""
    shares = tuple(zip(workers.devices, split, strict=False))
    placement = Placement(n_layers(path) - 1, shares)
    with Model(path, threads=1, placement=placement, workers=workers) as model:
        found = answers(model)
    assert found.keys() == expected.keys()
    for cell, answer in found.items():
        difference = float(np.abs(answer.logits - expected[cell].logits).max())
        assert np.isfinite(answer.logits).all()
        assert answer.tokens == expected[cell].tokens or difference, (split, cell)
        counts.worst = max(counts.worst, difference)
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
