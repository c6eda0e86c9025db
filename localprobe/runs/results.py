"""A run as it is read: what was run, and what was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.runs.descent import PATIENCE, Descent, own_transitions
from localprobe.runs.differences import in_words
from localprobe.runs.display import shown_by
from localprobe.runs.folder import ROWS, check_all_there, read_rows
from localprobe.runs.frames import Framed
from localprobe.runs.manifest import MANIFEST, Manifest, read_manifest
from localprobe.runs.rows import Row
from localprobe.runs.tally import ORIGINAL, SWAP, Score, Tally
from localprobe.runs.transitions import Limits


@dataclass(frozen=True, repr=False)
class Run(Framed):
    """What a sweep found: what was run, and every row. path: its folder, if it is on disk.

    In a data frame, the scores, a row for each intervention, metric and layer: its columns are
    those of `Score` (score, n, low, high, …) after patch, metric and layer.
    """

    manifest: Manifest
    rows: list[Row]
    path: Path | None = None

    @cached_property
    def tally(self) -> Tally:
        """Mean scores with their intervals, the baseline, and transition layers."""
        tally = self.manifest.empty_tally()
        for row in self.rows:
            tally.add(row)
        return tally

    @property
    def layers(self) -> tuple[int, ...]:
        return self.tally.layers

    @property
    def baseline(self) -> float:
        """The clean model's mean score on the examples used; nan where none was."""
        return self.tally.baseline.score if self.tally.baseline.n else float("nan")

    def scores(self, patch: str, metric: str | None = None) -> NDArray[np.float64]:
        """Mean scores at each of `layers`, (n_layers,); nan where there is none.

        metric: one of the task's, the run's own if None; for swap "original" or "modified".
        Raises LocalprobeError where the run has no such scores.
        """
        metric = metric or (ORIGINAL if patch == SWAP else self.tally.metric)
        known = [(column.patch, column.metric) for column in self.tally.all_columns]
        if (patch, metric) not in known:
            raise LocalprobeError(
                f"this run has no scores of {patch} by {metric}; it has "
                + ", ".join(f"{patch} by {metric}" for patch, metric in known)
            )
        found = [self.tally.score(patch, metric, layer) for layer in self.layers]
        return np.array([np.nan if score is None else score.score for score in found])

    def by_metric(self, metric: str | None) -> Run:
        """The same run with another of the task's metrics as the one that matters."""
        if metric is None or metric == self.tally.metric:
            return self
        if metric not in self.tally.clean_metrics:
            hint = did_you_mean(metric, self.tally.clean_metrics)
            raise LocalprobeError(f"{self.manifest.task} has no metric {metric!r}; {hint}")
        # Swaps were scored by the sweep's own metric, and by no other.
        changed = {"metric": metric, "swap_metric": self.tally.swap_metric}
        return Run(Manifest({**self.manifest.data, **changed}), self.rows, self.path)

    def transition(self, patch: str) -> int | None:
        """The layer from which on an intervention no longer matters, if any."""
        if patch not in self.tally.patches:
            raise LocalprobeError(
                f"this run has no {patch}; it has {', '.join(self.tally.patches)}"
            )
        return self.tally.transition(patch)

    def limits(self, patch: str) -> Limits | None:
        """The 95 % interval of `transition`, over examples; None where scores have degrees."""
        self.transition(patch)
        return self.tally.limits(patch)

    def own_transitions(self, patch: str, patience: int = PATIENCE) -> dict[int, int | None]:
        """By example, the lowest layer with its answer right before it is lost for good.

        That is, going down from the last layer, at `patience` layers in a row. None where it is
        so before any layer held. Of a `transition`, patience is at most that of the run; of an
        adaptive sweep, only the examples that have all layers are there.
        Raises LocalprobeError where the run has no such scores.
        """
        self.transition(patch)
        metric = self.tally.metric
        descent = self.manifest.descent
        mine = [row.scores for row in self.rows if row.patch == patch]
        if patch == SWAP or any(scores.get(metric, 0) not in (0, 1) for scores in mine):
            raise LocalprobeError(f"answers under {patch} by {metric} are not right or lost")
        if descent is not None and patience > descent.patience:
            raise LocalprobeError(
                f"this run gave examples up after {descent.patience} lost layers, not {patience}"
            )
        layers = next(c.layers for c in self.tally.columns if c.patch == patch)
        is_adaptive = self.manifest.adaptive is not None
        own = own_transitions(
            self.rows, patch, layers, metric, Descent(patience), of_all=is_adaptive
        )
        return {example: each.layer for example, each in own.items()}

    def differences(self, other: Run) -> list[str]:
        """What was run otherwise, as "seed 0, not 3" (here 0, there 3); the model aside."""
        return in_words(self.manifest, other.manifest)

    @property
    def is_finished(self) -> bool:
        return self.manifest.is_finished

    @property
    def so_far(self) -> str | None:
        """How much there is of an unfinished run, as "7 of 12 examples"; None of a finished one."""
        return self.manifest.so_far(self.tally)

    def __repr__(self) -> str:
        """In a line: what was run, on what, and how much of it."""
        n = self.tally.baseline.n
        used = self.so_far or ("1 example" if n == 1 else f"{n} examples")
        patches = ", ".join(self.tally.patches)
        about = f"{self.manifest.task}, {self.manifest.model_name}: {patches}"
        place = "" if self.path is None else f" in {self.path}"
        return f"<Run {about} at {len(self.layers)} layers, {used}{place}>"

    _COLUMNS: ClassVar = ("patch", "metric", "layer", *(field.name for field in fields(Score)))

    def _records(self) -> list[dict[str, Any]]:
        records = []
        for column in self.tally.all_columns:
            for layer in column.layers:
                score = self.tally.score(column.patch, column.metric, layer)
                if score is not None:
                    place = {"patch": column.patch, "metric": column.metric, "layer": layer}
                    records.append({**place, **asdict(score)})
        return records

    def plot(self) -> Any:
        """Score against layer, and the heat map of swaps: matplotlib's axes, of two an array.

        Raises LocalprobeError where matplotlib is not installed.
        """
        return shown_by("notebook").plot_run(self)

    def _repr_html_(self) -> str:
        return str(shown_by("notebook").run_html(self))


def read_run(path: Path) -> Run:
    """The run in a folder; of one that was killed, the examples that are whole.

    Raises LocalprobeError where there is none, or it is damaged.
    """
    manifest = read_manifest(path)
    rows, _ = read_rows(path, manifest)
    check_all_there(path, manifest, len(rows))
    return Run(manifest, rows, path)


def run_folders(path: Path) -> list[Path]:
    """The folder itself if it holds a run, else those in it that do, by name."""
    if (path / MANIFEST).is_file():
        return [path]
    found = sorted(each.parent for each in path.glob(f"*/{MANIFEST}")) if path.is_dir() else []
    if not found:
        raise LocalprobeError(f"{path} holds no run (a folder with {MANIFEST} and {ROWS})")
    return found
