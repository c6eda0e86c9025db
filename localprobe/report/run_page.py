"""`localprobe report`: runs and maps as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from localprobe.errors import LocalprobeError
from localprobe.report.comparison import Comparison
from localprobe.report.examples import Examples
from localprobe.report.map_records import MapRecord
from localprobe.report.map_section import map_section
from localprobe.report.page import Page, html_page
from localprobe.report.run_sections import comparison_section, run_section, transitions_section
from localprobe.report.terminal import visible
from localprobe.runs.results import Run

EXAMPLES = 50


def run_page(
    runs: Sequence[Run],
    most: int = EXAMPLES,
    *,
    title: str | None = None,
    maps: Sequence[MapRecord] = (),
) -> str:
    """The page of some runs. most: examples of each that are in it, as far as there is room."""
    examples = Examples(runs, most)
    tasks = dict.fromkeys(run.manifest.task for run in runs)
    models = dict.fromkeys(run.manifest.model_name for run in runs)
    sections = [run_section(number, run, examples) for number, run in enumerate(runs)]
    if runs:
        sections.append(transitions_section(runs))
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
