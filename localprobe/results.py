"""A run on disk: manifest.json says what was run, rows.jsonl holds what was found, row by row.

Rows are appended example by example, each example whole, in the task's order. So what a killed
run leaves behind is the beginning of what it would have written, and it can go on from there.
"""

from __future__ import annotations

import json
import os
import platform
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout
from numpy.typing import NDArray

from localprobe.cache import write_atomically
from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.rows import CLEAN, Row, from_json, to_json
from localprobe.shard import WHOLE
from localprobe.tally import ORIGINAL, SWAP, Column, Tally

if TYPE_CHECKING:
    # Reading runs needs no llama.cpp.
    from localprobe.engine.full import FullEngine
    from localprobe.sweeping import Sweep

MANIFEST, ROWS, LOCK = "manifest.json", "rows.jsonl", ".lock"
FORMAT = 1

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
"""What two runs must have in common for their rows to be the same."""

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
        """What every example has a row for, in the order of the file."""
        return list(dict.fromkeys((c.patch, layer) for c in self.columns for layer in c.layers))

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
    def title(self) -> str:
        shard = self.data["experiment"]["shard"]
        part = "" if shard == str(WHOLE) else f" · shard {shard}"
        return f"{self.task} · {described(self.data['model'])}{part}"

    def empty_tally(self) -> Tally:
        return Tally(
            self.columns, self.data["metric"], self.data["chance"], self.data.get("swap_metric")
        )


def described(model: Mapping[str, Any]) -> str:
    """A model's record in a few words."""
    requantised = ", requantised" if "@" in model["name"] else ""
    return (
        f"{model['name']} ({model['architecture']}, {model['file_type']}, "
        f"{model['n_layer']} blocks){requantised}"
    )


def new_manifest(
    model: dict[str, Any],
    experiment: dict[str, Any],
    tally: Tally,
    *,
    engine: FullEngine,
    recipe: str | None,
) -> Manifest:
    """model, experiment: as JSON objects. tally: an empty one, which knows the columns."""
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
            "batch": engine.batch_size,
            "metric": tally.metric,
            "chance": tally.chance,
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
            "started": _now(),
            "ended": None,
            "counts": None,
        }
    )


class RunFolder:
    """A folder that a sweep is written to while it runs, and goes on from.

    folder = RunFolder.open(path, manifest)
    sweep.go_on_from(folder.known)
    for row in folder.written(sweep): …
    folder.close()
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        known: list[Row],
        file: TextIO,
        lock: BaseFileLock,
    ) -> None:
        self.path, self.manifest, self.known = path, manifest, known
        self._file, self._lock = file, lock
        self._cells = manifest.cells

    @classmethod
    def open(cls, path: Path, manifest: Manifest) -> RunFolder:
        """A new folder, or one that a run of the same kind left unfinished.

        Raises LocalprobeError where the folder holds anything else, saying what differs.
        """
        if path.exists() and not (path / MANIFEST).exists() and not _is_ours(path):
            raise LocalprobeError(f"{path} is not empty and holds no run; choose another --out")
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LocalprobeError(
                f"another process is writing to {path}; wait for it, or choose another --out"
            ) from None
        try:
            return cls._open(path, manifest, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open(cls, path: Path, manifest: Manifest, lock: BaseFileLock) -> RunFolder:
        known: list[Row] = []
        if (path / MANIFEST).exists():
            found = read_manifest(path)
            differing = _differences(found.data, manifest.data)
            if differing:
                raise LocalprobeError(
                    f"{path} holds another run: {'; '.join(differing)}; choose another --out"
                )
            manifest = found
            known, length = _whole_examples(path, manifest.cells)
            _truncate(path / ROWS, length)
        else:
            write_atomically(path / MANIFEST, _dumped(manifest.data))
        file = (path / ROWS).open("a", encoding="utf-8", newline="\n")
        return cls(path, manifest, known, file, lock)

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def written(self, sweep: Sweep) -> Iterator[Row | None]:
        """Run a sweep: its rows as they come; each example's are written once they are all there.

        At the end the manifest gets its end time, and how much there was of what.
        """
        have = {row.example for row in self.known}
        order: deque[int] = deque()
        clean: dict[int, Row] = {}
        cells: dict[int, dict[Cell, Row]] = {}
        n_rows = len(self.known)
        for row in sweep.run():
            if row is not None and row.example not in have:
                n_rows += 1
                if row.patch == CLEAN:
                    order.append(row.example)
                    clean[row.example], cells[row.example] = row, {}
                else:
                    assert row.layer is not None
                    cells[row.example][row.patch, row.layer] = row
                while order and self._is_whole(clean[order[0]], cells[order[0]]):
                    number = order.popleft()
                    self._write(clean.pop(number), cells.pop(number))
            yield row
        if not self.manifest.data["ended"]:
            counts = {"rows": n_rows, "tried": sweep.tried, "used": sweep.used}
            self.manifest.data.update(ended=_now(), counts=counts)
            write_atomically(self.path / MANIFEST, _dumped(self.manifest.data))

    def _is_whole(self, clean: Row, cells: dict[Cell, Row]) -> bool:
        return not clean.used or len(cells) == len(self._cells)

    def _write(self, clean: Row, cells: dict[Cell, Row]) -> None:
        rows = [clean, *(cells[cell] for cell in self._cells if clean.used)]
        self._file.write("".join(to_json(row) + "\n" for row in rows))
        self._file.flush()


@dataclass(frozen=True)
class Run:
    """What a sweep found: what was run, and every row. path: its folder, if it is on disk."""

    manifest: Manifest
    rows: list[Row]
    path: Path | None = None

    @cached_property
    def tally(self) -> Tally:
        """Mean scores with their intervals, the baseline, and transition layers."""
        tally = self.manifest.empty_tally()
        for row in self.rows:
            tally.add(row)
        return tally

    @property
    def layers(self) -> tuple[int, ...]:
        return self.tally.layers

    @property
    def baseline(self) -> float:
        """The clean model's mean score on the examples used; nan where none was."""
        return self.tally.baseline.score if self.tally.baseline.n else float("nan")

    def scores(self, patch: str, metric: str | None = None) -> NDArray[np.float64]:
        """Mean scores at each of `layers`, (n_layers,); nan where there is none.

        metric: one of the task's, the run's own if None; for swap "original" or "modified".
        Raises LocalprobeError where the run has no such scores.
        """
        metric = metric or (ORIGINAL if patch == SWAP else self.tally.metric)
        known = [(column.patch, column.metric) for column in self.tally.all_columns]
        if (patch, metric) not in known:
            raise LocalprobeError(
                f"this run has no scores of {patch} by {metric}; it has "
                + ", ".join(f"{patch} by {metric}" for patch, metric in known)
            )
        found = [self.tally.score(patch, metric, layer) for layer in self.layers]
        return np.array([np.nan if score is None else score.score for score in found])

    def by_metric(self, metric: str | None) -> Run:
        """The same run with another of the task's metrics as the one that matters."""
        if metric is None or metric == self.tally.metric:
            return self
        if metric not in self.tally.clean_metrics:
            hint = did_you_mean(metric, self.tally.clean_metrics)
            raise LocalprobeError(f"{self.manifest.task} has no metric {metric!r}; {hint}")
        # Swaps were scored by the sweep's own metric, and by no other.
        changed = {"metric": metric, "swap_metric": self.tally.swap_metric}
        return Run(Manifest({**self.manifest.data, **changed}), self.rows, self.path)

    def transition(self, patch: str) -> int | None:
        """The layer from which on an intervention no longer matters, if any."""
        if patch not in self.tally.patches:
            raise LocalprobeError(
                f"this run has no {patch}; it has {', '.join(self.tally.patches)}"
            )
        return self.tally.transition(patch)

    def differences(self, other: Run) -> list[str]:
        """What was run otherwise, in words; the model aside."""
        found = _differences(self.manifest.data, other.manifest.data)
        return [each for each in found if not each.startswith("model ")]

    @property
    def is_finished(self) -> bool:
        return self.manifest.data["ended"] is not None


def read_run(path: Path) -> Run:
    """The run in a folder; of one that was killed, the examples that are whole.

    Raises LocalprobeError where there is none, or it is damaged.
    """
    manifest = read_manifest(path)
    rows, _ = _whole_examples(path, manifest.cells)
    counts = manifest.data["counts"]
    if counts and len(rows) != counts["rows"]:
        raise LocalprobeError(
            f"{path / ROWS} is damaged: it holds {len(rows)} rows, and the run ended with "
            f"{counts['rows']}"
        )
    return Run(manifest, rows, path)


def run_folders(path: Path) -> list[Path]:
    """The folder itself if it holds a run, else those in it that do, by name."""
    if (path / MANIFEST).is_file():
        return [path]
    found = sorted(each.parent for each in path.glob(f"*/{MANIFEST}")) if path.is_dir() else []
    if not found:
        raise LocalprobeError(f"{path} holds no run (a folder with {MANIFEST} and {ROWS})")
    return found


def read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LocalprobeError(f"{path} holds no run: there is no {MANIFEST} in it") from None
    except OSError as error:
        raise LocalprobeError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise LocalprobeError(f"{file} is damaged: not valid JSON") from None
    if isinstance(data, dict) and data.get("format", FORMAT) != FORMAT:
        raise LocalprobeError(
            f"{file} is of format {data['format']!r}, this localprobe reads {FORMAT}"
        )
    manifest = Manifest(data)
    try:
        # Everything that is read off it later is tried once.
        manifest.cells, manifest.title, manifest.n_layer, data["ended"]
        if data["counts"] is not None:
            {key: int(data["counts"][key]) for key in ("rows", "tried", "used")}
        manifest.empty_tally()
        {key: data[key] for key in _IDENTITY}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LocalprobeError(f"{file} is damaged: {error!r}") from None
    return manifest


def merge(paths: Sequence[Path], target: Path) -> Run:
    """Join the shards of a run into a folder of their own, as if they had been one run.

    Raises LocalprobeError where they do not belong together, or say different things.
    """
    runs = [read_run(path) for path in paths]
    first = runs[0]
    for run in runs:
        differing = _differences(first.manifest.data, run.manifest.data, but_shards=True)
        if differing:
            raise LocalprobeError(
                f"{run.path} does not belong to {first.path}: {'; '.join(differing)}"
            )
        if not run.is_finished:
            raise LocalprobeError(f"{run.path} is unfinished; let it go on to its end first")
        for count in ("tried", "used"):
            one, other = (each.manifest.data["counts"][count] for each in (first, run))
            if one != other:
                raise LocalprobeError(
                    f"{first.path} {count} {one} examples, {run.path} {other}: their clean models "
                    "answer differently, so they are not shards of one run"
                )
    examples: dict[int, tuple[Path, list[Row]]] = {}
    for path, run in zip(paths, runs, strict=True):
        for number, rows in _by_example(run.rows).items():
            other_path, others = examples.setdefault(number, (path, rows))
            if others != rows:
                raise LocalprobeError(
                    f"{other_path} and {path} say different things of example {number}"
                )
    if target.exists() and not _is_ours(target):
        raise LocalprobeError(f"{target} is not empty; choose another --out")
    given = [run.manifest.data["experiment"]["shard"] for run in runs]
    shards = sorted({part for shard in given for part in shard.split("+")})
    missing = _missing(shards)
    tried = first.manifest.data["counts"]["tried"]
    if not missing and len(examples) != tried:
        raise LocalprobeError(
            f"the shards hold {len(examples)} examples and not the {tried} that were tried"
        )
    data = deepcopy(first.manifest.data)
    data["experiment"]["shard"] = str(WHOLE) if not missing else "+".join(shards)
    data["started"] = min(run.manifest.data["started"] for run in runs)
    data["ended"] = max(run.manifest.data["ended"] for run in runs)
    n_rows = sum(len(rows) for _, rows in examples.values())
    data["counts"] = {**data["counts"], "rows": n_rows}
    merged = [row for number in sorted(examples) for row in examples[number][1]]
    write_atomically(target / ROWS, "".join(to_json(row) + "\n" for row in merged))
    write_atomically(target / MANIFEST, _dumped(data))
    return Run(Manifest(data), merged, target)


def _missing(shards: Sequence[str]) -> bool:
    parts = [shard.partition("/") for shard in shards]
    counts = {count for _, _, count in parts}
    return len(counts) != 1 or len(parts) != int(counts.pop())


def _by_example(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.example, []).append(row)
    return found


def _whole_examples(path: Path, cells: Sequence[Cell]) -> tuple[list[Row], int]:
    """The rows of the whole examples at the beginning of the file, and its length up to there.

    What follows them is what was being written when the run was killed.
    Raises LocalprobeError where something is damaged before that.
    """
    file = path / ROWS
    try:
        data = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise LocalprobeError(f"cannot read {file}: {error.strerror}") from None
    whole: list[Row] = []
    pending: list[Row] = []
    length = position = 0
    lines = data.split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        position += len(line) + 1
        try:
            row = from_json(line.decode())
            _check_place(row, pending, cells)
        except ValueError as error:
            raise LocalprobeError(f"{file}, line {number}: damaged: {error}") from None
        pending.append(row)
        if not pending[0].used or len(pending) == 1 + len(cells):
            whole += pending
            pending, length = [], position
    return whole, length


def _check_place(row: Row, pending: Sequence[Row], cells: Sequence[Cell]) -> None:
    """Raise ValueError where the row does not follow those of its example."""
    if not pending:
        if row.patch != CLEAN:
            raise ValueError("an example must begin with its clean row")
    elif row.example != pending[0].example or (row.patch, row.layer) != cells[len(pending) - 1]:
        raise ValueError("the row does not follow the one before it")


def _is_ours(path: Path) -> bool:
    """Whether a folder without a manifest can be taken: nothing is in it but what we left."""
    return path.is_dir() and all(
        each.name == LOCK or (each.name.startswith(MANIFEST) and each.suffix == ".part")
        for each in path.iterdir()
    )


def _truncate(file: Path, length: int) -> None:
    if file.exists() and file.stat().st_size != length:
        with file.open("r+b") as opened:
            opened.truncate(length)


def _differences(
    one: dict[str, Any], other: dict[str, Any], *, but_shards: bool = False
) -> list[str]:
    """What differs in the identity of two runs, in words."""

    def flat(data: dict[str, Any]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key in _IDENTITY:
            value = data[key]
            if isinstance(value, dict):
                found |= {f"{key} {inner}": each for inner, each in value.items()}
            else:
                found[key] = value
        # The same file may have been given by another name.
        found.pop("model name", None)
        if but_shards:
            found.pop("experiment shard", None)
        return found

    left, right = flat(one), flat(other)
    return [
        f"{key} is {left.get(key)!r}, not {right.get(key)!r}"
        for key in left.keys() | right.keys()
        if left.get(key) != right.get(key)
    ]


def _dumped(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
