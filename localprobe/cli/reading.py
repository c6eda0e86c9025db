"""What the commands do that read runs from disk. No model is loaded."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.files.cache import write_atomically
from localprobe.files.foreign import escaped
from localprobe.report import documents, run_view
from localprobe.report.comparison import Comparison, comparison_table
from localprobe.report.drawing import unstyled
from localprobe.report.export import FORMATS, exported
from localprobe.report.map_records import MapRecord, mean_record
from localprobe.report.map_records import read_maps as read_map_file
from localprobe.report.maps_comparison import MapsComparison, comparison_text
from localprobe.report.maps_view import maps_record, maps_text
from localprobe.report.misses import misses, misses_table, not_finite
from localprobe.report.run_page import run_page
from localprobe.report.score_table import report as score_report
from localprobe.report.terminal import print_document, say, size_text, stdout_console
from localprobe.runs import results
from localprobe.runs.folder import GrowingRows
from localprobe.runs.manifest import MANIFEST
from localprobe.runs.maps import Maps, is_maps, merge_maps, read_maps
from localprobe.runs.merging import merge as merge_runs
from localprobe.runs.results import Run
from localprobe.runs.shard import WHOLE


def show(
    paths: Sequence[Path],
    metric: str | None,
    *,
    only_misses: bool,
    patch: str | None,
    layers: str | None,
    json: bool,
) -> None:
    if not only_misses and (patch, layers) != (None, None):
        raise LocalprobeError("--patch and --layers are for --misses")
    if not only_misses and metric is None and (maps := _maps(paths)):
        _show_maps(maps, json=json)
        return
    runs = [run.by_metric(metric) for run in _runs(paths)]
    if only_misses:
        _show_misses(runs, patch, layers, json=json)
        return
    if json:
        found = [documents.sweep_document(run.manifest, run.tally) for run in runs]
        print_document(found[0] if len(found) == 1 else found)
        return
    console = stdout_console()
    for number, run in enumerate(runs):
        if number:
            console.print()
        console.print(
            score_report(console, run.tally, run.manifest.title, run.manifest.n_layer, run.so_far)
        )


def follow(paths: Sequence[Path], metric: str | None) -> None:
    """The table of the one run that is going on, redrawn as it grows; then that of its end.

    On no terminal, only the last one. Ctrl-C leaves the table as it stands.
    """
    folders = [folder for path in paths for folder in results.run_folders(path)]
    growing = [each for each in map(GrowingRows, folders) if not each.manifest.is_finished]
    if len(growing) > 1:
        names = ", ".join(str(each.path) for each in growing)
        raise LocalprobeError(f"several of these runs go on; name one to follow: {names}")
    try:
        if growing:
            run_view.follow(growing[0], metric)
    finally:
        show(paths, metric, only_misses=False, patch=None, layers=None, json=False)


def _show_maps(found: Sequence[Maps], *, json: bool) -> None:
    if json:
        records = [maps_record(each) for each in found]
        print_document(records[0] if len(records) == 1 else records)
        return
    console = stdout_console()
    for number, each in enumerate(found):
        if number:
            console.print()
        for line in maps_text(console, each):
            console.print(line)


def _show_misses(runs: Sequence[Run], patch: str | None, layers: str | None, *, json: bool) -> None:
    found = [(misses(run, patch, layers), not_finite(run, patch, layers)) for run in runs]
    if json:
        records = [
            {
                "run": str(run.path),
                "task": run.manifest.task,
                "misses": wrong,
                "not_finite": lost,
            }
            for run, (wrong, lost) in zip(runs, found, strict=True)
        ]
        print_document(records[0] if len(records) == 1 else records)
        return
    console = stdout_console()
    for number, (run, (wrong, lost)) in enumerate(zip(runs, found, strict=True)):
        if number:
            console.print()
        console.print(misses_table(console, run, patch, wrong, lost))


def export(paths: Sequence[Path], form: str, *, rows: bool) -> None:
    if form not in FORMATS:
        raise LocalprobeError(f"unknown format {form!r}; {did_you_mean(form, FORMATS)}")
    folders = [folder for path in paths for folder in results.run_folders(path)]
    runs = [read_maps(each) if is_maps(each) else results.read_run(each) for each in folders]
    _say_unfinished(runs)
    text = exported(runs, form, rows=rows)
    if sys.stdout.isatty():
        # For other programs it is as it is; a terminal would obey what is in it.
        text = "".join(escaped(line) + "\n" for line in text.split("\n")[:-1])
    print(text, end="")


def compare(paths: Sequence[Path], *, json: bool) -> None:
    if maps := _maps(paths):
        _compare_maps(maps, json=json)
        return
    comparisons = Comparison.of(_runs(paths))
    if json:
        print_document([each.document() for each in comparisons])
        return
    console = stdout_console()
    for number, each in enumerate(comparisons):
        if number:
            console.print()
        console.print(comparison_table(console, each))


def _compare_maps(maps: Sequence[Maps], *, json: bool) -> None:
    comparison = MapsComparison.of([_with_rows(each) for each in maps])
    _say_unfinished(maps)
    if json:
        print_document([comparison.document()])
        return
    console = stdout_console()
    for line in comparison_text(console, comparison):
        console.print(line)


def plot(paths: Sequence[Path], output: Path, metric: str | None, *, transitions: bool) -> None:
    with unstyled():
        from localprobe.report import map_figure
        from localprobe.report import plot as figures

        if output.suffix.lower() not in figures.FORMATS:
            kinds = ", ".join(figures.FORMATS)
            raise LocalprobeError(f"{output}: the figure must be one of {kinds}")
        if metric is None and (maps := _maps(paths)):
            map_figure.save([_with_rows(each) for each in maps], output)
        else:
            found = [run.by_metric(metric) for run in _runs(paths)]
            figures.save_figure(found, output, transitions=transitions)
    say(f"wrote {output}")


def report(
    paths: Sequence[Path],
    output: Path,
    *,
    maps: Sequence[Path],
    title: str | None,
    metric: str | None,
    examples: int,
) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        raise LocalprobeError(f"{output}: the report must be an .html file")
    if not output.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(output.parent))
    folders = [folder for path in paths for folder in results.run_folders(path)]
    over_tasks = [read_maps(each) for each in folders if is_maps(each)]
    if over_tasks and metric is not None:
        raise LocalprobeError(f"--metric is for sweeps; {over_tasks[0].path} holds maps")
    runs = [results.read_run(each).by_metric(metric) for each in folders if not is_maps(each)]
    _say_unfinished([*runs, *over_tasks])
    found = [each for file in maps for each in read_map_file(file)]
    text = run_page(runs, examples, title=title, maps=found, over_tasks=over_tasks)
    write_atomically(output, text)
    say(f"wrote {output}, {size_text(output.stat().st_size)}")


_DEEPEST = 4
"""Folders that runs are looked for in, below the one that is named."""


def browse(paths: Sequence[Path]) -> None:
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise LocalprobeError("browse needs a terminal; localprobe show prints the tables")
    try:
        from localprobe.report.browse import Browser, Opened
    except ImportError:
        raise LocalprobeError(
            "browse needs textual; run: pip install 'localprobe[browse]'"
        ) from None
    there = []
    for path in paths or [Path()]:
        if path.is_file():
            there += [
                Opened(str(path), found=partial(_itself, each)) for each in read_map_file(path)
            ]
            continue
        for each in runs_below(path):
            if is_maps(each):
                there.append(Opened(str(each), found=partial(_mean_of, each)))
            else:
                there.append(Opened(str(each), partial(results.read_run, each)))
    if len(there) == 1:
        # What is wrong with it is said before there is a screen.
        only = there[0]
        if only.run is not None:
            only = Opened(only.name, partial(_itself, only.run()))
        elif only.found is not None:
            only = Opened(only.name, found=partial(_itself, only.found()))
        there = [only]
    Browser(there).run()


T = TypeVar("T")


def _itself(found: T) -> T:
    return found


def _mean_of(folder: Path) -> MapRecord:
    return mean_record(read_maps(folder))


def runs_below(path: Path) -> list[Path]:
    """Folders with runs, in the folder itself or some levels below it, by name."""
    patterns = ["/".join(["*"] * depth + [MANIFEST]) for depth in range(_DEEPEST + 1)]
    found = {each.parent for pattern in patterns for each in path.glob(pattern)}
    if not found:
        raise LocalprobeError(f"there is no run in {path} or below it; localprobe run makes one")
    return sorted(found)


def merge(paths: Sequence[Path], out: Path) -> None:
    """Shard by shard; where each is a folder of runs, the runs of the same name."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        for folder in results.run_folders(path):
            groups.setdefault("" if folder == path else folder.name, []).append(folder)
    for name, folders in groups.items():
        if len(folders) != len(paths):
            raise LocalprobeError(f"not every folder holds a run {name or 'of its own'}")
    for name, folders in groups.items():
        target = out / name if name else out
        if all(map(is_maps, folders)):
            say(f"wrote {len(merge_maps(folders, target).rows)} rows to {target}")
            continue
        run = merge_runs(folders, target)
        shard = run.manifest.data["experiment"]["shard"]
        missing = "" if shard == str(WHOLE) else f"; these are not all shards, only {shard}"
        say(f"wrote {len(run.rows)} rows to {target}{missing}")


def _maps(paths: Sequence[Path]) -> list[Maps]:
    """The maps over tasks in these folders; empty where all hold sweeps.

    Raises LocalprobeError where there are both: they have nothing in common.
    """
    folders = [folder for path in paths for folder in results.run_folders(path)]
    are_maps = [is_maps(folder) for folder in folders]
    if any(are_maps) and not all(are_maps):
        one, other = folders[are_maps.index(True)], folders[are_maps.index(False)]
        raise LocalprobeError(f"{one} holds maps over a task, and {other} a sweep: name one kind")
    return [read_maps(folder) for folder in folders] if any(are_maps) else []


def _with_rows(found: Maps) -> Maps:
    if not found.used:
        raise LocalprobeError(f"{found.path}: no example of it is done yet")
    return found


def _runs(paths: Sequence[Path]) -> list[Run]:
    runs = [results.read_run(folder) for path in paths for folder in results.run_folders(path)]
    _say_unfinished(runs)
    return runs


def _say_unfinished(runs: Sequence[Run | Maps]) -> None:
    for run in runs:
        if not run.manifest.is_finished:
            say(f"localprobe: {run.path} is unfinished; what there is is shown")
