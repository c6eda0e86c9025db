"""Figures: score against layer, and heat maps of swaps. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from localprobe.files.cache import write_atomically
from localprobe.report.drawing import unstyled
from localprobe.report.forest import forest
from localprobe.report.terminal import visible
from localprobe.runs.results import Run
from localprobe.runs.tally import MODIFIED, ORIGINAL, SWAP, patches

FORMATS = (".png", ".svg", ".pdf")

# Okabe & Ito (2008): told apart when colour-blind; line styles and marks tell them apart in grey.
# One an intervention, in the order in which they are registered.
_STYLES = (
    ("#0072B2", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#56B4E9", "-", "v"),
    ("#D55E00", "--", "X"),
)
_PANEL = (5.2, 3.8)
_MOST_ACROSS = 3


def save_figure(runs: Sequence[Run], output: Path, *, transitions: bool = False) -> None:
    """One panel a run for what damages the past, and one for swaps. output: of FORMATS.

    transitions: instead, where each run's transitions are, with their intervals.
    Raises OSError where it cannot be written; then nothing is left there.
    """
    if not output.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(output))
    with unstyled():
        form = output.suffix.lower().lstrip(".")
        drawn = forest(runs, form, _STYLES) if transitions else _drawn(runs, form)
        write_atomically(output, drawn)


def _drawn(runs: Sequence[Run], form: str) -> bytes:
    drawers = [draw for run in runs for draw in panels(run)]
    across = min(_MOST_ACROSS, math.ceil(math.sqrt(len(drawers))))
    down = math.ceil(len(drawers) / across)
    size = (_PANEL[0] * across, _PANEL[1] * down)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for axis in axes.flat[len(drawers) :]:
        axis.set_axis_off()
    for axis, draw in zip(axes.flat, drawers, strict=False):
        draw(axis)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=form, dpi=150)
    return drawn.getvalue()


def panels(run: Run) -> list[Callable[[Any], None]]:
    """What draws each panel of a run on axes: curves, and the heat map of swaps."""
    return [
        partial(_heat_map if swap else _curves, run=run)
        for swap in (False, True)
        if _has(run, swap)
    ]


def style_of(patch: str) -> dict[str, Any]:
    """Colour, line and mark of an intervention, the same in all figures."""
    known = patches()
    colour, line, mark = _STYLES[known.index(patch) % len(_STYLES) if patch in known else -1]
    return {"color": colour, "linestyle": line, "marker": mark, "markersize": 3}


def _has(run: Run, swap: bool) -> bool:
    return any((patch == SWAP) == swap for patch in run.tally.patches)


def _curves(axis: Any, run: Run) -> None:
    """One curve an intervention with its 95 % band; the baseline and chance as lines."""
    tally = run.tally
    for patch in tally.patches:
        if patch == SWAP:
            continue
        found = [(k, tally.score(patch, tally.metric, k)) for k in tally.layers]
        layers = [layer for layer, score in found if score is not None]
        scores = [score for _, score in found if score is not None]
        style = style_of(patch)
        axis.plot(layers, [score.score for score in scores], label=patch, **style)
        low, high = [score.low for score in scores], [score.high for score in scores]
        axis.fill_between(layers, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axis.axhline(tally.baseline.score, color="black", linewidth=1, label="clean model")
    if tally.metric in tally.chance:
        axis.axhline(
            tally.chance[tally.metric], color="grey", linewidth=1, dashes=(2, 2), label="chance"
        )
    axis.set_ylim(-0.02, 1.02)
    n, band = str(tally.baseline.n), "bootstrap" if tally.has_bootstrap else "Wilson"
    if tally.adaptive is not None:
        n, band = "–".join(map(str, dict.fromkeys(tally.n_by_layer))), "by stages"
    axis.set_ylabel(f"{tally.metric} ({n} examples; 95 %, {band})")
    axis.legend(fontsize="small", frameon=False)
    _name(axis, run)
    _layer_axis(axis, run)


def _heat_map(axis: Any, run: Run) -> None:
    """Layers down, last at the top; original and modified correctness side by side."""
    tally = run.tally
    table = np.column_stack([run.scores(SWAP, metric) for metric in (ORIGINAL, MODIFIED)])
    image = axis.imshow(
        table, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="none"
    )
    axis.set_xticks([0, 1], ["original", "modified"])
    step = max(1, len(tally.layers) // 10)
    places = range(0, len(tally.layers), step)
    axis.set_yticks(list(places), [str(tally.layers[place]) for place in places])
    axis.set_ylabel("layer")
    axis.set_xlabel(f"whose answer is given ({tally.baseline.n} examples)")
    depth = axis.secondary_yaxis("right")
    n_layer = run.manifest.n_layer
    depth.set_yticks(list(places), [f"{tally.layers[place] / n_layer:.0%}" for place in places])
    depth.set_ylabel("depth")
    bar = axis.figure.colorbar(image, ax=axis, pad=0.02)
    bar.set_label(f"share right ({tally.swap_metric})")
    _name(axis, run)


def _name(axis: Any, run: Run) -> None:
    title = f"{run.manifest.task} · {run.manifest.model_name}"
    name = visible(title).replace("$", r"\$")
    unfinished = f"\nunfinished: {run.so_far} so far" if run.so_far else ""
    descent = run.manifest.descent
    rule = f"\nlost at {descent.patience} layers in a row: lost below" if descent else ""
    axis.set_title(name + unfinished + rule, fontsize="medium")


def _layer_axis(axis: Any, run: Run) -> None:
    n_layer = run.manifest.n_layer
    axis.set_xlabel("layer k")
    axis.set_xlim(-0.5, n_layer - 0.5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    depth = axis.secondary_xaxis(
        "top", functions=(lambda k: 100 * k / n_layer, lambda share: share * n_layer / 100)
    )
    depth.set_xlabel("depth (%)", fontsize="small")
    depth.tick_params(labelsize="small")
