"""Kill a run at random moments with SIGKILL, let it go on, and compare with one left alone.

    python tests/kill.py [-n 10] [-m MODEL]

Exit code 1 where a single byte of the rows differs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def command(model: str, examples: int, out: Path) -> list[str]:
    run = [sys.executable, "-m", "localprobe", "sweep", "-m", model, "-p", "random,freeze,swap"]
    return [*run, "--all-examples", "-n", str(examples), "--max-tokens", "2", "--out", str(out)]


def kill_test(model: str, kills: int, examples: int, folder: Path, seed: int = 0) -> int:
    """How many of `kills` interrupted runs ended with other rows than a run left alone."""
    rng = random.Random(seed)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    whole = folder / "whole"
    started = time.monotonic()
    subprocess.run(command(model, examples, whole), check=True, **quiet)
    length = time.monotonic() - started
    expected = (whole / "rows.jsonl").read_bytes()
    bad = 0
    for number in range(kills):
        out = folder / f"killed-{number}"
        moment = rng.uniform(0.05, 0.95) * length
        process = subprocess.Popen(command(model, examples, out), **quiet)
        time.sleep(moment)
        process.kill()
        process.wait()
        rows = out / "rows.jsonl"
        left = rows.stat().st_size if rows.exists() else 0
        subprocess.run(command(model, examples, out), check=True, **quiet)
        same = rows.read_bytes() == expected
        bad += not same
        print(
            f"killed after {moment:.1f} s of {length:.1f} s with {left} of {len(expected)} bytes: "
            + ("the same rows" if same else "OTHER ROWS"),
            file=sys.stderr,
        )
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=10, help="how many kills (default 10)")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--examples", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bad = kill_test(options.model, options.n, options.examples, Path(folder))
    print(f"{options.n} kills, {bad} runs with other rows")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
