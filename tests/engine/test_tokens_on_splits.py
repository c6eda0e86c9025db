"""Tokens hidden and written, the lens, and attention weights on blocks spread over devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.splits import maps, n_layers
from helpers.workers import Worker

from localprobe.llama.devices import Placement
from localprobe.llama.model import Model
from localprobe.llama.rpc import Workers


@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_maps_on_splits_are_those_of_the_cpu(
    arch: str, tiny_file: Callable[[str], Path], two_workers: tuple[Worker, Worker]
) -> None:
    path = tiny_file(arch)
    with Model(path, threads=1) as model:
        expected = maps(model)
    total = n_layers(path)
    with Workers([worker.address for worker in two_workers]) as workers:
        for split in ((2,), (total,), (1, 2), (2, total - 2)):
            shares = tuple(zip(workers.devices, split, strict=False))
            placement = Placement(total - 1, shares)
            with Model(path, threads=1, placement=placement, workers=workers) as model:
                found = maps(model)
            assert found.keys() == expected.keys()
            for cell, values in found.items():
                scale = np.abs(expected[cell]).max()
                assert np.abs(values - expected[cell]).max() <= 1e-5 * scale, (split, cell)
