"""Every split of every tiny architecture over one and two workers, held to the CPU.

    python tests/splits.py

The long form of tests/engine/test_splits.py: some 90 s on 2 cores. Prints what was compared, and
the worst difference of a logit, which must be 0.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from conftest import ARCHITECTURES
from helpers import tiny, workers
from helpers.splits import Counts, compare, reference, splits

from localprobe.llama import rpc


def main() -> int:
    library = workers.library()
    if library is not None:
        os.environ[rpc.LIBRARY] = str(library)
    rpc._library.cache_clear()
    total = Counts()
    two = [workers.Worker(), workers.Worker()]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for arch in ARCHITECTURES:
                path = tiny.write(tiny.build(arch), Path(folder) / f"{arch}.gguf")
                expected, counts = reference(path), Counts()
                with rpc.Workers([worker.address for worker in two]) as held:
                    for split in splits(path, every=True):
                        compare(path, split, held, expected, counts)
                print(f"{arch}: {counts}", flush=True)
                total.splits += counts.splits
                total.cells += counts.cells
                total.worst = max(total.worst, counts.worst)
    finally:
        for worker in two:
            worker.kill()
    print(f"{len(ARCHITECTURES)} architectures: {total}")
    return 0 if total.worst == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
