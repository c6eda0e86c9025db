"""Runs side by side: the same task and intervention on several models or quantizations.

Each run is read by its own layers, as its own table is: what is claimed here is claimed there.
Models of unlike depth are put side by side by depth, the share of the blocks that lie below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from localprobe.engine.interventions import first_layer
from localprobe.errors import LocalprobeError
from localprobe.report.documents import mean
from localprobe.report.score_table import however, limits
from localprobe.report.terminal import (
    LAYER_WIDTH,
    bar,
    column_width,
    heat,
    layer_table,
    speaks_unicode,
    visible,
)
from localprobe.report.transition import between
from localprobe.runs.descent import PATIENCE, Descent, own_transitions
from localprobe.runs.manifest import blocks as blocks_of
from localprobe.runs.maps import Maps
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN
from localprobe.runs.tally import ORIGINAL, SWAP, Score
from localprobe.runs.transitions import Limits, Moved, moved, needed

_DRAWN_BY = ("seed", "data", "digits")
"""With which alike, examples of one number are the same example of a task."""

_NUMBER, _LAYER, _DEPTHS, _INTERVAL, _LONGEST_BAR = 4, 4, 6, 8, 20


@dataclass(frozen=True)
class Shift:
    """How much later a run's transition is than the first one's.

    by: in layers, or in percentage points of depth. least, most: what it can be where layers below
    a transition were not swept.
    """

    by: float
    least: float
    most: float


@dataclass(frozen=True)
class Place:
    """A row: of how many, and the layer of each run that lies there by depth, if one does."""

    row: int
    n_rows: int
    layers: tuple[int | None, ...]

    @property
    def depths(self) -> str:
        """The depths in the row, from the first to below the second, in percent."""
        low, high = (100 * each / self.n_rows for each in (self.row, self.row + 1))
        return f"{low:.0f}–{high:.0f}"


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
                        found.append(Comparison(task, patch, shown, names_of(have), tuple(have)))
        if len(runs) < 2:
            raise LocalprobeError("to compare, name two runs or more")
        if not found:
            raise LocalprobeError(
                "no two of these runs have a task, an intervention and a metric in common"
            )
        return found

    @property
    def n_layers(self) -> list[int]:
        """The number of blocks of each run's model."""
        return [run.manifest.n_layer for run in self.runs]

    @property
    def is_by_depth(self) -> bool:
        """Whether the models have unlike numbers of blocks, so that layers are not the same."""
        return len(set(self.n_layers)) > 1

    @cached_property
    def swept(self) -> list[tuple[int, ...]]:
        """The layers that each run has of this intervention."""
        return [
            next(column.layers for column in run.tally.columns if column.patch == self.patch)
            for run in self.runs
        ]

    @property
    def places(self) -> list[Place]:
        """Rows: by the layers of the deepest model; those of another where they lie by depth."""
        most = max(self.n_layers)
        rows: dict[int, list[int | None]] = {}
        for number, (layers, n_layer) in enumerate(zip(self.swept, self.n_layers, strict=True)):
            for layer in layers:
                # No two layers of a model that is not deeper share a row.
                row = rows.setdefault(layer * most // n_layer, [None] * len(self.runs))
                row[number] = layer
        return [Place(row, most, tuple(rows[row])) for row in sorted(rows)]

    @property
    def transitions(self) -> list[int | None]:
        """Each run's own, of its own layers."""
        return [run.tally.transition(self.patch) for run in self.runs]

    @property
    def depths(self) -> list[float | None]:
        """Transitions in percent of the blocks."""
        return [
            None if layer is None else 100 * layer / n_layer
            for layer, n_layer in zip(self.transitions, self.n_layers, strict=True)
        ]

    def shift(self, number: int, *, by_depth: bool | None = None) -> Shift | None:
        """Of the run of this number against the first, in layers where both have as many blocks.

        by_depth: in percentage points all the same. None where one of them has no transition.
        """
        one, other = self.transitions[0], self.transitions[number]
        if one is None or other is None:
            return None
        unlike = self.n_layers[0] != self.n_layers[number]
        units = [1.0, 1.0]
        if unlike or by_depth:
            units = [100 / self.n_layers[each] for each in (0, number)]
        lowest = [self._lowest(each, layer) for each, layer in ((0, one), (number, other))]
        return Shift(
            by=other * units[1] - one * units[0],
            least=lowest[1] * units[1] - one * units[0],
            most=other * units[1] - lowest[0] * units[0],
        )

    def _lowest(self, number: int, transition: int) -> int:
        """Where a transition may lie if the layers right below it were not swept."""
        below = [layer for layer in self.swept[number] if layer < transition]
        return max(below) + 1 if below else first_layer(self.patch)

    def moved(self, number: int) -> Moved | None:
        """How much later examples' own transitions are in this run than in the first one.

        In layers, or in points of depth where the numbers of blocks are unlike. Of the examples
        that both runs have, at the layers that both have; one that no layer holds counts as if it
        held from the end on. Of an adaptive sweep, examples that have all of these layers. None
        where answers are not right or lost, or no example is shared.
        """
        pair = (self.runs[0], self.runs[number])
        if self.patch == SWAP or any(run.tally.limits(self.patch) is None for run in pair):
            return None
        unlike = self.n_layers[0] != self.n_layers[number]
        common = set(self.swept[0]) & set(self.swept[number])
        patience = min(
            PATIENCE if run.manifest.descent is None else run.manifest.descent.patience
            for run in pair
        )
        found, asked = list[dict[int, float]](), list[dict[int, tuple[str, ...]]]()
        for run, swept in zip(pair, (self.swept[0], self.swept[number]), strict=True):
            n_layer = run.manifest.n_layer
            own = own_transitions(
                run.rows,
                self.patch,
                swept if unlike else sorted(common),
                self.metric,
                Descent(patience),
                of_all=run.manifest.adaptive is not None,
            )
            unit = 100 / n_layer if unlike else 1.0
            found.append(
                {
                    example: unit * (n_layer if each.layer is None else each.layer)
                    for example, each in own.items()
                }
            )
            asked.append({row.example: row.accepted for row in run.rows if row.patch == CLEAN})
        # By what is right: other data may have others of the same number. Old runs do not say it.
        shared = [
            example
            for example in sorted(found[0].keys() & found[1].keys())
            if asked[0][example] == asked[1][example]
            and (asked[0][example] or self.shared[number] is not None)
        ]
        if not shared or not (unlike or common):
            return None
        return moved(*([own[example] for example in shared] for own in found))

    @property
    def differences(self) -> list[list[str]]:
        """For each run, what was run otherwise than in the first one, the model aside."""
        return [run.differences(self.runs[0]) for run in self.runs]

    @cached_property
    def shared(self) -> list[int | None]:
        """For each run, how many of the examples that it used the first one used, too.

        None where their numbers are those of other examples.
        """
        used = [
            {row.example for row in run.rows if row.patch == CLEAN and row.used}
            for run in self.runs
        ]
        drawn = [
            [run.manifest.data["experiment"].get(key) for key in _DRAWN_BY] for run in self.runs
        ]
        return [
            len(mine & used[0]) if by == drawn[0] else None
            for mine, by in zip(used, drawn, strict=True)
        ]

    @property
    def notes(self) -> list[str]:
        """What the weights of these models do not allow to conclude."""
        found = []
        for number, run in enumerate(self.runs, 1):
            origin = _quantized_origin(run, self.runs)
            if origin:
                found.append(
                    f"[{number}] was made from weights that were {visible(origin)} already, and "
                    "nothing of what that lost is restored: against those, +0 says nothing about "
                    "precision; to compare weight types, prepare each from a file in F16 or F32 "
                    "that was never quantized"
                )
        return found

    def score(self, number: int, layer: int) -> Score | None:
        """Of the run of this number."""
        return self.runs[number].tally.score(self.patch, self.metric, layer)

    def document(self) -> dict[str, Any]:
        """layers of a row: each run's own. shifts: None where the blocks differ in number.

        limits: 95 % intervals of the transitions, as in `sweep_document`. moved: of examples' own
        transitions against the first run, see `moved`.
        """
        numbers = range(len(self.runs))
        shifts = [self.shift(number) for number in numbers]
        points = [self.shift(number, by_depth=True) for number in numbers]
        for number, n_layer in enumerate(self.n_layers):
            if n_layer != self.n_layers[0]:
                shifts[number] = None
        return {
            "task": self.task,
            "patch": self.patch,
            "metric": self.metric,
            "runs": list(self.names),
            "finished": [run.is_finished for run in self.runs],
            "transition_ranges": [_range(run, self.patch) for run in self.runs],
            "n": [run.tally.baseline.n for run in self.runs],
            "n_shared": self.shared,
            "clean": [mean(run.tally.clean) for run in self.runs],
            "baseline": [mean(run.tally.baseline) for run in self.runs],
            "n_layer": self.n_layers,
            "layers": [list(layers) for layers in self.swept],
            "rows": [self._row(place) for place in self.places],
            "differences": self.differences,
            "notes": self.notes,
            "transitions": self.transitions,
            "depths": self.depths,
            "shifts": [each and round(each.by) for each in shifts],
            "shift_ranges": [each and [round(each.least), round(each.most)] for each in shifts],
            "depth_shifts": [each and each.by for each in points],
            "limits": [_ends(run.tally.limits(self.patch)) for run in self.runs],
            "moved": [None, *(_record(self.moved(number)) for number in numbers[1:])],
            "depth_shift_ranges": [each and [each.least, each.most] for each in points],
        }

    def _row(self, place: Place) -> dict[str, Any]:
        scores = [
            None if layer is None else self.score(number, layer)
            for number, layer in enumerate(place.layers)
        ]
        return {
            "layer": None if self.is_by_depth else _layer(place),
            "depth": 100 * place.row / place.n_rows,
            "layers": list(place.layers),
            "scores": [None if each is None else each.score for each in scores],
            "intervals": [None if each is None else [each.low, each.high] for each in scores],
        }


def _ends(limits: Limits | None) -> list[int | None] | None:
    return None if limits is None else [limits.low, limits.high]


def _record(moved: Moved | None) -> dict[str, Any] | None:
    return None if moved is None else asdict(moved)


def _range(run: Run, patch: str) -> list[int | None] | None:
    """Where near ties could make the transition; None where they are not known."""
    reach = run.tally.reach(patch)
    return None if reach is None else [reach.earliest, reach.latest]


def _layer(place: Place) -> int:
    """The layer that all runs with a cell in the row have there, where blocks are as many."""
    return next(layer for layer in place.layers if layer is not None)


def names_of(runs: Sequence[Run | Maps]) -> tuple[str, ...]:
    """Models, or folders where the models are the same."""
    models = [run.manifest.model_name for run in runs]
    if len(set(models)) == len(runs):
        return tuple(models)
    return tuple(str(run.path) for run in runs)


def _quantized_origin(run: Run, others: Sequence[Run]) -> str:
    """The quantized type that a run's weights were made from, as "Q4_1"; empty: none is known."""
    source = run.manifest.source
    if source is not None and source["quantized"]:
        return str(source["quantized"])
    base, at, _ = run.manifest.model_name.rpartition("@")
    # Runs of before sources were written down: known where the other run is that of the source.
    for other in others:
        file_type = str(other.manifest.data["model"]["file_type"])
        if source is None and at and other.manifest.model_name == base and "Q" in file_type:
            return file_type
    return ""


def comparison_table(console: Console, comparison: Comparison) -> RenderableType:
    """Layers or depths down, runs across; below, the transition of each and how far it moved."""
    what = f"{comparison.task} · {comparison.patch} · {comparison.metric}"
    lines = [Text(visible(what), style="bold")]
    for number, (name, run) in enumerate(zip(comparison.names, comparison.runs, strict=True), 1):
        clean, used = run.tally.clean, run.tally.baseline
        unfinished = f", unfinished: {run.so_far} so far" if run.so_far else ""
        blocks = f", {blocks_of(run.manifest.n_layer)}" if comparison.is_by_depth else ""
        between = f" (95 % {_interval(clean)} %)" if clean.n else ""
        shared = comparison.shared[number - 1]
        n_first = comparison.runs[0].tally.baseline.n
        # Each model has the examples that it gets right: said where that is not plain to see.
        others = shared is not None and shared < min(used.n, n_first)
        same = f", {shared} of them in [1]" if others else ""
        if run.tally.adaptive is not None:
            same += ", {} to {} at each layer".format(*run.tally.n_by_layer)
        lines.append(
            Text(
                f"[{number}] {visible(name)}{blocks}: clean {clean.score:.2f} of {clean.n}"
                f"{between}, {used.n} used{same}{unfinished}"
            )
        )
        for difference in comparison.differences[number - 1]:
            lines.append(Text(f"    {visible(difference)} as in [1]", style="dim"))
    return Group(*lines, "", _scores(console, comparison), "", *endings(comparison))


def _scores(console: Console, comparison: Comparison) -> RenderableType:
    by_depth = comparison.is_by_depth
    table = layer_table()
    n_runs = len(comparison.runs)
    left = column_width(console, n_runs) - _NUMBER
    if by_depth:
        table.columns[0].header, table.columns[0].width = "depth\nin %", _DEPTHS
        left -= _LAYER + _DEPTHS - LAYER_WIDTH
    # Where there is room for both: the bar is what reads at a glance, the interval what is known.
    with_interval = left >= _INTERVAL + 3
    bar_width = min(_LONGEST_BAR, left - 1 - (_INTERVAL if with_interval else 0))
    for number in range(n_runs):
        table.add_column(f"[{number + 1}]", no_wrap=True)
    for place in comparison.places:
        cells = []
        for number, layer in enumerate(place.layers):
            score = None if layer is None else comparison.score(number, layer)
            if score is None:
                cells.append(Text("–", style="dim"))
                continue
            cell = Text(f"{layer:>{_LAYER - 1}} " if by_depth else "", style="dim")
            cell.append(f"{score.score:.2f}", style="not dim")
            if bar_width >= 2:
                drawn = bar(score.score, bar_width, unicode=speaks_unicode(console))
                cell.append(" ").append(drawn, style=f"not dim {heat(score.score)}")
            if with_interval:
                cell.append(f" {_interval(score)}", style="dim")
            cells.append(cell)
        table.add_row(place.depths if by_depth else str(_layer(place)), *cells)
    return table


def endings(comparison: Comparison) -> list[Text]:
    """The claims: each run's own, how far they are apart, and what that rests on."""
    found = []
    for number, (run, layer) in enumerate(
        zip(comparison.runs, comparison.transitions, strict=True)
    ):
        n_layer = run.manifest.n_layer
        if run.tally.baseline.n == 0:
            claim = "no example was used, so there is nothing to conclude"
        elif layer is None and comparison.patch != SWAP and run.tally.baseline.score == 0:
            claim = "nothing to lose: the baseline is 0"
        elif layer is None:
            claim = "no transition at any layer shown"
        else:
            claim = f"transition at layer {layer} ({layer / n_layer:.0%} of depth)"
            claim += limits(comparison.patch, layer, comparison.swept[number], n_layer)
        if run.so_far:
            claim = f"so far {claim}"
        shift = comparison.shift(number) if number else None
        if shift is not None:
            unlike = n_layer != comparison.n_layers[0]
            claim += f", {_shift(shift, by_depth=unlike)}"
        found.append(f"[{number + 1}] {claim}")
        if near := however(run.tally, comparison.patch):
            found.append(f"    {near}")
    n_layers, swept = comparison.n_layers, comparison.swept
    whole = [
        list(layers) == list(range(first_layer(comparison.patch), n_layer))
        for layers, n_layer in zip(swept, n_layers, strict=True)
    ]
    if comparison.is_by_depth:
        steps = ", ".join(
            f"{100 / n_layer:.1f} in [{number}]" for number, n_layer in enumerate(n_layers, 1)
        )
        found.append(
            "the models have unlike numbers of blocks, so they are compared by depth, the share "
            f"of blocks below; a layer is so many points of it: {steps}"
        )
    if len(set(swept)) > 1 and not all(whole):
        layers = "; ".join(f"[{number}] {listed(each)}" for number, each in enumerate(swept, 1))
        found.append(f"each transition is that of the layers which its run has: {layers}")
    return [Text(line) for line in [*found, *_moved(comparison), *comparison.notes]]


def _moved(comparison: Comparison) -> list[str]:
    """What the examples that two runs share say: each one's own transition, pairwise."""
    found = []
    limits = [run.tally.limits(comparison.patch) for run in comparison.runs]
    if any(limits):
        shown = ", ".join(f"[{number}] {between(each)}" for number, each in enumerate(limits, 1))
        found.append(f"95 % of these layers, over examples: {shown}")
        if any(each is not None and each.low is not None and each.high is None for each in limits):
            least = max(needed(run.tally.kept) for run in comparison.runs)
            found.append(f"  (no upper end where fewer than {least} examples, or too few, survive)")
    for number in range(1, len(comparison.runs)):
        each = comparison.moved(number)
        if each is None:
            continue
        unlike = comparison.n_layers[0] != comparison.n_layers[number]
        unit, mark = (" points of depth", ".1f") if unlike else (" layers", ".2f")
        low, by, high = (f"{value + 0.0:+{mark}}" for value in (each.low, each.by, each.high))
        p = "p < 0.001" if each.p < 0.001 else f"p = {each.p:.3f}"
        verdict = "" if each.is_evidence else ": no evidence that it moves"
        of = "1 example" if each.n == 1 else f"{each.n} examples"
        found.append(
            f"[{number + 1}] each example's own layer, on average {by}{unit} against [1] "
            f"(95 % {low} to {high}; {of} of both, {each.n_moved / each.n:.0%} moved; {p})"
            f"{verdict}"
        )
    return found


def _shift(shift: Shift, *, by_depth: bool) -> str:
    def shown(value: float) -> str:
        # Adding 0 makes -0 a plain one.
        return f"{round(value, 1) + 0:+.1f}" if by_depth else f"{round(value):+d}"

    unit = " points of depth" if by_depth else ""
    # Floats: the same layers over the same blocks are the same depths but for the last digit.
    by = f"{shown(shift.by)}{unit} against [1]"
    if shift.most - shift.least < 1e-9:
        return by
    between = f"from {shown(shift.least)} to {shown(shift.most)}"
    return f"{by} ({between}, since layers right below were not swept)"


def listed(layers: Sequence[int]) -> str:
    """Layers in words: 0–29, 0–28 in steps of 4, or each of them."""
    steps = {after - before for before, after in pairwise(layers)}
    if len(layers) < 3 or len(steps) > 1:
        return ", ".join(map(str, layers))
    (step,) = steps
    return f"{layers[0]}–{layers[-1]}" + (f" in steps of {step}" if step > 1 else "")


def _interval(score: Score) -> str:
    return f"{round(100 * score.low)}–{round(100 * score.high)}"
