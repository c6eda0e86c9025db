"""A long run on a tiny model: do memory and open files stay as they are?

    python tests/soak.py [--examples 10000]

Prints rows, memory and open files as it goes on. Exit code 1 where memory has grown by more than
20 MB, or a file stays open, between the first tenth of the rows and the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil
from helpers import tiny

from localprobe.api import Model, RunningSweep
from localprobe.experiments.experiment import Experiment

MOST_GROWTH = 20e6


def soak(examples: int, folder: Path) -> tuple[int, float, int]:
    """Rows, growth of memory in bytes, and files more, from the first tenth to the end."""
    path = tiny.write(tiny.build("llama"), folder / "tiny.gguf")
    data = folder / "own.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for number in range(examples):
            word, other = f"w{number % 97}", f"w{number % 89 + 100}"
            swap = {"old": word, "new": other, "new_answers": ["y"]}
            record = {"prompt": f"say {word} number {number} now:", "answers": ["x"], **swap}
            file.write(json.dumps(record) + "\n")
    patches = ("random", "shuffle", "freeze", "skip", "swap")
    experiment = Experiment("jsonl", patches, data=data, all_examples=True, max_tokens=2)
    process = psutil.Process()
    first: tuple[int, int] | None = None
    n_rows, started = 0, time.monotonic()
    with (
        Model(path, threads=1) as model,
        RunningSweep(model, experiment, folder / "run") as running,
    ):
        expected = examples * (1 + len(running.manifest.cells))
        step = max(1, expected // 10)
        for row in running.rows():
            n_rows += row is not None
            if row is not None and n_rows % step == 0:
                now = (
                    process.memory_info().rss,
                    process.num_fds() if hasattr(process, "num_fds") else len(process.open_files()),
                )
                first = first or now
                print(
                    f"{n_rows:>7} rows, {time.monotonic() - started:5.0f} s, "
                    f"{now[0] / 1e6:.1f} MB, {now[1]} open files",
                    file=sys.stderr,
                )
    assert first is not None
    return n_rows, now[0] - first[0], now[1] - first[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=10_000, help="20 rows each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        n_rows, growth, files = soak(options.examples, Path(folder))
    print(f"{n_rows} rows, memory {growth / 1e6:+.1f} MB, open files {files:+d}")
    sys.exit(growth > MOST_GROWTH or files > 0)


if __name__ == "__main__":
    main()
