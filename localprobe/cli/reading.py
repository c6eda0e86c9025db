"""What the commands do that read runs from disk. No model is loaded."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.files.foreign import escaped, printable
from localprobe.report import documents
from localprobe.report.comparison import Comparison, comparison_table
from localprobe.report.export import FORMATS, exported
from localprobe.report.maps_view import maps_record, maps_text
from localprobe.report.misses import misses, misses_table
from localprobe.report.score_table import report
from localprobe.report.terminal import print_document, say, stdout_console
from localprobe.runs import results
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
            report(console, run.tally, run.manifest.title, run.manifest.n_layer, run.so_far)
        )


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
    found = [misses(run, patch, layers) for run in runs]
    if json:
        records = [
            {"run": str(run.path), "task": run.manifest.task, "misses": records}
            for run, records in zip(runs, found, strict=True)
        ]
        print_document(records[0] if len(records) == 1 else records)
        return
    console = stdout_console()
    for number, (run, records) in enumerate(zip(runs, found, strict=True)):
        if number:
            console.print()
        console.print(misses_table(console, run, patch, records))


def export(paths: Sequence[Path], form: str, *, rows: bool) -> None:
    if form not in FORMATS:
        raise LocalprobeError(f"unknown format {form!r}; {did_you_mean(form, FORMATS)}")
    text = exported(_runs(paths), form, rows=rows)
    if sys.stdout.isatty():
        # For other programs it is as it is; a terminal would obey what is in it.
        text = "".join(escaped(line) + "\n" for line in text.split("\n")[:-1])
    print(text, end="")


def compare(paths: Sequence[Path], *, json: bool) -> None:
    comparisons = Comparison.of(_runs(paths))
    if json:
        print_document([each.document() for each in comparisons])
        return
    console = stdout_console()
    for number, each in enumerate(comparisons):
        if number:
            console.print()
        console.print(comparison_table(console, each))


def plot(paths: Sequence[Path], output: Path, metric: str | None) -> None:
    # A figure is the same wherever it is made: a matplotlibrc here may be a stranger's.
    logging.getLogger("matplotlib").setLevel(logging.CRITICAL)
    os.environ.pop("MPLBACKEND", None)
    try:
        from localprobe.report.plot import FORMATS as KINDS
        from localprobe.report.plot import save_figure
    except ImportError:
        raise LocalprobeError(
            "figures need matplotlib; run: pip install 'localprobe[plot]'"
        ) from None
    except Exception as error:  # of a matplotlibrc that is no text, say
        raise LocalprobeError(f"matplotlib cannot be loaded: {printable(str(error))}") from None
    if output.suffix.lower() not in KINDS:
        raise LocalprobeError(f"{output}: the figure must be one of {', '.join(KINDS)}")
    if metric is None and (maps := _maps(paths)):
        from localprobe.report.map_figure import save

        save([_with_rows(each) for each in maps], output)
        say(f"wrote {output}")
        return
    save_figure([run.by_metric(metric) for run in _runs(paths)], output)
    say(f"wrote {output}")


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
    """The maps over tasks in these folders; empty where any holds a sweep."""
    folders = [folder for path in paths for folder in results.run_folders(path)]
    if not all(map(is_maps, folders)):
        return []
    return [read_maps(folder) for folder in folders]


def _with_rows(found: Maps) -> Maps:
    if not found.used:
        raise LocalprobeError(f"{found.path}: no example of it is done yet")
    return found


def _runs(paths: Sequence[Path]) -> list[Run]:
    runs = [results.read_run(folder) for path in paths for folder in results.run_folders(path)]
    for run in runs:
        if not run.is_finished:
            say(f"localprobe: {run.path} is unfinished; what there is is shown")
    return runs
