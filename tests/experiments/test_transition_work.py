"""A transition of the default model: what a whole sweep says, with a fraction of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import counted

from localprobe.engine.resume import ResumeEngine
from localprobe.experiments.sweep import Sweep
from localprobe.llama.model import Model
from localprobe.runs.descent import Descent
from localprobe.runs.tally import Tally
from localprobe.tasks.capitals import Capitals

PATCHES = ("freeze", "skip", "random")
N = 2


class Counted(ResumeEngine):
    """rows_x_blocks: of all cells, the clean model's own answers left out; in whole blocks."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(model, batch_size=1)
        self._found, self._counts = list[float](), True
        counted.watch(
            monkeypatch, lambda blocks, rows: self._found.append(self._counts * blocks * rows)
        )

    @property
    def rows_x_blocks(self) -> float:
        return sum(self._found)

    def clean(self, *arguments: Any, **named: Any) -> Any:
        self._counts = False
        try:
            return super().clean(*arguments, **named)
        finally:
            self._counts = True


def test_a_fraction_of_the_work_says_the_same(
    default_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(default_model) as model:
        engine = Counted(model, monkeypatch)

        def swept(descent: Descent | None) -> tuple[Tally, float]:
            before = engine.rows_x_blocks
            layers = range(model.n_layer)
            sweep = Sweep(engine, Capitals(), PATCHES, layers, n=N, descent=descent)
            for _ in sweep.run():
                pass
            return sweep.tally, engine.rows_x_blocks - before

        (whole, most), (down, work) = swept(None), swept(Descent())
    assert work <= most / 5
    for patch in PATCHES:
        # Nowhere is above the last layer.
        found = [tally.transition(patch) for tally in (whole, down)]
        one, other = (len(whole.layers) if layer is None else layer for layer in found)
        assert abs(one - other) <= 1
        limits = down.limits(patch)
        assert limits is not None
        assert limits.low is not None
        assert limits.low <= one
        assert limits.high is None or one <= limits.high
