"""`localprobe report`: runs and maps as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from localprobe.errors import LocalprobeError
from localprobe.report.comparison import Comparison
from localprobe.report.examples import Examples
from localprobe.report.map_records import MapRecord, mean_record
from localprobe.report.map_section import comparison_section as maps_side_by_side
from localprobe.report.map_section import map_section
from localprobe.report.maps_comparison import MapsComparison
from localprobe.report.page import Page, html_page
from localprobe.report.run_sections import comparison_section, run_section, transitions_section
from localprobe.report.terminal import visible
from localprobe.runs.maps import Maps
from localprobe.runs.results import Run

EXAMPLES = 50


def run_page(
    runs: Sequence[Run],
    most: int = EXAMPLES,
    *,
    title: str | None = None,
    maps: Sequence[MapRecord] = (),
    over_tasks: Sequence[Maps] = (),
) -> str:
    """The page of some runs. most: examples of each that are in it, as far as there is room.

    maps: of prompts; over_tasks: runs of maps.
    """
    examples = Examples(runs, most)
    manifests = [run.manifest for run in runs] + [each.manifest for each in over_tasks]
    tasks = dict.fromkeys(each.task for each in manifests)
    models = dict.fromkeys(each.model_name for each in manifests)
    sections = [run_section(number, run, examples) for number, run in enumerate(runs)]
    if runs:
        sections.append(transitions_section(runs))
    sections += [map_section(mean_record(each)) for each in over_tasks]
    if len(over_tasks) > 1:
        # They need not be comparable to be in one page.
        with suppress(LocalprobeError):
            sections.append(maps_side_by_side(MapsComparison.of(over_tasks)))
    sections += [map_section(each) for each in maps]
    place = {id(run): number for number, run in enumerate(runs)}
    for each in _comparisons(runs):
        numbers = [place[id(run)] for run in each.runs]
        sections.append(comparison_section(each, numbers, examples))
    lines = [examples.note] if runs else []
    heading = title or f"localprobe: {', '.join(tasks)} · {', '.join(models)}"
    return html_page(Page(visible(heading), sections, lines, examples.record))


def _comparisons(runs: Sequence[Run]) -> list[Comparison]:
    try:
        return Comparison.of(runs)
    except LocalprobeError:
        # Runs need not have anything in common to be in one page.
        return []
