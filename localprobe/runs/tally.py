"""Scores counted by intervention and layer, and what is read off them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from localprobe.engine.interventions import names
from localprobe.runs import stages
from localprobe.runs.adaptive import Adaptive, is_look, looks_within
from localprobe.runs.descent import Descent, Own, counted, held, walked
from localprobe.runs.intervals import BOOTSTRAP, WILSON, interval
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.transitions import Limits, limits

SWAP = "swap"
"""An injection whose donor is another example, scored by whose answer is given."""
ORIGINAL, MODIFIED = "original", "modified"
"""The metrics of a swap: whether the answer is the prompt's own, or that of the donor."""

KEPT = 0.9
"""An answer counts as surviving from the layer on where the score stays ≥ this x the baseline."""
_ROUNDED = 1e-9


def patches() -> tuple[str, ...]:
    """What a sweep can do to its examples: every intervention that needs no donor, and swaps."""
    return (*names(with_donor=False), SWAP)


@dataclass(frozen=True)
class Column:
    """A column of the table: an intervention, what is scored, and the layers it is defined for."""

    patch: str
    metric: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """A mean score of n examples with its 95 % interval; relative to the baseline if it has one.

    interval: by which method it was found, see `intervals`; of an adaptive sweep, `stages`.
    ties_low, ties_high: what the mean could have been of the same examples, however near ties
    fall; None where those were not measured.
    assumed: how many of the n answers count as wrong since they were lost at layers above, see
    `Descent`, whether they were tried or not.
    """

    score: float
    n: int
    low: float
    high: float
    relative: float | None
    interval: str = WILSON
    ties_low: float | None = None
    ties_high: float | None = None
    assumed: int = 0


@dataclass(frozen=True)
class Reach:
    """From which layer on an intervention no longer matters, however near ties fall.

    earliest, latest: the lowest and the highest layer that it could be; None for nowhere: of
    `earliest`, in any case, of `latest`, possibly.
    """

    earliest: int | None
    latest: int | None


@dataclass(frozen=True)
class Method:
    """How intervals of an adaptive sweep are found.

    earlier: how many scores there were whenever they were not enough; of a metric that did not
    decide, n_looks: at how many numbers of examples it may have ended.
    """

    width: float
    earlier: tuple[int, ...] = ()
    n_looks: int | None = None

    def interval(self, counts: Mapping[float, int]) -> tuple[float, float, str]:
        if self.n_looks is not None:
            return stages.shared(counts, self.n_looks)
        return stages.interval(counts, self.earlier, self.width)


@dataclass
class _Cell:
    """Scores that were counted. counts: score -> how often; total: their sum, as they came.

    low, high: the sums of what they could have been, however near ties fall.
    """

    total: float = 0.0
    low: float = 0.0
    high: float = 0.0
    counts: Counter[float] = field(default_factory=Counter)
    assumed: int = 0
    _found: tuple[object, tuple[float, float, str]] | None = None

    def add(self, score: float, could: tuple[float, float], *, assumed: bool = False) -> None:
        self.assumed += assumed
        self.total += score
        self.low += could[0]
        self.high += could[1]
        self.counts[score] += 1
        self._found = None

    def score(
        self, baseline: float | None, *, knows_near_ties: bool, how: Method | None = None
    ) -> Score:
        """how: the interval is found in another way than of a number that stood fixed."""
        n = self.counts.total()
        mean = self.total / n if n else 0.0
        knows = bool(n) and knows_near_ties
        # What was resampled once is not resampled for every redrawing of a table.
        if self._found is None or self._found[0] != how:
            self._found = how, how.interval(self.counts) if how else interval(self.counts)
        low, high, method = self._found[1]
        relative = mean / baseline if baseline else None
        return Score(
            mean,
            n,
            low,
            high,
            relative,
            method,
            ties_low=self.low / n if knows else None,
            ties_high=self.high / n if knows else None,
            assumed=self.assumed,
        )


class Tally:
    """Mean scores of rows.

    columns: what there is to score, patch by patch. metric: the one that matters: an example is
    right where it is above 0. chance: what guessing gives, metric by metric. swap_metric: by which
    original and modified were scored, if it is another one. knows_near_ties: whether rows that are
    near ties were marked. descent: by which rule layers were tried, if not all were. kept: an
    answer survives from the layer on where the score stays ≥ this x the baseline. adaptive: by
    which rule layers had examples, if not all had the same. until_width: of a descent, at which
    width of all transitions' intervals it was to end.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        metric: str,
        chance: Mapping[str, float] | None = None,
        swap_metric: str | None = None,
        *,
        knows_near_ties: bool = True,
        descent: Descent | None = None,
        kept: float = KEPT,
        adaptive: Adaptive | None = None,
        until_width: int | None = None,
    ) -> None:
        self.descent, self.kept = descent, kept
        self.adaptive, self.until_width = adaptive, until_width
        self.all_columns, self.metric, self.chance = tuple(columns), metric, dict(chance or {})
        self.swap_metric = swap_metric or metric
        self.knows_near_ties = knows_near_ties
        self.layers = tuple(sorted({layer for column in columns for layer in column.layers}))
        self.patches = tuple(dict.fromkeys(column.patch for column in columns))
        self.n_cut = self.n_not_finite = self.n_near_ties = self.n_rows = 0
        self.n_turning = self.n_used_by_tie = self.n_unseen_ties = 0
        self.n_swaps = self.n_last_token_only = 0
        self._counted: dict[tuple[str, str, int], _Cell] = defaultdict(_Cell)
        self._walks: dict[str, dict[int, dict[int, Row]]] = defaultdict(dict)
        self._n_counted = 0
        self._n_seen: Counter[tuple[str, int]] = Counter()
        self._looked_at: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._clean_all: dict[str, _Cell] = defaultdict(_Cell)
        self._clean_used: dict[str, _Cell] = defaultdict(_Cell)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the metric that matters, and those of swaps."""
        return tuple(c for c in self.all_columns if c.patch == SWAP or c.metric == self.metric)

    @property
    def clean_metrics(self) -> tuple[str, ...]:
        """The task's metrics, the one that matters first."""
        others = [column.metric for column in self.all_columns if column.patch != SWAP]
        return tuple(dict.fromkeys([self.metric, *others]))

    def add(self, row: Row) -> None:
        """Count a row in. One that is not finite has no scores, and counts as nothing else."""
        self.n_rows += 1
        self.n_not_finite += row.not_finite
        self.n_near_ties += row.near_tie
        self.n_turning += any(len(set(row.could_score(metric))) > 1 for metric in self._of(row))
        self.n_used_by_tie += row.used_by_tie
        self.n_unseen_ties += row.near_tie and row.ties is None
        self.n_swaps += row.patch == SWAP
        self.n_last_token_only += row.last_token_only
        if row.patch == CLEAN:
            self.n_cut += row.cut
            for metric, score in row.scores.items():
                could = row.could_score(metric)
                self._clean_all[metric].add(score, could)
                if row.used:
                    self._clean_used[metric].add(score, could)
            return
        assert row.layer is not None
        if self.descent is not None:
            self._walks[row.patch].setdefault(row.example, {})[row.layer] = row
            return
        for metric, score in row.scores.items():
            self._counted[row.patch, metric, row.layer].add(score, row.could_score(metric))
        if self.adaptive is not None:
            place = row.patch, row.layer
            self._n_seen[place] += 1
            if is_look(self._n_seen[place]):
                cell = self._counted.get((row.patch, self._decided_by, row.layer))
                self._looked_at[place].append(cell.counts.total() if cell else 0)

    @property
    def _cells(self) -> dict[tuple[str, str, int], _Cell]:
        """Of a descent, counted anew when rows have come: a row may end its walk, and so decide on
        all layers below.
        """
        if self.descent is not None and self._n_counted != self.n_rows:
            self._n_counted = self.n_rows
            self._counted = defaultdict(_Cell)
            for patch, walks in self._walks.items():
                layers = self._layers_of(patch)
                for rows in walks.values():
                    for one in counted(layers, rows, self.metric, self.descent):
                        cell = self._counted[patch, self.metric, one.layer]
                        cell.add(one.score, one.could, assumed=one.is_assumed)
        return self._counted

    @property
    def _decided_by(self) -> str:
        """By which metric layers of an adaptive sweep had enough: that of the sweep itself."""
        return self.swap_metric

    def _earlier(self, patch: str, layer: int) -> tuple[int, ...]:
        """How many scores a cell had whenever they were not enough."""
        found = self._looked_at.get((patch, layer), [])
        is_last = is_look(self._n_seen[patch, layer])
        return tuple(found[:-1] if is_last else found)

    def _method(self, patch: str, metric: str, layer: int) -> Method | None:
        if self.adaptive is None:
            return None
        if metric != self._decided_by:
            return Method(self.adaptive.width, n_looks=looks_within(max(self._n_seen.values())))
        return Method(self.adaptive.width, self._earlier(patch, layer))

    @property
    def is_decided_by_another(self) -> bool:
        """Whether layers of an adaptive sweep ended by another metric than the one shown."""
        return self.adaptive is not None and self.metric != self._decided_by

    @property
    def n_by_layer(self) -> tuple[int, int]:
        """The fewest and the most examples that any cell of an adaptive sweep has."""
        counts = [self._n_seen[c.patch, layer] for c in self.columns for layer in c.layers]
        return min(counts), max(counts)

    def too_wide(self) -> dict[str, list[int]]:
        """By intervention, the layers of an adaptive sweep that have not enough examples."""
        found: dict[str, list[int]] = defaultdict(list)
        for column in self.columns:
            for layer in column.layers:
                cell = self._counted.get((column.patch, self._decided_by, layer))
                counts = cell.counts if cell else {}
                if self.adaptive and not stages.is_narrow(counts, self.adaptive.width):
                    found[column.patch].append(layer)
        return dict(found)

    def _layers_of(self, patch: str) -> tuple[int, ...]:
        return next(column.layers for column in self.columns if column.patch == patch)

    def own(self, patch: str) -> list[Own]:
        """Of a descent, each example's own transition."""
        if self.descent is None:
            raise ValueError("only a descent keeps what each example did")
        return [
            walked(
                self._layers_of(patch),
                {layer: held(row, self.metric) for layer, row in rows.items()},
                self.descent,
            )
            for rows in self._walks[patch].values()
        ]

    def _of(self, row: Row) -> Sequence[str]:
        """The scores of a row that matter."""
        wanted = (ORIGINAL, MODIFIED) if row.patch == SWAP else (self.metric,)
        return [metric for metric in wanted if metric in row.scores]

    @property
    def n_answers(self) -> dict[str, tuple[int, int]]:
        """For each intervention, how many answers its scores rest on: the fewest and the most."""
        found = {}
        for column in self.columns:
            cells = [self._cells.get((column.patch, column.metric, k)) for k in column.layers]
            counts = [cell.counts.total() - cell.assumed if cell else 0 for cell in cells]
            found[column.patch] = min(counts), max(counts)
        return found

    @property
    def has_bootstrap(self) -> bool:
        """Whether any interval of the metric that matters is not that of a share."""
        cells = [self._clean_all[self.metric]]
        cells += [cell for (_, metric, _), cell in self._cells.items() if metric == self.metric]
        return any(self._score(cell).interval == BOOTSTRAP for cell in cells)

    def _score(
        self, cell: _Cell, baseline: float | None = None, how: Method | None = None
    ) -> Score:
        return cell.score(baseline, knows_near_ties=self.knows_near_ties, how=how)

    @property
    def clean(self) -> Score:
        """The clean model on every example that was tried."""
        return self.clean_score(self.metric)

    @property
    def baseline(self) -> Score:
        """The clean model on the examples that were used: what scores are relative to."""
        return self.baseline_score(self.metric)

    def clean_score(self, metric: str) -> Score:
        return self._score(self._clean_all[metric])

    def baseline_score(self, metric: str) -> Score:
        return self._score(self._clean_used[metric])

    def score(self, patch: str, metric: str, layer: int) -> Score | None:
        cell = self._cells.get((patch, metric, layer))
        if cell is None:
            return None
        compared = self.swap_metric if patch == SWAP else metric
        how = self._method(patch, metric, layer)
        return self._score(cell, self.baseline_score(compared).score, how)

    def transition(self, patch: str, layers: Iterable[int] | None = None) -> int | None:
        """The layer from which on the intervention no longer matters, of these or of all layers.

        That is where the score stays ≥ `kept` x the baseline; for a swap, where the original
        answer stays more frequent than the modified one.
        """
        column = next(column for column in self.columns if column.patch == patch)
        among = column.layers if layers is None else sorted(set(layers) & set(column.layers))
        return _from_the_last(among, lambda layer: self._is_kept(patch, column.metric, layer))

    def transition_if_back(self, patch: str, share: float) -> int | None:
        """Of a descent: `transition` if, of answers that count as lost, this share were right."""
        column = next(column for column in self.columns if column.patch == patch)

        def kept(layer: int) -> bool:
            score = self.score(patch, column.metric, layer)
            if score is None or not score.n:
                return False
            possible = score.score + share * score.assumed / score.n
            return possible >= self.kept * self.baseline.score - _ROUNDED

        return _from_the_last(column.layers, kept)

    def wider_than_asked(self) -> list[str]:
        """Of a descent that is to end at a width, the interventions with wider intervals still."""
        if self.until_width is None:
            return []
        widths = {patch: each.width() for patch in self.patches if (each := self.limits(patch))}
        return [
            patch
            for patch in self.patches
            if (width := widths.get(patch)) is None or width > self.until_width
        ]

    def limits(self, patch: str) -> Limits | None:
        """The 95 % interval of `transition` over examples, see `transitions.limits`.

        None for a swap, where scores have degrees or where the baseline is not 1: nothing is then
        known of how far single answers are from their own baselines.
        """
        if patch == SWAP or not self.baseline.n or set(self._clean_used[self.metric].counts) != {1}:
            return None
        layers = self._layers_of(patch)
        cells = [self._cells.get((patch, self.metric, layer)) for layer in layers]
        if any(cell and not cell.counts.keys() <= {0, 1} for cell in cells):
            return None
        right = [cell.counts[1] if cell else 0 for cell in cells]
        n = [cell.counts.total() if cell else 0 for cell in cells]
        if self.adaptive is None:
            return limits(layers, right, n, self.kept)
        if self.is_decided_by_another:
            return None
        found = [
            stages.tails(self._earlier(patch, layer), of, k, self.adaptive.width, self.kept)
            for layer, k, of in zip(layers, right, n, strict=True)
        ]
        return limits(layers, right, n, self.kept, tails=found)

    def reach(self, patch: str) -> Reach | None:
        """Where `transition` could be, however near ties fall; None where those are not known.

        A score and the baseline, or both scores of a swap, are taken to fall as they may one
        without the other, so that no outcome is left out.
        """
        if not self.knows_near_ties:
            return None
        column = next(column for column in self.columns if column.patch == patch)
        could = {layer: self._could_be_kept(patch, column.metric, layer) for layer in column.layers}
        return Reach(
            _from_the_last(column.layers, lambda layer: could[layer][1]),
            _from_the_last(column.layers, lambda layer: could[layer][0]),
        )

    def is_open(self, column: Column, layer: int) -> bool:
        """Whether near ties decide on which side a score is of what `transition` asks for."""
        if not self.knows_near_ties:
            return False
        surely, possibly = self._could_be_kept(column.patch, column.metric, layer)
        return surely != possibly

    def _is_kept(self, patch: str, metric: str, layer: int) -> bool:
        if patch == SWAP:
            one, two = self.score(SWAP, ORIGINAL, layer), self.score(SWAP, MODIFIED, layer)
            return one is not None and two is not None and one.score > two.score
        score, baseline = self.score(patch, metric, layer), self.baseline.score
        # Sums of floats: a score that is exactly 90 % must count.
        return score is not None and baseline > 0 and score.score >= self.kept * baseline - _ROUNDED

    def _could_be_kept(self, patch: str, metric: str, layer: int) -> tuple[bool, bool]:
        """Whether `_is_kept` is so in any case, and whether it could be."""
        if patch == SWAP:
            one, two = self.score(SWAP, ORIGINAL, layer), self.score(SWAP, MODIFIED, layer)
            if one is None or two is None:
                return False, False
            first, second = _could(one), _could(two)
            return first[0] > second[1], first[1] > second[0]
        score = self.score(patch, metric, layer)
        if score is None:
            return False, False
        (low, high), (least, most) = _could(score), _could(self.baseline)
        surely = least > 0 and low >= self.kept * most - _ROUNDED
        return surely, most > 0 and high >= self.kept * least - _ROUNDED


def _could(score: Score) -> tuple[float, float]:
    low, high = score.ties_low, score.ties_high
    return (score.score if low is None else low), (score.score if high is None else high)


def _from_the_last(layers: Sequence[int], holds: Callable[[int], bool]) -> int | None:
    """The lowest layer from which on something holds at all of these layers."""
    found = None
    for layer in sorted(layers, reverse=True):
        if not holds(layer):
            break
        found = layer
    return found
