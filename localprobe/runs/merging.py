"""The shards of a run, joined as if they had been one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path

from localprobe.errors import LocalprobeError
from localprobe.files.cache import write_atomically
from localprobe.runs.folder import MERGED, ROWS, is_ours
from localprobe.runs.manifest import (
    Manifest,
    contradictions,
    differences,
    joint_noise,
    write_manifest,
)
from localprobe.runs.results import Run, read_run
from localprobe.runs.rows import Row, to_json
from localprobe.runs.shard import WHOLE


def merge(paths: Sequence[Path], target: Path) -> Run:
    """Join the shards of a run into a folder of their own, as if they had been one run.

    Raises LocalprobeError where they do not belong together, or say different things.
    """
    runs = [read_run(path) for path in paths]
    first = runs[0]
    for run in runs:
        differing = differences(first.manifest, run.manifest, "experiment shard")
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
        for key in contradictions(first.manifest, run.manifest):
            raise LocalprobeError(f"{run.path} and {first.path} contradict each other: {key}")
    examples: dict[int, tuple[Path, list[Row]]] = {}
    for path, run in zip(paths, runs, strict=True):
        for number, rows in _by_example(run.rows).items():
            other_path, others = examples.setdefault(number, (path, rows))
            if others != rows:
                raise LocalprobeError(
                    f"{other_path} and {path} say different things of example {number}"
                )
    if target.exists() and not is_ours(target):
        raise LocalprobeError(f"{target} is not empty; choose another --out")
    given = [run.manifest.data["experiment"]["shard"] for run in runs]
    shards = sorted({part for shard in given for part in shard.split("+")})
    splits = {part.partition("/")[2] for part in shards}
    if len(splits) != 1:
        raise LocalprobeError(f"the shards {', '.join(shards)} are not of one split")
    missing = len(shards) != int(splits.pop())
    tried = first.manifest.data["counts"]["tried"]
    if not missing and len(examples) != tried:
        raise LocalprobeError(
            f"the shards hold {len(examples)} examples and not the {tried} that were tried"
        )
    data = deepcopy(first.manifest.data)
    data["noise"] = joint_noise(run.manifest for run in runs)
    data["experiment"]["shard"] = str(WHOLE) if not missing else "+".join(shards)
    data["started"] = min(run.manifest.data["started"] for run in runs)
    data["ended"] = max(run.manifest.data["ended"] for run in runs)
    n_rows = sum(len(rows) for _, rows in examples.values())
    data["counts"] = {**data["counts"], "rows": n_rows}
    merged = [row for number in sorted(examples) for row in examples[number][1]]
    manifest = Manifest(data)
    # Under another name at first: killed before the end, a merge can be done again.
    part = target / MERGED
    write_atomically(part, "".join(to_json(row) + "\n" for row in merged))
    try:
        write_manifest(target, manifest)
        part.replace(target / ROWS)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return Run(manifest, merged, target)


def _by_example(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.example, []).append(row)
    return found
