"""Is localprobe right on this machine's devices, and how fast? One command, one JSON document.

    python benchmarks/device.py > my-card.json
    python benchmarks/device.py --rpc 127.0.0.1:50052 --skip-bench
    python benchmarks/device.py --short        where a device is slow, a driver in software, say

1. Splits of tiny models of every architecture in the tests, both engines, all interventions, maps,
   the lens and attention weights, against the same on the CPU: the worst difference, as a share of
   the spread of what is compared.
2. The default model, and with --seven-b a random one of Llama-2-7B's shape, with a half and with
   all of their layers on the devices: the worst difference of answers to one prompt, likewise.
3. `localprobe bench` with everything on the CPU, and with everything on the devices.

--short is a part of 1: three architectures, two splits of each.

Needs a clean clone and `pip install ".[test]"`. Please send us what it prints.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))

from conftest import ARCHITECTURES  # noqa: E402
from helpers import splits, tiny  # noqa: E402

from localprobe.engine.interventions import FloatArray  # noqa: E402
from localprobe.llama.devices import Device, Placement, chosen, own_devices  # noqa: E402
from localprobe.llama.model import Model  # noqa: E402
from localprobe.llama.rpc import Workers, endpoints  # noqa: E402
from localprobe.models import opening  # noqa: E402

SHORT = ("llama", "gemma2", "qwen3moe")


def numbers(model: Model, layers: list[int] | None) -> dict[Any, FloatArray]:
    """Logits by how they came about; of all layers (if not given) maps, too."""
    found: dict[Any, FloatArray] = {
        cell: answer.logits for cell, answer in splits.answers(model, layers).items()
    }
    return found if layers else {**found, **splits.maps(model)}


def worst(expected: dict[Any, FloatArray], found: dict[Any, FloatArray]) -> float:
    """The largest difference, as a share of the spread."""
    return max(
        float(np.abs(found[name] - each).max() / np.ptp(each)) for name, each in expected.items()
    )


def placements(n_blocks: int, devices: list[Device], few: bool) -> Iterator[Placement]:
    """A half of the layers and all, and if not few, some between; dealt over the devices."""
    layers = n_blocks + 1
    counts = {layers // 2, layers} if few else {1, 2, layers // 2, layers - 1, layers}
    for count in sorted(counts):
        used = devices[: max(1, min(len(devices), count))]
        each, left = divmod(count, len(used))
        shares = tuple((device, each + (i < left)) for i, device in enumerate(used))
        yield Placement(n_blocks, shares)


def on_devices(
    path: Path, devices: list[Device], workers: Workers, *, few: bool, some_layers: bool
) -> dict[str, Any]:
    with Model(path) as model:
        n_blocks = model.n_layer
        layers = [n_blocks // 2, n_blocks - 1] if some_layers else None
        expected = numbers(model, layers)
    found = {}
    for placement in placements(n_blocks, devices, few):
        with Model(path, placement=placement, workers=workers) as model:
            found[str(placement)] = worst(expected, numbers(model, layers))
            print(f"  {placement}: {found[str(placement)]:.2g}", file=sys.stderr)
    return {"compared": len(expected), "worst difference by split": found}


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
    parser.add_argument("--short", action="store_true", help="a few tiny models alone")
    options = parser.parse_args()
    said: dict[str, Any] = {}
    with Workers(endpoints(options.rpc)) as workers:
        devices = chosen([*workers.devices, *own_devices()], options.device)
        if not devices:
            sys.exit("there is no device but the CPU (see localprobe devices)")
        said["devices"] = [str(device) for device in devices]
        said["system"] = platform.platform()
        said["versions"] = {name: version(name) for name in ("localprobe", "llama-cpp-python")}
        said["tiny"] = {}
        with tempfile.TemporaryDirectory() as folder:
            for arch in SHORT if options.short else ARCHITECTURES:
                print(f"{arch} ...", file=sys.stderr)
                path = tiny.write(tiny.build(arch), Path(folder) / f"{arch}.gguf")
                said["tiny"][arch] = on_devices(
                    path, devices, workers, few=options.short, some_layers=False
                )
        models = {}
        if not options.short:
            models["default"] = opening.find("smollm2-135m")[1]
        if options.seven_b:
            models["7B"] = options.seven_b
        for name, path in models.items():
            print(f"{name} ...", file=sys.stderr)
            said[name] = on_devices(path, devices, workers, few=True, some_layers=True)
    if not (options.short or options.skip_bench):
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
