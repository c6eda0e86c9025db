"""Blocks spread over devices: the CPU's answers, bit for bit, on every split that is tried.

Workers on loopback compute with the CPU's own arithmetic, so that nothing but where a node lies
may differ. `python tests/splits.py` tries every split of every architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ARCHITECTURES
from helpers.splits import Counts, compare, reference, splits
from helpers.workers import Worker

from localprobe.llama.rpc import Workers


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_split_over_devices_is_the_cpu(
    arch: str, tiny_file: Callable[[str], Path], two_workers: tuple[Worker, Worker]
) -> None:
    path = tiny_file(arch)
    expected = reference(path)
    counts = Counts()
    with Workers([worker.address for worker in two_workers]) as workers:
        # Of the many of gemma3's seven blocks only some.
        for split in splits(path, every=arch != "gemma3"):
            compare(path, split, workers.devices, workers, expected, counts)
    assert counts.worst == 0
    assert counts.splits >= 5
    # Both engines, five interventions, and the clean passes.
    assert counts.cells >= counts.splits * 2 * 5 * 2
