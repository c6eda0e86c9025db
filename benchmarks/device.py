"""Is localprobe right on this machine's devices, and how fast? One command, one JSON document.

    python benchmarks/device.py > my-card.json
    python benchmarks/device.py --rpc 127.0.0.1:50052 --skip-bench

1. Every split of tiny models of every architecture in the tests, both engines, all interventions,
   against the same on the CPU: the worst difference, as a share of the logits' spread.
2. The default model, and with --seven-b a random one of Llama-2-7B's shape, with a half and with
   all of their layers on the devices: the worst difference of answers to one prompt, likewise.
3. `localprobe bench` with everything on the CPU, and with everything on the devices.

Needs a clean clone and `pip install ".[test]"`. Please send us what it prints.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from conftest import ARCHITECTURES  # noqa: E402
from helpers import splits, tiny  # noqa: E402

from localprobe.llama.devices import Device, Placement, chosen, own_devices  # noqa: E402
from localprobe.llama.model import Model  # noqa: E402
from localprobe.llama.rpc import Workers, endpoints  # noqa: E402
from localprobe.models import opening  # noqa: E402

ENOUGH_SPLITS = 6


def worst(expected: splits.Answers, found: splits.Answers) -> float:
    """The largest difference of a logit, as a share of the spread."""
    return max(
        float(np.abs(found[cell].logits - each.logits).max() / np.ptp(each.logits))
        for cell, each in expected.items()
    )


def placements(n_blocks: int, devices: list[Device]) -> Iterator[Placement]:
    """All layers, one, and some between, dealt over the devices."""
    layers = n_blocks + 1
    counts = sorted({1, 2, layers // 2, layers - 1, layers})[-ENOUGH_SPLITS:]
    for count in counts:
        used = devices[: max(1, min(len(devices), count))]
        each, left = divmod(count, len(used))
        shares = tuple((device, each + (i < left)) for i, device in enumerate(used))
        yield Placement(n_blocks, shares)


def on_devices(path: Path, devices: list[Device], workers: Workers, some: bool) -> dict[str, Any]:
    with Model(path) as model:
        n_blocks = model.n_layer
        layers = [n_blocks // 2, n_blocks - 1] if some else None
        expected = splits.answers(model, layers)
    found = {}
    for placement in placements(n_blocks, devices):
        if some and placement.n_placed not in (n_blocks // 2, (n_blocks + 1) // 2, n_blocks + 1):
            continue
        with Model(path, placement=placement, workers=workers) as model:
            found[str(placement)] = worst(expected, splits.answers(model, layers))
    return {"answers": len(expected), "worst difference by split": found}


def bench(arguments: list[str]) -> Any:
    line = [sys.executable, "-m", "localprobe", "bench", "--json", "-n", "8", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rpc", default="", help="workers, HOST:PORT with commas, as devices")
    parser.add_argument("--device", action="append", default=[], help="as localprobe devices says")
    parser.add_argument("--seven-b", type=Path, help="a GGUF of benchmarks/seven_b.py --keep")
    parser.add_argument("--skip-bench", action="store_true")
    options = parser.parse_args()
    said: dict[str, Any] = {}
    with Workers(endpoints(options.rpc)) as workers:
        devices = chosen([*workers.devices, *own_devices()], options.device)
        if not devices:
            sys.exit("there is no device but the CPU (see localprobe devices)")
        said["devices"] = [str(device) for device in devices]
        said["tiny"] = {}
        with tempfile.TemporaryDirectory() as folder:
            for arch in ARCHITECTURES:
                print(f"{arch} ...", file=sys.stderr)
                path = tiny.write(tiny.build(arch), Path(folder) / f"{arch}.gguf")
                said["tiny"][arch] = on_devices(path, devices, workers, some=False)
        models = {"default": opening.find("smollm2-135m")[1]}
        if options.seven_b:
            models["7B"] = options.seven_b
        for name, path in models.items():
            print(f"{name} ...", file=sys.stderr)
            said[name] = on_devices(path, devices, workers, some=True)
    if not options.skip_bench:
        where = [each for name in options.device for each in ("--device", name)]
        where += ["--rpc", options.rpc] if options.rpc else []
        print("bench ...", file=sys.stderr)
        said["bench"] = {
            "cpu": bench(["--gpu-layers", "0"]),
            "devices": bench(["--gpu-layers", "-1", *where]),
        }
    json.dump(said, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
