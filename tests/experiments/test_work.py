"""Time left before anything of a kind was done, held to a machine that takes what work it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import counted

from localprobe.engine.full import FullEngine
from localprobe.engine.resume import ResumeEngine
from localprobe.experiments import sweep as sweeping
from localprobe.experiments.pace import Pace
from localprobe.experiments.sweep import Sweep
from localprobe.experiments.work import Work
from localprobe.llama.model import Model
from localprobe.tasks.capitals import Capitals

READING = 6
"""Rows that the machine could do while it reads the weights."""


class Machine:
    """A clock that goes by the multiplications that are made, and the weights that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        counted.watch(monkeypatch, self._work)
        monkeypatch.setattr(sweeping, "Pace", lambda: Pace(lambda: self.now))

    def _work(self, blocks: float, rows: int) -> None:
        self.now += blocks * (rows + READING)


@pytest.mark.parametrize("kind", [FullEngine, ResumeEngine])
@pytest.mark.parametrize(
    "patches", [("freeze", "random"), ("random", "skip"), ("skip", "shuffle"), ("swap", "random")]
)
def test_the_first_estimate_is_near_the_truth(
    kind: type[FullEngine],
    patches: tuple[str, ...],
    tiny_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        machine = Machine(monkeypatch)
        sweep = Sweep(
            kind(model), Capitals(), patches, range(1, 4), n=4, all_examples=True, max_tokens=2
        )
        rows = sweep.run()
        next(rows)
        # After the clean answers, and nothing else.
        first = sweep.seconds_left
        so_far = machine.now
        for _ in rows:
            pass
        truth = machine.now - so_far
        assert first is not None
        assert truth / 1.5 <= first <= truth * 1.5


def test_answers_that_are_longer_are_more_work() -> None:
    def work(**changes: Any) -> Work:
        return Work(**{**vars(base), **changes})

    base = Work(10, 20.0, 0.0, 5.0, 8, is_whole=False)
    for patch in ("random", "freeze", "skip", "swap"):
        costs = [base.cell(patch, layer, 1) for layer in (1, 5, 9)]
        assert costs == sorted(costs, reverse=True)
        assert base.cell(patch, 5, 8) < base.cell(patch, 5, 1)
    assert base.cell("skip", 5, 4) < base.cell("freeze", 5, 4) < base.cell("random", 5, 4)
    whole = work(is_whole=True)
    assert whole.cell("skip", 1, 1) == whole.cell("random", 9, 1)
    assert work(n_shared=15.0).clean(4) < base.clean(4)
    assert work(n_shared=15.0).clean(1) == base.clean(1)
    long, short = work(), work()
    for _ in range(3):
        long.saw(8)
        short.saw(1)
    assert long.cell("random", 5, 1) > base.cell("random", 5, 1) > short.cell("random", 5, 1)


def test_what_goes_into_decodes_of_few_rows_is_a_part_of_the_work() -> None:
    """freeze and skip: all that depends on the layer; else the tokens after the answer's first."""
    work = Work(10, 26.0, 0, 8.0, max_tokens=3, is_whole=False, n_layers=5)
    work.saw(2)
    for patch in ("freeze", "skip"):
        several = work.cell(patch, 4, 8) - work.below(patch, 8)
        assert work.in_few_rows(patch, 4, 8) == several > 0
    for patch in ("random", "shuffle", "swap"):
        first = Work(10, 26.0, 0, 8.0, max_tokens=1, is_whole=False).cell(patch, 4, 8)
        few, below = work.in_few_rows(patch, 4, 8), work.below(patch, 8)
        assert work.cell(patch, 4, 8) == pytest.approx(first + few + below)
        assert 5 * below == pytest.approx(0.5 * 10 * ((8 if patch == "swap" else 26) + 6 / 8))
        assert 0 < work.in_few_rows(patch, 4, 8) < first
