"""Scores counted by intervention and layer, and what is read off them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from localprobe.engine.interventions import names
from localprobe.runs.intervals import BOOTSTRAP, WILSON, interval
from localprobe.runs.rows import CLEAN, Row

SWAP = "swap"
"""An injection whose donor is another example, scored by whose answer is given."""
ORIGINAL, MODIFIED = "original", "modified"
"""The metrics of a swap: whether the answer is the prompt's own, or that of the donor."""

KEPT = 0.9
"""An answer counts as surviving from the layer on where the score stays ≥ this x the baseline."""


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

    interval: by which method it was found, see `intervals`.
    """

    score: float
    n: int
    low: float
    high: float
    relative: float | None
    interval: str = WILSON


@dataclass
class _Cell:
    """Scores that were counted. counts: score -> how often; total: their sum, as they came."""

    total: float = 0.0
    counts: Counter[float] = field(default_factory=Counter)
    _found: tuple[float, float, str] | None = None

    def add(self, score: float) -> None:
        self.total += score
        self.counts[score] += 1
        self._found = None

    def score(self, baseline: float | None) -> Score:
        n = self.counts.total()
        mean = self.total / n if n else 0.0
        # What was resampled once is not resampled for every redrawing of a table.
        self._found = self._found or interval(self.counts)
        low, high, method = self._found
        return Score(mean, n, low, high, mean / baseline if baseline else None, method)


class Tally:
    """Mean scores of rows.

    columns: what there is to score, patch by patch. metric: the one that matters: an example is
    right where it is above 0. chance: what guessing gives, metric by metric. swap_metric: by which
    original and modified were scored, if it is another one. knows_near_ties: whether rows that are
    near ties were marked.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        metric: str,
        chance: Mapping[str, float] | None = None,
        swap_metric: str | None = None,
        *,
        knows_near_ties: bool = True,
    ) -> None:
        self.all_columns, self.metric, self.chance = tuple(columns), metric, dict(chance or {})
        self.swap_metric = swap_metric or metric
        self.knows_near_ties = knows_near_ties
        self.layers = tuple(sorted({layer for column in columns for layer in column.layers}))
        self.patches = tuple(dict.fromkeys(column.patch for column in columns))
        self.n_cut = self.n_not_finite = self.n_near_ties = self.n_rows = 0
        self.n_swaps = self.n_last_token_only = 0
        self._cells: dict[tuple[str, str, int], _Cell] = defaultdict(_Cell)
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
        self.n_swaps += row.patch == SWAP
        self.n_last_token_only += row.last_token_only
        if row.patch == CLEAN:
            self.n_cut += row.cut
            for metric, score in row.scores.items():
                self._clean_all[metric].add(score)
                if row.used:
                    self._clean_used[metric].add(score)
            return
        assert row.layer is not None
        for metric, score in row.scores.items():
            self._cells[row.patch, metric, row.layer].add(score)

    @property
    def has_bootstrap(self) -> bool:
        """Whether any interval of the metric that matters is not that of a share."""
        cells = [self._clean_all[self.metric]]
        cells += [cell for (_, metric, _), cell in self._cells.items() if metric == self.metric]
        return any(cell.score(None).interval == BOOTSTRAP for cell in cells)

    @property
    def clean(self) -> Score:
        """The clean model on every example that was tried."""
        return self.clean_score(self.metric)

    @property
    def baseline(self) -> Score:
        """The clean model on the examples that were used: what scores are relative to."""
        return self.baseline_score(self.metric)

    def clean_score(self, metric: str) -> Score:
        return self._clean_all[metric].score(None)

    def baseline_score(self, metric: str) -> Score:
        return self._clean_used[metric].score(None)

    def score(self, patch: str, metric: str, layer: int) -> Score | None:
        cell = self._cells.get((patch, metric, layer))
        if cell is None:
            return None
        compared = self.swap_metric if patch == SWAP else metric
        return cell.score(self.baseline_score(compared).score)

    def transition(self, patch: str, layers: Iterable[int] | None = None) -> int | None:
        """The layer from which on the intervention no longer matters, of these or of all layers.

        That is where the score stays ≥ 90 % of the baseline; for a swap, where the original
        answer stays more frequent than the modified one.
        """
        column = next(column for column in self.columns if column.patch == patch)
        among = column.layers if layers is None else sorted(set(layers) & set(column.layers))
        if patch == SWAP:
            return self._overtakes_from(among)
        return self._survives_from(patch, column.metric, among)

    def _survives_from(self, patch: str, metric: str, layers: Sequence[int]) -> int | None:
        wanted = KEPT * self.baseline.score
        if wanted == 0:
            return None
        found = None
        for layer in sorted(layers, reverse=True):
            score = self.score(patch, metric, layer)
            # Sums of floats: a score that is exactly 90 % must count.
            if score is None or score.score < wanted - 1e-9:
                break
            found = layer
        return found

    def _overtakes_from(self, layers: Sequence[int]) -> int | None:
        found = None
        for layer in sorted(layers, reverse=True):
            one, two = self.score(SWAP, ORIGINAL, layer), self.score(SWAP, MODIFIED, layer)
            if one is None or two is None or one.score <= two.score:
                break
            found = layer
        return found
