"""A forest plot: transitions with their 95 % intervals, one line a run and intervention."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import pyplot

from localprobe.errors import LocalprobeError
from localprobe.report.terminal import visible
from localprobe.runs.results import Run
from localprobe.runs.tally import SWAP

_LINE, _ABOVE, _WIDTH = 0.32, 1.4, 7.2


def forest(runs: Sequence[Run], form: str, styles: Sequence[tuple[str, str, str]]) -> bytes:
    """The figure in this format: by layer, or by depth where numbers of blocks are unlike.

    An arrow: without an upper end. Hollow: at no layer of those shown. styles: colour, line and
    mark, one an intervention. Raises LocalprobeError where no run has anything but swaps.
    """
    unlike = len({run.manifest.n_layer for run in runs}) > 1
    patches = [p for p in dict.fromkeys(p for run in runs for p in run.tally.patches) if p != SWAP]
    lines = [(run, patch) for patch in patches for run in runs if patch in run.tally.patches]
    if not lines:
        raise LocalprobeError("transitions are drawn of interventions, and these runs have swaps")
    figure, axis = pyplot.subplots(
        figsize=(_WIDTH, _ABOVE + _LINE * len(lines)), layout="constrained"
    )
    try:
        for place, (run, patch) in enumerate(lines):
            n_layer = run.manifest.n_layer
            unit = 100 / n_layer if unlike else 1.0
            colour, _, mark = styles[patches.index(patch) % len(styles)]
            limits, layer = run.tally.limits(patch), run.tally.transition(patch)
            if limits is not None:
                low = n_layer if limits.low is None else limits.low
                high = n_layer if limits.high is None else limits.high
                axis.plot([low * unit, high * unit], [place, place], color=colour, linewidth=2)
                if limits.high is None:
                    axis.plot(high * unit, place, marker=">", color=colour)
            at = n_layer if layer is None else layer
            hollow = "none" if layer is None else colour
            axis.plot(at * unit, place, marker=mark, color=colour, markerfacecolor=hollow)
        axis.set_yticks(range(len(lines)), [_label(run, patch) for run, patch in lines])
        axis.invert_yaxis()
        most = max(run.manifest.n_layer for run in runs)
        axis.set_xlim(0, 102 if unlike else most + 0.5)
        kept = sorted({f"{run.tally.kept:.0%}" for run in runs})
        unit_name = "depth in percent" if unlike else "layer"
        axis.set_xlabel(f"{unit_name} from which on {' or '.join(kept)} survive (95 %)")
        axis.grid(axis="x", alpha=0.3)
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, dpi=150)
        return drawn.getvalue()
    finally:
        pyplot.close(figure)


def _label(run: Run, patch: str) -> str:
    unfinished = ", unfinished" if run.so_far else ""
    name = f"{patch} · {run.manifest.model_name} · {run.manifest.task}"
    name = f"{name}, {run.tally.baseline.n} examples{unfinished}"
    return visible(name).replace("$", r"\$")
