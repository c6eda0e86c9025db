"""Maps of one task in several runs: what differs for sure, role by role and layer by layer.

Examples that both runs use are paired. Models of unlike depth are put side by side by depth, the
share of the blocks that lie below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from localprobe.errors import LocalprobeError
from localprobe.experiments.map import DENOISING, SWAP
from localprobe.report.comparison import listed, names_of
from localprobe.report.map_view import heat_map
from localprobe.report.maps_view import ENOUGH, clean_line, explained, plain
from localprobe.report.terminal import visible
from localprobe.runs.differences import in_words
from localprobe.runs.manifest import blocks
from localprobe.runs.maps import Cells, MapRow, Maps
from localprobe.runs.paired import Differences, differences

_LARGE = 0.25
_SAME = ("task", "patch", "metric", "direction", "window")


@dataclass(frozen=True)
class Pair:
    """A run against the first one. number: in which place it was named, from 1 on."""

    one: Maps
    other: Maps
    number: int

    @cached_property
    def shared(self) -> list[tuple[MapRow, MapRow]]:
        """Examples that both use, known by what is right, too: other data may have other ones."""
        known = {row.example: row for row in self.one.used}
        pairs = [(known.get(row.example), row) for row in self.other.used]
        return [
            (one, other)
            for one, other in pairs
            if one is not None and (one.subject, one.accepted) == (other.subject, other.accepted)
        ]

    @property
    def is_by_depth(self) -> bool:
        return self.one.manifest.n_layer != self.other.manifest.n_layer

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Layers that are compared: the same one, or those of the same depth."""
        most = max(run.manifest.n_layer for run in (self.one, self.other))

        def by_depth(run: Maps) -> dict[int, int]:
            return {layer * most // run.manifest.n_layer: layer for layer in run.layers.tolist()}

        one, other = by_depth(self.one), by_depth(self.other)
        return [(one[place], other[place]) for place in sorted(one.keys() & other.keys())]

    @cached_property
    def roles(self) -> list[str]:
        there = {role for pair in self.shared for role in pair[0].roles.keys() & pair[1].roles}
        return [role for role in self.one.roles if role in there]

    def n_of(self, role: str) -> int:
        return sum(role in one.roles and role in other.roles for one, other in self.shared)

    @cached_property
    def effects(self) -> Differences:
        """Of the shares of the answer that are gone: (n_places, n_roles)."""
        return self._differences(lambda row: row.effects)

    @cached_property
    def values(self) -> Differences:
        """Of the metric."""
        return self._differences(lambda row: row.values)

    def _differences(self, cells: Callable[[MapRow], Cells]) -> Differences:
        found = []
        for place, run in enumerate((self.one, self.other)):
            at = {layer: row for row, layer in enumerate(run.layers.tolist())}
            rows = [at[layers[place]] for layers in self.places]
            found.append(
                np.array(
                    [
                        [_column(cells(pair[place]), role, rows) for role in self.roles]
                        for pair in self.shared
                    ]
                ).transpose(0, 2, 1)
            )
        return differences(found[0], found[1], ENOUGH)

    def document(self) -> dict[str, Any]:
        """roles, layers: of the cells; layers of the first run and of this one."""
        return {
            "n_shared": len(self.shared),
            "layers": [list(layers) for layers in self.places],
            "roles": [{"role": role, "n": self.n_of(role)} for role in self.roles],
            "effects": _record(self.effects),
            "values": _record(self.values),
            "words": words_of(self),
        }


def _column(cells: Cells, role: str, rows: Sequence[int]) -> list[float]:
    """By layer; nan where not known."""
    if role not in cells:
        return [np.nan] * len(rows)
    return [np.nan if (value := cells[role][row]) is None else value for row in rows]


def _record(found: Differences) -> dict[str, Any]:
    record: dict[str, Any] = {
        name: plain(getattr(found, name)) for name in ("mean", "low", "high", "p")
    }
    return {**record, "n": found.n.tolist(), "sure": found.sure.tolist()}


@dataclass(frozen=True)
class MapsComparison:
    """names: of the runs, distinct."""

    names: tuple[str, ...]
    runs: tuple[Maps, ...]

    @staticmethod
    def of(runs: Sequence[Maps]) -> MapsComparison:
        """Raises LocalprobeError where any cannot be compared with the first one."""
        if len(runs) < 2:
            raise LocalprobeError("to compare, name two runs or more")
        first = runs[0]
        for run in runs[1:]:
            told = [
                f"its {what} is {there or 'none'}, not {here or 'none'}"
                for what, here, there in zip(_SAME, _kind(first), _kind(run), strict=True)
                if here != there
            ]
            where = f"{run.path} cannot be compared with {first.path}"
            if told:
                raise LocalprobeError(f"{where}: {'; '.join(told)}")
            pair = Pair(first, run, 2)
            if not pair.shared:
                raise LocalprobeError(f"{where}: there is no example that both use")
            if not pair.places:
                of = "depth" if pair.is_by_depth else "layer"
                raise LocalprobeError(f"{where}: there is no {of} that both have")
            if not pair.roles:
                raise LocalprobeError(f"{where}: there is no role that both have")
        return MapsComparison(names_of(runs), tuple(runs))

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each but the first one against that."""
        return [Pair(self.runs[0], run, number) for number, run in enumerate(self.runs[1:], 2)]

    @property
    def differences(self) -> list[list[str]]:
        """For each run, what was run otherwise than in the first one, the model aside."""
        return [in_words(run.manifest, self.runs[0].manifest) for run in self.runs]

    def document(self) -> dict[str, Any]:
        """pairs: each run against the first one, which has none; differences are its number less
        that of the first one.
        """
        return {
            **dict(zip(_SAME, _kind(self.runs[0]), strict=True)),
            "runs": list(self.names),
            "finished": [run.manifest.is_finished for run in self.runs],
            "n": [len(run.used) for run in self.runs],
            "n_layer": [run.manifest.n_layer for run in self.runs],
            "layers": [run.layers.tolist() for run in self.runs],
            "differences": self.differences,
            "pairs": [None, *(pair.document() for pair in self.pairs)],
        }


def _kind(run: Maps) -> tuple[Any, ...]:
    return run.manifest.task, run.patch, run.metric, run.direction, run.window


def comparison_text(console: Console, comparison: MapsComparison) -> list[Text]:
    """The runs; then each against the first one: where it surely differs, and in words."""
    first = comparison.runs[0]
    title = f"{first.manifest.task} · {first.patch} · {first.metric}"
    lines = [Text(visible(title), style="bold"), Text(explained(first))]
    for line in run_lines(comparison):
        lines.append(Text(line, style="dim" if line.startswith(" ") else ""))
    for pair in comparison.pairs:
        lines += [Text(), *_drawn(console, pair), *map(Text, words_of(pair))]
    return lines


def run_lines(comparison: MapsComparison) -> list[str]:
    """Each run, and what was run otherwise than in the first one."""
    lines = []
    told = zip(comparison.names, comparison.runs, comparison.differences, strict=True)
    for number, (name, run, unlike) in enumerate(told, 1):
        shared = "" if number == 1 else f"; {len(comparison.pairs[number - 2].shared)} also in [1]"
        of = f", {blocks(run.manifest.n_layer)}"
        lines.append(f"[{number}] {visible(name)}{of}: {clean_line(run)}{shared}")
        lines += [f"    {visible(each)} as in [1]" for each in unlike]
    return lines


def _drawn(console: Console, pair: Pair) -> list[Text]:
    """A mark where there surely is a difference."""
    tested = [column for column, role in enumerate(pair.roles) if pair.n_of(role) >= ENOUGH]
    if not tested:
        return []
    effects = pair.effects
    shares = np.where(effects.sure, effects.mean, 0.0)
    shares = np.where(effects.n == 0, np.nan, shares)[:, tested]
    labels = [pair.roles[column] for column in tested]
    layers = np.array([layers[0] for layers in pair.places])
    more, less = f"more {_what(pair)} in [{pair.number}]", "less"
    legend = f"surely {more}: + (# from 25 points on), {less}: - (= from 25 points on)"
    return [*heat_map(console, labels, layers, shares, mark=_mark), Text(legend), Text()]


def _mark(console: Console, share: float, width: int) -> Text:
    if np.isnan(share):
        return Text("?" * width)
    if share == 0:
        return Text(".".ljust(width), style="dim")
    large = abs(share) >= _LARGE
    if share > 0:
        return Text(("#" if large else "+") * width, style="bold red")
    return Text(("=" if large else "-") * width, style="bold blue")


def _what(pair: Pair) -> str:
    """What there is more or less of."""
    if pair.one.direction == DENOISING:
        return "of the answer is back"
    if pair.one.patch == SWAP:
        return "of the way is gone"
    return "of the distribution is lost" if pair.one.metric == "kl" else "of the answer is lost"


def words_of(pair: Pair) -> list[str]:
    """Where the runs surely differ, and of what nothing can be said."""
    lines, open_ = list[str](), list[int]()
    few = [role for role in pair.roles if pair.n_of(role) < ENOUGH]
    if len(few) == len(pair.roles):
        n = len(pair.shared)
        return [f"of {n} shared example{'s' * (n != 1)} nothing is claimed: it takes {ENOUGH}"]
    effects = pair.effects
    for column, role in enumerate(pair.roles):
        if role in few:
            continue
        signs = np.where(effects.sure[:, column], np.sign(effects.mean[:, column]), 0)
        parts = _stretches(signs)
        if not parts:
            open_.append(column)
        lines += [_sentence(pair, column, stretch) for stretch in parts]
    if open_:
        low = np.nanmin(effects.low[:, open_])
        high = np.nanmax(effects.high[:, open_])
        named = ", ".join(pair.roles[column] for column in open_)
        lines.append(
            f"nothing sure at any layer: {named}; what difference there may be is between "
            f"{_points(low)} and {_points(high)} points"
        )
    if few:
        named = ", ".join(f"{role} ({pair.n_of(role)})" for role in few)
        lines.append(f"too few examples to say anything of {named}")
    n_cells = int(np.isfinite(effects.p).sum())
    lines.append(
        f"sure: of all {n_cells} cells together, by random swaps of single examples' runs, at most "
        "5 % chance of any such; between brackets: 95 % paired bootstrap, each cell by itself"
    )
    return [*lines, *_left_out(pair)]


def _stretches(signs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """[first, end) of places next to each other that surely differ in one direction."""
    found, start = list[tuple[int, int]](), 0
    for place in range(1, len(signs) + 1):
        if place == len(signs) or signs[place] != signs[start]:
            if signs[start]:
                found.append((start, place))
            start = place
    return found


def _sentence(pair: Pair, column: int, stretch: tuple[int, int]) -> str:
    rows = slice(*stretch)
    means = pair.effects.mean[rows, column]
    place = stretch[0] + int(np.abs(means).argmax())
    by, low, high = (
        float(each[place, column])
        for each in (pair.effects.mean, pair.effects.low, pair.effects.high)
    )
    way = "more" if by > 0 else "less"
    at = _layers(pair, pair.places[rows])
    most = "" if stretch[1] - stretch[0] == 1 else f" at {_layers(pair, [pair.places[place]])}"
    return (
        f"{pair.roles[column]}: {way} {_what(pair)} in [{pair.number}] at {at}: "
        f"{_points(by)} points [{_points(low)}, {_points(high)}]{most}"
    )


def _layers(pair: Pair, places: Sequence[tuple[int, int]]) -> str:
    """In words; where blocks are not as many, those of both runs."""
    one, other = (sorted({layers[which] for layers in places}) for which in (0, 1))
    text = f"layer{'s' * (len(one) > 1)} {listed(one)}"
    return f"{text} ([{pair.number}]: {listed(other)})" if pair.is_by_depth else text


def _points(share: float) -> str:
    return f"{round(100 * share):+d}"


def _left_out(pair: Pair) -> list[str]:
    lines = []
    if pair.is_by_depth:
        lines.append(
            "the models have unlike numbers of blocks: layers are compared by depth, the share of "
            "blocks below"
        )
    used = [{layers[which] for layers in pair.places} for which in (0, 1)]
    for number, run, mine in zip((1, pair.number), (pair.one, pair.other), used, strict=True):
        if left := [layer for layer in run.layers.tolist() if layer not in mine]:
            lines.append(f"not compared, since only [{number}] has them: layers {listed(left)}")
    return lines
