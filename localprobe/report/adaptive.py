"""What an adaptive sweep did: how many examples layers had, and which of them are not sure yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localprobe.runs.adaptive import FIRST, next_look
from localprobe.runs.stages import SPREAD
from localprobe.runs.tally import Tally


def spending(tally: Tally, so_far: str | None = None) -> str:
    """In words; empty of a sweep that is not adaptive. so_far: how much there is of one."""
    if tally.adaptive is None or not tally.baseline.n:
        return ""
    width, (least, most) = tally.adaptive.width, tally.n_by_layer
    some = str(least) if least == most else f"{least} to {most}"
    second = next_look(FIRST)
    lines = [
        f"n: {some} examples a layer; at {FIRST}, {second}, {next_look(second)} … those end whose "
        f"95 % interval is up to {width:g} wide.",
        _of_intervals(tally),
    ]
    wide = "; ".join(
        f"{patch} {_listed(layers, tally.layers)}" for patch, layers in tally.too_wide().items()
    )
    if wide and so_far:
        lines.append(f"wider so far: {wide}")
    elif wide:
        lines.append(f"wider than {width:g} after all {most} examples: {wide}")
    return "\n".join(lines)


def _of_intervals(tally: Tally) -> str:
    scores = [tally.score(c.patch, c.metric, layer) for c in tally.columns for layer in c.layers]
    found = {score.interval for score in scores if score}
    if tally.is_decided_by_another:
        return "Another metric ended them: these intervals hold whenever that was (Bonferroni)."
    if SPREAD in found:
        return "Intervals allow for that: by exact tests of shares, by the spread of other scores."
    return "Intervals allow for that: they are of exact tests of when a layer ended, and how."


def _listed(layers: Sequence[int], among: Sequence[int]) -> str:
    """Neighbours joined: 3, 5–8. among: all layers that are shown, ascending."""
    place = {layer: number for number, layer in enumerate(among)}
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and place[layer] == place[runs[-1][-1]] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) + (f"–{run[-1]}" if len(run) > 1 else "") for run in runs)


def adaptive_record(tally: Tally) -> dict[str, Any] | None:
    """As JSON: too_wide has the layers whose examples ran out before they were sure."""
    if tally.adaptive is None:
        return None
    least, most = tally.n_by_layer
    return {
        "width": tally.adaptive.width,
        "n_fewest": least,
        "n_most": most,
        "too_wide": tally.too_wide(),
    }
