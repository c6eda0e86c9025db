"""A line on stderr where other weights, or another build of llama.cpp, would be much faster."""

from __future__ import annotations

from localprobe.api import Model
from localprobe.cli.options import ModelChoice
from localprobe.models.faster import better_build, faster
from localprobe.report.terminal import say


class Advice:
    """On one model, given at most once. choice: as it was typed."""

    def __init__(self, model: Model, choice: ModelChoice) -> None:
        self._model, self._choice = model, choice
        self._given = False

    def before(self, work_left: tuple[float, float], *, known: bool = False) -> None:
        """Say it, if it is so. Before a run begins: the model is used meanwhile.

        work_left: in rows through a block, and what of that are decodes of few rows. known:
        whether some of the run is done already; with other weights that would be lost.
        """
        if self._given or known:
            return
        found = faster(self._model.loaded, self._choice.model, self._choice.threads, *work_left)
        built = better_build(self._model.loaded, work_left[0])
        for each in filter(None, (found, built)):
            say(f"localprobe: {each}")
            self._given = True
