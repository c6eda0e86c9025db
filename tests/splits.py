"""Every split of every tiny architecture over one and two devices, held to the CPU.

    python tests/splits.py                      two workers on loopback: bit for bit
    python tests/splits.py --device Vulkan0     one of `localprobe devices`, or two: nearly

The long form of tests/engine/test_splits.py: some 90 s on 2 cores. Prints what was compared, and
the worst difference of a logit, which over workers must be 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conftest import ARCHITECTURES
from helpers import tiny, workers
from helpers.splits import Counts, compare, reference, splits

from localprobe.llama import rpc
from localprobe.llama.check import TOLERANCE
from localprobe.llama.devices import Device, chosen, own_devices


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", action="append", default=[], help="instead of workers; or two")
    parser.add_argument("--arch", action="append", help="only this one; may be repeated")
    options = parser.parse_args()
    architectures = options.arch or ARCHITECTURES
    total = Counts()
    with tempfile.TemporaryDirectory() as folder, two_workers(bool(options.device)) as addresses:
        for arch in architectures:
            path = tiny.write(tiny.build(arch), Path(folder) / f"{arch}.gguf")
            with rpc.Workers(addresses) as held:
                named = chosen(own_devices(), options.device) if options.device else held.devices
                counts = every_split(path, named, held)
            print(f"{arch}: {counts}", flush=True)
            total.add(counts)
    print(f"{len(architectures)} architectures: {total}")
    return 0 if total.share <= (TOLERANCE if options.device else 0) else 1


def every_split(path: Path, devices: Sequence[Device], held: rpc.Workers) -> Counts:
    expected, counts = reference(path), Counts()
    for split in splits(path, every=True):
        if len(split) <= len(devices):
            compare(path, split, devices, held, expected, counts)
    return counts


@contextmanager
def two_workers(none: bool) -> Iterator[list[str]]:
    """Their addresses."""
    if none:
        yield []
        return
    library = workers.library()
    if library is not None:
        os.environ[rpc.LIBRARY] = str(library)
    rpc._library.cache_clear()
    two = [workers.Worker(), workers.Worker()]
    try:
        yield [worker.address for worker in two]
    finally:
        for worker in two:
            worker.kill()


if __name__ == "__main__":
    sys.exit(main())
