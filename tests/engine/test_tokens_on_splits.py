"""Tokens hidden and written, the lens, and attention weights on blocks spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.splits import n_layers
from helpers.workers import Worker

from localprobe.engine.interventions import Freeze, only_at
from localprobe.engine.lens import by_head, by_whole_passes
from localprobe.engine.tokens import Act, Resumed, WholePasses
from localprobe.experiments.attention import attend
from localprobe.llama.devices import Placement
from localprobe.llama.model import Model
from localprobe.llama.rpc import Workers

# Longer than the gemmas' window.
TOKENS = [(37 * place + 11) % 256 for place in range(40)]


def everything(model: Model) -> dict[str, np.ndarray]:
    layers = range(model.n_layer)
    found = {}
    hiding = [Act((p,)) for p in (0, 20, 37, 38)]
    windows = [Act(act.at, window=2) for act in hiding]
    writing = [Act(act.at, only_at(Freeze(), act.at)) for act in hiding]
    for name, acts, first in (("hide", hiding, None), ("some", windows, None), ("w", writing, 0)):
        for prompt in (WholePasses(model, TOKENS), Resumed(model, TOKENS, first)):
            for layer, numbers, logits in prompt.cells(acts, layers):
                for number, row in zip(numbers, logits, strict=True):
                    found[f"{name} {type(prompt).__name__} {layer} {number}"] = row
    states = WholePasses(model, TOKENS).states()
    found["states"] = states
    for by in (by_head, by_whole_passes):
        logits = [logits for _, logits in by(model, states[-1])]
        found[by.__name__] = np.concatenate(logits)
    found["attention"] = attend(model, "", TOKENS, layers).weights
    return found


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_maps_on_splits_are_those_of_the_cpu(
    arch: str, tiny_file: Callable[[str], Path], two_workers: tuple[Worker, Worker]
) -> None:
    path = tiny_file(arch)
    with Model(path, threads=1) as model:
        expected = everything(model)
    total = n_layers(path)
    with Workers([worker.address for worker in two_workers]) as workers:
        for split in ((2,), (total,), (1, 2), (2, total - 2)):
            shares = tuple(zip(workers.devices, split, strict=False))
            placement = Placement(total - 1, shares)
            with Model(path, threads=1, placement=placement, workers=workers) as model:
                found = everything(model)
            assert found.keys() == expected.keys()
            for cell, values in found.items():
                scale = np.abs(expected[cell]).max()
                assert np.abs(values - expected[cell]).max() <= 1e-5 * scale, (split, cell)
