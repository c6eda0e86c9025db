"""Runs side by side: the same task and intervention on several models or quantizations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from localprobe.errors import LocalprobeError
from localprobe.report.documents import mean
from localprobe.report.score_table import limits
from localprobe.report.terminal import bar, column_width, heat, layer_table, speaks_unicode, visible
from localprobe.runs.results import Run
from localprobe.runs.tally import ORIGINAL, SWAP

_NUMBER = 4


@dataclass(frozen=True)
class Comparison:
    """One intervention of one task in several runs. names: of the runs, distinct."""

    task: str
    patch: str
    metric: str
    names: tuple[str, ...]
    runs: tuple[Run, ...]

    @staticmethod
    def of(runs: Sequence[Run]) -> list[Comparison]:
        """What can be compared among some runs. Raises LocalprobeError where nothing can."""
        found = []
        for task in dict.fromkeys(run.manifest.task for run in runs):
            mine = [run for run in runs if run.manifest.task == task]
            for patch in dict.fromkeys(p for run in mine for p in run.tally.patches):
                by_metric: dict[str, list[Run]] = {}
                for run in mine:
                    if patch in run.tally.patches:
                        by_metric.setdefault(run.tally.metric, []).append(run)
                for metric, have in by_metric.items():
                    if len(have) > 1:
                        shown = ORIGINAL if patch == SWAP else metric
                        found.append(Comparison(task, patch, shown, _names(have), tuple(have)))
        if len(runs) < 2:
            raise LocalprobeError("to compare, name two runs or more")
        if not found:
            raise LocalprobeError(
                "no two of these runs have a task, an intervention and a metric in common"
            )
        return found

    @property
    def layers(self) -> list[int]:
        return sorted({layer for run in self.runs for layer in run.layers})

    @property
    def common_layers(self) -> list[int]:
        """The layers that all runs have scores of: a transition can only be read off these."""
        return [
            layer
            for layer in self.layers
            if all(self.score(run, layer) is not None for run in self.runs)
        ]

    @property
    def transitions(self) -> list[int | None]:
        return [run.tally.transition(self.patch, self.common_layers) for run in self.runs]

    @property
    def differences(self) -> list[list[str]]:
        """For each run, what was run otherwise than in the first one, the model aside."""
        return [self.runs[0].differences(run) for run in self.runs]

    @property
    def shifts(self) -> list[int | None]:
        """How many layers later each run's transition is than the first one's."""
        first = self.transitions[0]
        return [
            None if first is None or each is None else each - first for each in self.transitions
        ]

    def score(self, run: Run, layer: int) -> float | None:
        found = run.tally.score(self.patch, self.metric, layer)
        return None if found is None else found.score

    def document(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "patch": self.patch,
            "metric": self.metric,
            "runs": list(self.names),
            "n": [run.tally.baseline.n for run in self.runs],
            "clean": [mean(run.tally.clean) for run in self.runs],
            "baseline": [mean(run.tally.baseline) for run in self.runs],
            "rows": [
                {"layer": layer, "scores": [self.score(run, layer) for run in self.runs]}
                for layer in self.layers
            ],
            "differences": self.differences,
            "common_layers": self.common_layers,
            "transitions": self.transitions,
            "shifts": self.shifts,
        }


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Models, or folders where the models are the same."""
    models = [run.manifest.model_name for run in runs]
    if len(set(models)) == len(runs):
        return tuple(models)
    return tuple(str(run.path) for run in runs)


def comparison_table(console: Console, comparison: Comparison) -> RenderableType:
    """Layers down, runs across; below, the transition of each and how far it has moved."""
    table = layer_table()
    for number in range(len(comparison.names)):
        table.add_column(f"[{number + 1}]", no_wrap=True)
    width = min(24, column_width(console, len(comparison.names)))
    for layer in comparison.layers:
        cells = []
        for run in comparison.runs:
            score = comparison.score(run, layer)
            cell = Text("–", style="dim") if score is None else Text(f"{score:.2f}")
            if score is not None and width - _NUMBER - 1 >= 2:
                drawn = bar(score, width - _NUMBER - 1, unicode=speaks_unicode(console))
                cell.append(" ").append(drawn, style=heat(score))
            cells.append(cell)
        table.add_row(str(layer), *cells)
    what = f"{comparison.task} · {comparison.patch} · {comparison.metric}"
    lines = [Text(visible(what), style="bold")]
    endings = []
    for number, (name, run, transition, shift) in enumerate(
        zip(
            comparison.names,
            comparison.runs,
            comparison.transitions,
            comparison.shifts,
            strict=True,
        ),
        1,
    ):
        clean, used = run.tally.clean, run.tally.baseline
        lines.append(
            Text(f"[{number}] {visible(name)}: clean {clean.score:.2f} of {clean.n}, {used.n} used")
        )
        for difference in comparison.differences[number - 1]:
            lines.append(Text(f"    {visible(difference)}", style="dim"))
        where = "no transition" if transition is None else f"transition at layer {transition}"
        share = "" if transition is None else f" ({transition / run.manifest.n_layer:.0%} of depth)"
        moved = "" if number == 1 or shift is None else f", {shift:+d} against [1]"
        if transition is not None:
            shown = comparison.common_layers
            share += limits(comparison.patch, transition, shown, run.manifest.n_layer)
        endings.append(Text(f"[{number}] {where}{share}{moved}"))
    if not comparison.common_layers:
        endings = [Text("no layer is in all of these runs, so no transitions can be compared")]
    elif comparison.common_layers != comparison.layers:
        n_common = len(comparison.common_layers)
        endings.append(Text(f"transitions of the {n_common} layers that are in all of these runs"))
    return Group(*lines, "", table, "", *endings)
