"""Maps over a task on disk: a folder of the layout of a sweep's, whose manifest says kind "maps".

rows.jsonl has a line for every example that was tried: its clean answer and, where that is right,
the metric in every cell (role, layer), and what share of the answer is gone there.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from localprobe.errors import LocalprobeError
from localprobe.files.cache import write_atomically
from localprobe.files.foreign import printable
from localprobe.runs.folder import (
    LONGEST_LINE,
    MERGED,
    ROWS,
    check_all_there,
    claim,
    is_ours,
    truncate,
    writing,
)
from localprobe.runs.intervals import bootstrap, interval
from localprobe.runs.manifest import (
    FORMAT,
    MANIFEST,
    MAPS,
    Manifest,
    differences,
    is_of_maps,
    now,
    read_data,
    refuse_links,
    write_manifest,
)
from localprobe.runs.shard import WHOLE, parse_shard

if TYPE_CHECKING:
    # Reading runs needs no llama.cpp.
    from localprobe.engine.full import FullEngine

Cells = Mapping[str, tuple["float | None", ...]]
"""Role -> by layer; None where the model's numbers were not finite."""


@dataclass(frozen=True)
class MapRow:
    """What an example says. Of one that is not used: its clean answer alone.

    answer: of the clean model. first: its first token, which values and effects are about.
    clean: the metric of the run that is changed, as it is. roles: role -> positions of its tokens.
    values: the metric. effects: which share of the answer is gone, 0 … 1; of swaps, which share of
    the way to the other run is gone.
    Where two answers are told apart, donor: the example that the other one is to, where that is one
    of the task; its prompt, its subject (new), its answer's first token; of swaps, there: the
    metric of the run whose states come in. without_donor: right, but not used for want of one.
    """

    example: int
    used: bool
    prompt: str
    accepted: tuple[str, ...]
    subject: str
    answer: str
    first: str = ""
    clean: float | None = None
    donor: int | None = None
    donor_prompt: str | None = None
    new: str | None = None
    donor_first: str | None = None
    there: float | None = None
    without_donor: bool = False
    roles: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Cells = field(default_factory=dict)
    effects: Cells = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean over examples in every cell, (n_layers, n_roles) each; nan where there is none.

    low, high: its 95 % interval, by the bootstrap over examples (of shares that are all 0 or 1,
    Wilson's). n: how many examples it is of.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of a task's examples: what was run, and a row for each that was tried."""

    manifest: Manifest
    rows: list[MapRow]
    path: Path | None = None

    @property
    def patch(self) -> str:
        return str(self.manifest.data["experiment"]["interventions"][0])

    @property
    def metric(self) -> str:
        return str(self.manifest.data["experiment"]["metric"])

    @property
    def direction(self) -> str | None:
        """Of swaps: noising or denoising."""
        return self.manifest.data["experiment"].get("direction")  # type: ignore[no-any-return]

    @property
    def window(self) -> int | None:
        return self.manifest.data["experiment"]["window"]  # type: ignore[no-any-return]

    @property
    def layers(self) -> NDArray[np.int_]:
        return np.array(self.manifest.data["layers"])

    @cached_property
    def roles(self) -> list[str]:
        """Those that some example has, in the order of the prompt."""
        there = {role for row in self.used for role in row.roles}
        return [role for role in self.manifest.data["roles"] if role in there]

    @cached_property
    def used(self) -> list[MapRow]:
        return [row for row in self.rows if row.used]

    @cached_property
    def clean(self) -> tuple[float, float, float]:
        """The mean of the metric of prompts as they are, and its interval; nan where not known."""
        return _mean([row.clean for row in self.used if row.clean is not None])

    @cached_property
    def there(self) -> tuple[float, float, float]:
        """Of swaps, as `clean`, of the runs whose states come in."""
        return _mean([row.there for row in self.used if row.there is not None])

    @cached_property
    def values(self) -> Mean:
        """The mean of the metric."""
        return self._means([row.values for row in self.used], _mean)

    @cached_property
    def effects(self) -> Mean:
        """The mean share of the answer that is gone."""
        return self._means([row.effects for row in self.used], _mean_share)

    @cached_property
    def n_without_donor(self) -> int:
        """How many examples are not used because there is nothing to tell them from."""
        return sum(row.without_donor for row in self.rows)

    def n_of(self, role: str) -> int:
        """How many examples have such a token."""
        return sum(role in row.roles for row in self.used)

    @property
    def so_far(self) -> str | None:
        """How much there is of an unfinished run; None of a finished one."""
        if self.manifest.is_finished:
            return None
        n, wanted = len(self.used), self.manifest.n_wanted
        return f"{n} of at most {wanted} examples" if wanted else f"{n} examples so far"

    def _means(self, cells: Sequence[Cells], of: Any) -> Mean:
        shape = len(self.layers), len(self.roles)
        mean, low, high = (np.full(shape, np.nan) for _ in range(3))
        n = np.zeros(shape, int)
        for column, role in enumerate(self.roles):
            there = [each[role] for each in cells if role in each]
            for row in range(shape[0]):
                some = [value for each in there if (value := each[row]) is not None]
                n[row, column] = len(some)
                mean[row, column], low[row, column], high[row, column] = of(some)
        return Mean(mean, low, high, n)


def _mean(values: Sequence[float]) -> tuple[float, float, float]:
    if not values:
        return (math.nan,) * 3
    # Of one example, nothing is known of the others.
    ends = bootstrap(Counter(values)) if len(values) > 1 else (math.nan, math.nan)
    return math.fsum(values) / len(values), *ends


def _mean_share(values: Sequence[float]) -> tuple[float, float, float]:
    if not values:
        return (math.nan,) * 3
    low, high, _ = interval(Counter(values))
    return math.fsum(values) / len(values), low, high


def new_manifest(
    model: dict[str, Any],
    experiment: dict[str, Any],
    *,
    engine: FullEngine,
    layers: Sequence[int],
    roles: Sequence[str],
    n_examples: int,
) -> Manifest:
    """model, experiment: as JSON objects; the experiment with metric and window of the maps."""
    return Manifest(
        {
            "kind": MAPS,
            "format": FORMAT,
            "localprobe": version("localprobe"),
            "llama_cpp_python": version("llama-cpp-python"),
            "numpy": version("numpy"),
            "model": {key: value for key, value in model.items() if key != "path"},
            "experiment": experiment,
            "engine": engine.name,
            "devices": engine.model.devices,
            "batch": 1,
            "layers": list(layers),
            "roles": list(roles),
            "examples": n_examples,
            "started": now(),
            "ended": None,
            "counts": None,
        }
    )


class MapFolder:
    """A folder that the rows of maps are written to as they come, and that can be gone on with.

    folder = MapFolder(path, manifest)   # folder.known: the rows that are there already
    folder.write(row)
    folder.end(tried=…, used=…)
    folder.close()
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """A new folder, or one of the same maps, which goes on, also to a larger n.

        Raises LocalprobeError where the folder holds anything else, saying what differs.
        """
        self.path, self.manifest = path, manifest
        self.known: list[MapRow] = []
        self._lock: BaseFileLock = claim(path)
        try:
            with writing(path):
                self._file = self._opened()
        except BaseException:
            self._lock.release()
            raise
        self._n_rows = len(self.known)

    def _opened(self) -> IO[bytes]:
        path = self.path
        if not (path / MANIFEST).exists():
            write_manifest(path, self.manifest)
        else:
            found = read_map_manifest(path)
            differing = differences(found, self.manifest, "experiment n")
            differing += [
                f"{key} are {found.data[key]}, not {self.manifest.data[key]}"
                for key in ("layers", "roles", "examples")
                if found.data[key] != self.manifest.data[key]
            ]
            if differing:
                raise LocalprobeError(
                    f"{path} holds another run: {'; '.join(differing)}; choose another --out"
                )
            if found.n != self.manifest.n:
                if found.n is None or (self.manifest.n is not None and self.manifest.n < found.n):
                    raise LocalprobeError(
                        f"{path} holds a run of {found.n or 'all'} examples, which cannot become "
                        f"one of {self.manifest.n}; choose another --out"
                    )
                found.data["experiment"]["n"] = self.manifest.n
                found.data.update(ended=None, counts=None)
                write_manifest(path, found)
            self.manifest = found
            self.known, length = _read_rows(path, found)
            truncate(path / ROWS, length)
        return (path / ROWS).open("ab", buffering=0)

    def write(self, row: MapRow) -> None:
        left = to_line(row).encode(errors="backslashreplace")
        self._n_rows += 1
        with writing(self.path):
            while left:
                left = left[self._file.write(left) :]

    def end(self, *, tried: int, used: int) -> None:
        """All rows are written."""
        if not self.manifest.data["ended"]:
            counts = {"rows": self._n_rows, "tried": tried, "used": used}
            self.manifest.data.update(ended=now(), counts=counts)
            with writing(self.path):
                write_manifest(self.path, self.manifest)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._lock.release()


def is_maps(path: Path) -> bool:
    """Whether a folder of a run holds maps over a task."""
    return is_of_maps(read_data(path))


def read_maps(path: Path) -> Maps:
    """The maps in a folder; of a run that was killed, the examples that are whole.

    Raises LocalprobeError where there are none, or they are damaged.
    """
    manifest = read_map_manifest(path)
    rows, _ = _read_rows(path, manifest)
    check_all_there(path, manifest, len(rows))
    return Maps(manifest, rows, path)


def read_map_manifest(path: Path) -> Manifest:
    data = read_data(path)
    if not is_of_maps(data):
        raise LocalprobeError(f"{path} holds a sweep, and no maps over a task")
    try:
        _check(data)
    except (KeyError, TypeError, ValueError, LocalprobeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise LocalprobeError(f"{path / MANIFEST} is damaged: {printable(what)}") from None
    return Manifest(data)


def _check(data: dict[str, Any]) -> None:
    """Raises an error where what is read off it later is not what it must be."""
    if data["format"] != FORMAT:
        raise ValueError(f"its format is {data['format']!r}, this localprobe reads {FORMAT}")
    model, experiment, layers, roles = (
        data[key] for key in ("model", "experiment", "layers", "roles")
    )
    for key in ("localprobe", "llama_cpp_python", "numpy", "engine", "started"):
        _must(data, key, str)
    for key in ("name", "architecture", "file_type"):
        _must(model, key, str)
    _must(model, "n_layer", int)
    for key in ("blocks_on", "attention"):
        if model.get(key) is not None:
            _must(model, key, str)
    if (source := model.get("source")) is not None:
        _must(source, "quantized", str)
    for key in ("task", "metric", "shard"):
        _must(experiment, key, str)
    for shard in experiment["shard"].split("+"):
        parse_shard(shard)
    (patch,) = _must(experiment, "interventions", list)
    if patch not in ("knockout", "random", "shuffle", "freeze", "swap"):
        raise ValueError(f"maps cannot be of {patch!r}")
    directions = ("noising", "denoising") if patch == "swap" else (None,)
    if experiment.get("direction") not in directions:
        raise ValueError(f"the direction of {patch} cannot be {experiment.get('direction')!r}")
    if experiment["metric"] not in ("prob", "logit-diff", "logprob", "rank", "kl"):
        raise ValueError(f"maps cannot be by {experiment['metric']!r}")
    for key in ("n", "window"):
        if _must(experiment, key, int, type(None)) is not None and experiment[key] < 1:
            raise ValueError(f"{key} cannot be {experiment[key]}")
    _ = data["devices"], data["batch"]
    in_place = all(type(layer) is int and 0 <= layer < model["n_layer"] for layer in layers)
    if not layers or not in_place or layers != sorted(set(layers)):
        raise ValueError("its layers are not ascending ones of the model")
    if not roles or not all(type(role) is str for role in roles) or len({*roles}) != len(roles):
        raise ValueError("its roles are no names")
    _must(data, "examples", int)
    if _must(data, "ended", str, type(None)) is not None:
        for key in ("rows", "tried", "used"):
            _must(_must(data, "counts", dict), key, int)
    elif data["counts"] is not None:
        raise ValueError("it has counts before its end")


def _must(data: Any, key: str, *kinds: type) -> Any:
    if type(data) is not dict or type(data[key]) not in kinds:
        raise ValueError(f"{key} cannot be {data[key]!r}" if type(data) is dict else "no object")
    return data[key]


_OF_DONORS = ("donor_prompt", "new", "donor_first")


def to_line(row: MapRow) -> str:
    record = asdict(row)
    if not row.used:
        for key in ("first", "clean", "roles", "values", "effects"):
            del record[key]
    for key in ("donor", *_OF_DONORS, "there", "without_donor"):
        if record[key] is None or record[key] is False:
            del record[key]
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _read_rows(path: Path, manifest: Manifest) -> tuple[list[MapRow], int]:
    """The whole rows, and the length of the file up to their end."""
    file = path / ROWS
    refuse_links(file)
    rows: list[MapRow] = []
    length = 0
    if not file.exists():
        return rows, length
    try:
        with file.open("rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                if not line.endswith(b"\n") and len(line) < LONGEST_LINE:
                    break  # what was being written when the run was killed
                try:
                    row = _from_line(line.decode(), manifest)
                    if rows and row.example <= rows[-1].example:
                        raise ValueError(f"example {row.example} is out of its order")
                except (KeyError, TypeError, ValueError, RecursionError) as error:
                    what = printable(str(error))
                    raise LocalprobeError(
                        f"{file}, line {len(rows) + 1}: damaged: {what}"
                    ) from None
                rows.append(row)
                length += len(line)
    except OSError as error:
        raise LocalprobeError(f"cannot read {file}: {error.strerror}") from None
    return rows, length


def _from_line(line: str, manifest: Manifest) -> MapRow:
    data = json.loads(line)
    if _must(data, "example", int) < 0:
        raise ValueError("example cannot be below 0")
    for key in ("prompt", "subject", "answer"):
        _must(data, key, str)
    accepted = tuple(str(each) for each in _must(data, "accepted", list))
    known = {key: data[key] for key in ("example", "prompt", "subject", "answer")}
    if not _must(data, "used", bool):
        without_donor = "without_donor" in data and _must(data, "without_donor", bool)
        return MapRow(used=False, accepted=accepted, without_donor=without_donor, **known)
    if not math.isfinite(_must(data, "clean", int, float)):
        raise ValueError("clean must be a finite number")
    roles = {
        role: tuple(int(place) for place in at) for role, at in _must(data, "roles", dict).items()
    }
    if not roles or not roles.keys() <= {*manifest.data["roles"]}:
        raise ValueError(f"its roles cannot be {list(roles)}")
    values, effects = (
        _cells(data, "values", roles, manifest),
        _cells(data, "effects", roles, manifest),
    )
    if any(not 0 <= each <= 1 for some in effects.values() for each in some if each is not None):
        raise ValueError("an effect is a share, between 0 and 1")
    return MapRow(
        used=True,
        accepted=accepted,
        first=_must(data, "first", str),
        clean=data["clean"],
        roles=roles,
        values=values,
        effects=effects,
        **_of_donor(data),
        **known,
    )


def _of_donor(data: Any) -> dict[str, Any]:
    """What a row says of its donor, as far as it has one."""
    there = {key: _must(data, key, str) for key in _OF_DONORS if key in data}
    if there and len(there) < len(_OF_DONORS):
        raise ValueError(f"of its donor there is only {', '.join(there)}")
    if "donor" in data:
        there["donor"] = _must(data, "donor", int)
    if "there" in data:
        there["there"] = _must(data, "there", int, float)
        if not math.isfinite(there["there"]):
            raise ValueError("there must be a finite number")
    return there


def _cells(data: Any, key: str, roles: Iterable[str], manifest: Manifest) -> Cells:
    cells = _must(data, key, dict)
    if cells.keys() != {*roles}:
        raise ValueError(f"the roles of its {key} are others")
    for some in cells.values():
        if type(some) is not list or len(some) != len(manifest.data["layers"]):
            raise ValueError(f"its {key} are not one for each layer")
        for each in some:
            if each is not None and (type(each) not in (int, float) or not math.isfinite(each)):
                raise ValueError(f"{each!r} cannot be one of its {key}")
    return {role: tuple(some) for role, some in cells.items()}


def merge_maps(paths: Sequence[Path], target: Path) -> Maps:
    """Join the shards of maps into a folder of their own, as if they had been one run.

    Raises LocalprobeError where they do not belong together, or are not all of them.
    """
    parts = [read_maps(path) for path in paths]
    first = parts[0]
    for part in parts:
        differing = differences(first.manifest, part.manifest, "experiment shard")
        if differing or any(
            part.manifest.data[key] != first.manifest.data[key]
            for key in ("layers", "roles", "examples")
        ):
            reasons = "; ".join(differing) or "their layers, roles or examples differ"
            raise LocalprobeError(f"{part.path} does not belong to {first.path}: {reasons}")
        if not part.manifest.is_finished:
            raise LocalprobeError(f"{part.path} is unfinished; let it go on to its end first")
    counts = [part.manifest.data["counts"] for part in parts]
    rows = sorted((row for part in parts for row in part.rows), key=lambda row: row.example)
    shards = sorted(part.manifest.data["experiment"]["shard"] for part in parts)
    n = int(shards[0].partition("/")[2])
    if shards != sorted(f"{number}/{n}" for number in range(1, n + 1)):
        raise LocalprobeError(f"{', '.join(shards)} are not all shards of one run, each once")
    tried, used = counts[0]["tried"], counts[0]["used"]
    alike = all((each["tried"], each["used"]) == (tried, used) for each in counts)
    if not alike or len({row.example for row in rows}) != len(rows) or len(rows) != tried:
        raise LocalprobeError(
            "the shards do not fit together: their clean models answer differently"
        )
    if target.exists() and not is_ours(target):
        raise LocalprobeError(f"{target} is not empty; choose another --out")
    data = deepcopy(first.manifest.data)
    data["experiment"]["shard"] = str(WHOLE)
    data["started"] = min(part.manifest.data["started"] for part in parts)
    data["ended"] = max(part.manifest.data["ended"] for part in parts)
    data["counts"] = {"rows": len(rows), "tried": tried, "used": used}
    manifest = Manifest(data)
    # Under another name at first: killed before the end, a merge can be done again.
    whole = target / MERGED
    write_atomically(whole, "".join(map(to_line, rows)))
    try:
        write_manifest(target, manifest)
        whole.replace(target / ROWS)
    except BaseException:
        whole.unlink(missing_ok=True)
        raise
    return Maps(manifest, rows, target)


def rows_of(folder: MapFolder | None, rows: Iterator[MapRow | None]) -> Iterator[MapRow | None]:
    """Rows as they come, those that are new written down."""
    n_known = 0 if folder is None else len(folder.known)
    for row in rows:
        if row is not None:
            if n_known:
                n_known -= 1
            elif folder is not None:
                folder.write(row)
        yield row
