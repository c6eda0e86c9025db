"""manifest.json: what a run was, and what it ran on."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localprobe.errors import LocalprobeError
from localprobe.files.cache import write_atomically
from localprobe.files.foreign import printable
from localprobe.files.textfile import read_bytes
from localprobe.runs.adaptive import Adaptive
from localprobe.runs.descent import Descent
from localprobe.runs.shard import WHOLE, parse_shard
from localprobe.runs.tally import KEPT, MODIFIED, ORIGINAL, SWAP, Column, Tally, patches

if TYPE_CHECKING:
    # Reading runs needs no llama.cpp.
    from localprobe.engine.full import FullEngine

MANIFEST = "manifest.json"
MAPS = "maps"
FORMAT = 2
_READ = (1, FORMAT)
"""Format 1, of version 0.2, lacks what was asked, what is right and what near ties could do."""

_IDENTITY = (
    "format",
    "localprobe",
    "llama_cpp_python",
    "numpy",
    "model",
    "experiment",
    "engine",
    "devices",
    "batch",
)
"""What two runs must have in common for their rows to be the same. localprobe: the version, which
is another one as soon as answers are scored or marked in another way.
"""

_DERIVED = ("columns", "metric", "swap_metric", "chance", "examples")
"""What follows from the experiment, and is written down for those who only read."""

Cell = tuple[str, int]


@dataclass(frozen=True)
class Manifest:
    """What was run. data: the JSON object of manifest.json."""

    data: dict[str, Any]

    @property
    def columns(self) -> list[Column]:
        return [
            Column(column["patch"], column["metric"], tuple(column["layers"]))
            for column in self.data["columns"]
        ]

    @property
    def cells(self) -> list[Cell]:
        """What every example has a row for, or of a descent may have, in the order of the file."""
        step = 1 if self.descent is None else -1
        return list(dict.fromkeys((c.patch, k) for c in self.columns for k in c.layers[::step]))

    @property
    def descent(self) -> Descent | None:
        """By which rule layers were tried, if not all were."""
        experiment = self.data["experiment"]
        if experiment.get("patience") is None:
            return None
        return Descent(experiment["patience"], experiment["check"], experiment["seed"])

    @property
    def adaptive(self) -> Adaptive | None:
        """By which rule layers had examples, if not all had the same."""
        experiment = self.data["experiment"]
        return Adaptive(experiment["width"]) if experiment.get("adaptive") else None

    @property
    def own_metric(self) -> str:
        """That of the sweep itself, by whichever it is read now."""
        return str(self.data.get("swap_metric") or self.data["metric"])

    @property
    def kept(self) -> float:
        """From which share of the baseline on an answer is said to survive."""
        kept = self.data["experiment"].get("keep")
        return KEPT if kept is None else float(kept)

    @property
    def n_layer(self) -> int:
        return int(self.data["model"]["n_layer"])

    @property
    def task(self) -> str:
        return str(self.data["experiment"]["task"])

    @property
    def model_name(self) -> str:
        return str(self.data["model"]["name"])

    @property
    def source(self) -> dict[str, Any] | None:
        """What the model was made from, where it was prepared and that is known.

        quantized: the first quantized type that its weights went through; empty: none.
        """
        return self.data["model"].get("source")  # type: ignore[no-any-return]

    @property
    def title(self) -> str:
        shard = self.data["experiment"]["shard"]
        part = "" if shard == str(WHOLE) else f" · shard {shard}"
        return f"{self.task}{self._asked} · {described(self.data['model'])}{part}"

    @property
    def _asked(self) -> str:
        """How, where that is not the task's own way."""
        experiment = self.data["experiment"]
        if experiment.get("template") is not None:
            return ", another template"
        shots = experiment.get("shots")
        return "" if shots is None else f", {shots}-shot"

    @property
    def n(self) -> int | None:
        """How many examples are to be used; None for all that there are."""
        return self.data["experiment"].get("n")  # type: ignore[no-any-return]

    @property
    def n_wanted(self) -> int | None:
        """How many examples this run, or its shard, is to use at most; None where nothing says."""
        there = self.data.get("examples")
        known = [n for n in (self.n, there) if n is not None]
        if not known or "+" in self.data["experiment"]["shard"]:
            return None
        shard = parse_shard(self.data["experiment"]["shard"])
        return len(range(shard.number - 1, min(known), shard.count))

    @property
    def is_finished(self) -> bool:
        return self.data["ended"] is not None

    def so_far(self, tally: Tally) -> str | None:
        """How much there is of an unfinished run, as "7 of 12 examples"; None of a finished one."""
        if self.is_finished:
            return None
        n, wanted, there = tally.baseline.n, self.n_wanted, self.data.get("examples")
        if wanted is None:
            return "1 example" if n == 1 else f"{n} examples"
        # Of those that there are, the ones that the clean model gets wrong may not be used.
        are_all = self.n is None or (there is not None and there <= self.n)
        most = "at most " if are_all and tally.clean.n > n else ""
        return f"{n} of {most}{wanted} examples"

    @property
    def noise(self) -> float | None:
        """What near ties are marked by; None where that was not measured on all machines."""
        # Once every run was measured, and did not say how it was.
        return self.data.get("noise", 0.0)  # type: ignore[no-any-return]

    def empty_tally(self) -> Tally:
        return Tally(
            self.columns,
            self.data["metric"],
            self.data["chance"],
            self.data.get("swap_metric"),
            knows_near_ties=self.noise is not None,
            descent=self.descent,
            kept=self.kept,
            adaptive=self.adaptive,
            until_width=self.data["experiment"].get("until_width"),
        )


def blocks(n: int) -> str:
    return "1 block" if n == 1 else f"{n} blocks"


_UNPACKED = ("BF16", "F16", "F32")
"""File types as which quantized weights are hardly rounded once more."""


def described(model: Mapping[str, Any]) -> str:
    """A model's record in a few words."""
    requantised = ", requantised" if "@" in model["name"] else ""
    file_type = model["file_type"]
    if (source := model.get("source")) and source["quantized"]:
        requantised = f", requantised from {source['quantized']}"
        if file_type in _UNPACKED:
            file_type, requantised = f"{file_type} of {source['quantized']}", ""
    # Where all blocks are on the CPU, nothing is said.
    where = f": {model['blocks_on']}" if model.get("blocks_on") else ""
    attention = f", {model['attention']} attention" if model.get("attention") else ""
    unread = ""
    if (layer := model.get("past_unread_from")) is not None:
        unread = f", nothing looks at past tokens from layer {layer} on"
    return (
        f"{model['name']} ({model['architecture']}, {file_type}, "
        f"{blocks(model['n_layer'])}{where}{attention}{unread}){requantised}"
    )


def new_manifest(
    model: dict[str, Any],
    experiment: dict[str, Any],
    tally: Tally,
    *,
    engine: FullEngine,
    recipe: str | None,
    n_examples: int,
) -> Manifest:
    """model, experiment: as JSON objects. tally: an empty one, which knows the columns.

    n_examples: of the task, used or not.
    """
    try:
        gguf = version("gguf")
    except PackageNotFoundError:
        gguf = None
    return Manifest(
        {
            "format": FORMAT,
            "localprobe": version("localprobe"),
            "llama_cpp_python": version("llama-cpp-python"),
            "gguf": gguf,
            "numpy": version("numpy"),
            "recipe": recipe,
            "model": {key: value for key, value in model.items() if key != "path"},
            "experiment": experiment,
            "engine": engine.name,
            "devices": engine.model.devices,
            "batch": engine.company,
            "noise": engine.noise,
            "metric": tally.metric,
            "chance": tally.chance,
            "examples": n_examples,
            "columns": [
                {"patch": c.patch, "metric": c.metric, "layers": list(c.layers)}
                for c in tally.all_columns
            ],
            "machine": {
                "system": f"{platform.system()} {platform.release()}",
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
            },
            "started": now(),
            "ended": None,
            "counts": None,
        }
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder. Raises LocalprobeError where there is none, or it is damaged."""
    file = folder / MANIFEST
    data = read_data(folder)
    if is_of_maps(data):
        raise LocalprobeError(
            f"{folder} holds maps over a task and no sweep: it has no scores and no misses"
        )
    if isinstance(data, dict) and data.get("format", FORMAT) not in _READ:
        found = printable(repr(data["format"]), 40)
        known = " and ".join(map(str, _READ))
        raise LocalprobeError(f"{file} is of format {found}, this localprobe reads {known}")
    try:
        _check(data)
    except _DamagedError as error:
        raise LocalprobeError(f"{file} is damaged: {printable(str(error))}") from None
    return Manifest(data)


def read_data(folder: Path) -> Any:
    """What is in manifest.json, not looked at. Raises LocalprobeError where that is no JSON."""
    file = folder / MANIFEST
    refuse_links(file)
    if not file.exists():
        raise LocalprobeError(f"{folder} holds no run: there is no {MANIFEST} in it")
    text = read_bytes(file, most=_MOST_BYTES)
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        raise LocalprobeError(f"{file} is damaged: not valid JSON") from None


def is_of_maps(data: Any) -> bool:
    """Whether a manifest is of maps over a task (see runs/maps.py); sweeps name no kind."""
    return isinstance(data, dict) and data.get("kind") == MAPS


def refuse_links(file: Path) -> None:
    """What is at the other end is not ours to read, and least of all to write."""
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise LocalprobeError(f"{file} is damaged: it is a link or a device, and no file")


class _DamagedError(Exception):
    """What is wrong with it."""


_NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
_MOST_LAYERS = 512
_MOST_BYTES = 1 << 24
_DEEPEST = 5


def _check(data: Any) -> None:
    """Raise _DamagedError where anything that is read off it later is not what it must be."""
    _get(data, "", dict)
    _check_plain(data)
    for key in _IDENTITY:
        if key not in data:
            raise _DamagedError(f"{key} is missing")
    model, experiment = _get(data, "model", dict), _get(data, "experiment", dict)
    for key in (
        "name",
        "architecture",
        "file_type",
        *(["blocks_on"] if "blocks_on" in model else []),
    ):
        _get(model, key, str)
    if "past_unread_from" in model:
        _get(model, "past_unread_from", int)
    n_layer = _get(model, "n_layer", int)
    if not 1 <= n_layer <= _MOST_LAYERS:
        raise _DamagedError(f"n_layer cannot be {n_layer}")
    if model.get("source") is not None:
        _check_source(_get(model, "source", dict))
    _name(experiment, "task")
    _get(experiment, "seed", int)
    for key, number in (("n", experiment.get("n")), ("examples", data.get("examples"))):
        if number is not None and not (type(number) is int and number >= 0):
            raise _DamagedError(f"{key} cannot be {number!r}")
    shots = experiment.get("shots")
    if shots is not None and not (type(shots) is int and shots >= 0):
        raise _DamagedError(f"shots cannot be {shots!r}")
    for shard in _get(experiment, "shard", str).split("+"):
        try:
            parse_shard(shard)
        except LocalprobeError:
            raise _DamagedError(f"shard cannot be {shard!r}") from None
    _check_descent(experiment)
    _name(data, "metric")
    if data.get("swap_metric") is not None:
        _name(data, "swap_metric")
    for metric, share in _get(data, "chance", dict).items():
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise _DamagedError(f"the chance of {metric!r} cannot be {share!r}")
    noise = data.get("noise")
    if noise is not None and not (type(noise) in (int, float) and noise >= 0):
        raise _DamagedError(f"noise cannot be {noise!r}")
    columns = _get(data, "columns", list)
    _check_columns(columns, n_layer)
    if experiment.get("patience") is not None:
        for column in columns:
            if column["patch"] == SWAP or column["metric"] != data["metric"]:
                raise _DamagedError(f"no transition is of {column['patch']} by {column['metric']}")
    _check_adaptive(experiment, columns)
    metrics = {column["metric"] for column in columns if column["patch"] != SWAP}
    if metrics and data["metric"] not in metrics:
        raise _DamagedError(f"no column is of the metric {data['metric']!r}")
    _get(data, "started", str)
    if _get(data, "ended", str, type(None)) is not None or data.get("counts") is not None:
        counts = _get(data, "counts", dict)
        for key in ("rows", "tried", "used"):
            if _get(counts, key, int) < 0:
                raise _DamagedError(f"{key} cannot be {counts[key]}")


def _check_descent(experiment: dict[str, Any]) -> None:
    patience, keep = experiment.get("patience"), experiment.get("keep")
    if patience is not None:
        if type(patience) is not int or not 1 <= patience <= _MOST_LAYERS:
            raise _DamagedError(f"patience cannot be {patience!r}")
        check = _get(experiment, "check", int, float)
        if not 0 <= check <= 1:
            raise _DamagedError(f"check cannot be {check!r}")
    if keep is not None and not (type(keep) in (int, float) and 0 < keep <= 1):
        raise _DamagedError(f"keep cannot be {keep!r}")
    until_width = experiment.get("until_width")
    if until_width is not None and not (type(until_width) is int and until_width >= 0):
        raise _DamagedError(f"until_width cannot be {until_width!r}")


def _check_adaptive(experiment: dict[str, Any], columns: list[Any]) -> None:
    if type(experiment.get("adaptive", False)) is not bool:
        raise _DamagedError(f"adaptive cannot be {experiment['adaptive']!r}")
    if not experiment.get("adaptive"):
        return
    width = _get(experiment, "width", int, float)
    if not 0 < width < 1:
        raise _DamagedError(f"width cannot be {width!r}")
    if any(column["patch"] == SWAP for column in columns):
        raise _DamagedError("no adaptive sweep is of swap")


def _check_source(source: dict[str, Any]) -> None:
    for key in ("name", "sha256", "file_type", "quantized"):
        _get(source, key, str)
    change = _get(source, "change", dict, type(None))
    if change is not None:
        for key in ("n", "kept", "kl"):
            if _get(change, key, int, float) < 0:
                raise _DamagedError(f"{key} cannot be {change[key]}")


def _check_plain(value: Any, depth: int = 0) -> None:
    """Numbers that are some, texts that can be written, and nothing nested deeply."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _DamagedError(f"{value} is not a number")
    if isinstance(value, dict | list):
        if depth == _DEEPEST:
            raise _DamagedError("it is nested too deeply")
        for inner in [*value, *(value.values() if isinstance(value, dict) else ())]:
            _check_plain(inner, depth + 1)


def _check_columns(columns: list[Any], n_layer: int) -> None:
    layers_of: dict[str, list[int]] = {}
    seen = set()
    for column in columns:
        patch, metric = _get(column, "patch", str), _name(column, "metric")
        if patch not in patches() or (patch == SWAP and metric not in (ORIGINAL, MODIFIED)):
            raise _DamagedError(f"a column cannot be of {patch!r} by {metric!r}")
        layers = _get(column, "layers", list)
        in_place = all(type(layer) is int and 0 <= layer < n_layer for layer in layers)
        if not layers or not in_place or layers != sorted(set(layers)):
            raise _DamagedError(f"the layers of {patch} are not ascending ones of the model")
        if (patch, metric) in seen or layers_of.setdefault(patch, layers) != layers:
            raise _DamagedError(f"the columns of {patch} contradict each other")
        seen.add((patch, metric))
    if not columns:
        raise _DamagedError("it has no columns")
    if SWAP in layers_of and len(seen & {(SWAP, ORIGINAL), (SWAP, MODIFIED)}) != 2:
        raise _DamagedError("a column of swap is missing")


def _get(data: Any, key: str, *kinds: type) -> Any:
    """An entry (key "": the whole) of one of these kinds. Raises _DamagedError otherwise."""
    if key and (not isinstance(data, dict) or key not in data):
        raise _DamagedError(f"{key} is missing")
    value = data[key] if key else data
    if type(value) not in kinds:
        raise _DamagedError(f"{key or 'it'} cannot be {value!r}")
    return value


def _name(data: Any, key: str) -> str:
    value: str = _get(data, key, str)
    if not _NAME.fullmatch(value):
        raise _DamagedError(f"{key} cannot be {value!r}")
    return value


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The whole of it, or none."""
    text = json.dumps(manifest.data, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / MANIFEST, text + "\n")


def differences(one: Manifest, other: Manifest, *but: str) -> list[str]:
    """What two runs do not have in common of what their rows depend on, in words.

    but: what may differ, as "experiment shard".
    """

    def flat(data: dict[str, Any]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key in _IDENTITY:
            value = data[key]
            if isinstance(value, dict):
                found |= {f"{key} {inner}": each for inner, each in value.items()}
            else:
                found[key] = value
        # The same file may have been given by another name, and its source be written down or not.
        found.pop("model name", None)
        found.pop("model source", None)
        # What was once called so.
        found["devices"] = "cpu" if found["devices"] == "gpu 0" else found["devices"]
        for key in but:
            found.pop(key, None)
        return found

    def shown(value: object) -> str:
        return printable(repr(value), 100)

    left, right = flat(one.data), flat(other.data)
    return [
        f"{key} is {shown(left.get(key))}, not {shown(right.get(key))}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def contradictions(one: Manifest, other: Manifest) -> list[str]:
    """What must be alike in runs without `differences`, and is not: one was changed by hand."""
    return [key for key in _DERIVED if one.data.get(key) != other.data.get(key)]


def joint_noise(manifests: Iterable[Manifest]) -> float | None:
    """That of rows which come from several machines."""
    noises = [manifest.noise for manifest in manifests]
    return None if None in noises else max(noise for noise in noises if noise is not None)


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
