"""Maps over a task, averaged: in the terminal, in words, as JSON, CSV, npz, and figures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from localprobe.errors import LocalprobeError
from localprobe.experiments.map import DENOISING, KNOCKOUT, NEEDED, SWAP
from localprobe.files.cache import write_atomically
from localprobe.report.map_files import FIGURES, check_output
from localprobe.report.map_view import heat_map, legend
from localprobe.report.map_words import DONE, EXPLAINED, in_layers
from localprobe.report.terminal import visible
from localprobe.runs.maps import Maps

SUFFIXES = (*FIGURES, ".csv", ".npz")
ENOUGH = 6
"""Of fewer examples nothing is claimed: even if all lie on one side of half, that may be chance (of
five, with probability 2 / 2**5 > 5 %), and resamples of so few are all alike.
"""
_SHORT = {"prob": "P", "logit-diff": "lead", "logprob": "log P", "rank": "rank", "kl": "KL"}
_MEASURED = {
    "prob": "P(answer)",
    "logit-diff": "logit(answer) - logit(donor's answer)",
    "logprob": "log P(answer)",
    "rank": "the answer's rank",
    "kl": "KL from the clean distribution",
}


def maps_text(console: Console, found: Maps) -> list[Text]:
    """What was done, the mean map, its legend, and what it shows in words."""
    lines = [Text(visible(found.manifest.title), style="bold"), Text(explained(found))]
    lines.append(Text(clean_line(found), style="bold"))
    if n := found.n_without_donor:
        has = "1 example that it answers right has" if n == 1 else f"{n} that it answers right have"
        lines.append(Text(f"{has} no donor, and so no map", style="dim"))
    if not found.used:
        return lines
    grid = heat_map(console, found.roles, found.layers, found.effects.mean)
    few = [role for role in found.roles if found.n_of(role) < len(found.used)]
    if few:
        counted = ", ".join(f"{role}: {found.n_of(role)}" for role in few)
        grid.append(Text(f"examples that have such a token, where not all: {counted}", style="dim"))
    lines += [Text(), *grid, legend(console, f"{share_of(found)}; mean over examples"), Text()]
    return [*lines, *(Text(line) for line in what_they_show(found))]


def explained(found: Maps) -> str:
    """What is done in a cell."""
    window = found.window or (None if found.patch in (KNOCKOUT, "freeze") else 1)
    where = "from layer k on" if window is None else in_layers(window)
    what = EXPLAINED[found.patch]
    if found.patch == SWAP:
        whose = (
            ("example's", "donor's") if found.direction == DENOISING else ("donor's", "example's")
        )
        what = "the token's state is that of the {} prompt, in the run of the {}".format(*whose)
    return f"{found.patch}: {where}, {what}; tokens of one role together"


def share_of(found: Maps) -> str:
    """What the marks are shares of."""
    if found.patch == SWAP:
        way = "back to the example's run" if found.direction == DENOISING else "to the donor's run"
        return f"of the way {way}, by {_MEASURED[found.metric]}"
    if found.metric == "kl":
        return f"1 - exp(-KL), {_MEASURED['kl']}"
    return f"of the answer is lost, by {_MEASURED[found.metric]}"


def clean_line(found: Maps) -> str:
    n = len(found.used)
    some = f"{n} example{'s' * (n != 1)}"
    if found.so_far:
        some = f"unfinished, {found.so_far}"
    if not n:
        return some
    clean, donors = found.clean, found.there
    if found.direction == DENOISING:
        clean, donors = donors, clean
    line = f"{some}; clean {_SHORT[found.metric]} {_with_ends(found, *clean)}"
    return line if found.patch != SWAP else f"{line}, of the donors {_with_ends(found, *donors)}"


def what_they_show(found: Maps) -> list[str]:
    """Until which layer each role is needed: for the mean, and as far as its intervals tell.

    "Needed": where more than half of the answer is lost, in the mean over examples.
    """
    effects, lines, others = found.effects, list[str](), list[int]()
    verb, half, share = _said(found)
    few = [role for role in found.roles if found.n_of(role) < ENOUGH]
    for column, role in enumerate(found.roles):
        if role in few:
            continue
        until = [
            _until(found, ends[:, column] > NEEDED)
            for ends in (effects.low, effects.mean, effects.high)
        ]
        if until[0] is None or until[1] is None:
            others.append(column)
            continue
        worst = int(np.nanargmax(effects.mean[:, column]))
        lines.append(
            f"{role} {verb} {_range(found, *until)}; {DONE[found.patch]} "
            f"{_where(found, worst)}: {_SHORT[found.metric]} {_cell(found, worst, column)}"
        )
    if others:
        shares = np.nan_to_num(effects.mean[:, others], nan=-1)
        row, place = np.unravel_index(int(shares.argmax()), shares.shape)
        column = others[int(place)]
        mean, low, high = (each[row, column] for each in (effects.mean, effects.low, effects.high))
        who = "no other role" if lines else "no role"
        lines.append(
            f"{who} surely {half}: at most {mean:.0%} "
            f"[{low:.0%}, {high:.0%}] {share} ({found.roles[column]} "
            f"{DONE[found.patch]} {_where(found, int(row))})"
        )
    if len(few) == len(found.roles):
        lines.append(f"of fewer than {ENOUGH} examples nothing is claimed: take more with -n")
    elif few:
        named = ", ".join(f"{role} ({found.n_of(role)})" for role in few)
        lines.append(f"too few examples to say anything of {named}")
    if len(few) < len(found.roles):
        lines.append("in brackets: 95 % intervals over examples, each cell by itself")
    return lines


def _said(found: Maps) -> tuple[str, str, str]:
    """Of a role that matters: what it does, how that is told, and what shares are of."""
    if found.direction == DENOISING:
        return "brings the answer back", "brings more than half of the answer back", "is back"
    if found.patch == SWAP:
        return "decides", "costs more than half of the way to the donor's run", "of the way"
    if found.metric == "kl":
        half = "moves the distribution so far that 1 - exp(-KL) > 50%"
        return "matters", half, "in the mean"
    return "is needed", "costs more than half of the answer", "is lost"


def _until(found: Maps, costly: NDArray[np.bool_]) -> int | None:
    """The layer from which on it no longer costs so much; None where it never does."""
    places = np.flatnonzero(costly)
    if not len(places):
        return None
    last = int(places[-1]) + 1
    return int(found.layers[last]) if last < len(found.layers) else found.manifest.n_layer


def _range(found: Maps, low: int | None, until: int | None, high: int | None) -> str:
    n_layer = found.manifest.n_layer
    assert low is not None and until is not None and high is not None
    if low == n_layer:
        return "at every layer shown up to the last"
    where = f"until layer {until}" if until < n_layer else "up to the last layer shown"
    if until < n_layer:
        where += f" ({until / n_layer:.0%} of depth)"
    if low == high:
        return where
    return f"{where} [{low}, {high if high < n_layer else 'the last'}]"


def _where(found: Maps, row: int) -> str:
    to_the_end = found.patch in (KNOCKOUT, "freeze") and found.window is None
    layer = found.layers[row]
    return f"from layer {layer} on" if to_the_end else f"at layer {layer}"


def _cell(found: Maps, row: int, column: int) -> str:
    values = found.values
    return _with_ends(
        found, *(each[row, column] for each in (values.mean, values.low, values.high))
    )


def _with_ends(found: Maps, mean: float, low: float, high: float) -> str:
    digits = 1 if found.metric == "rank" else 2
    if np.isnan(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def maps_record(found: Maps) -> dict[str, Any]:
    """As JSON: means by layer, then by role; null where nothing is known."""
    experiment = found.manifest.data["experiment"]
    return {
        "model": found.manifest.data["model"],
        "task": found.manifest.task,
        "patch": found.patch,
        "metric": found.metric,
        "window": found.window,
        "direction": found.direction,
        "seed": experiment["seed"],
        "shard": experiment["shard"],
        "n": len(found.used),
        "tried": len(found.rows),
        "finished": found.manifest.is_finished,
        "n_layer": found.manifest.n_layer,
        "layers": found.layers.tolist(),
        "roles": [{"role": role, "n": found.n_of(role)} for role in found.roles],
        "without_donor": found.n_without_donor,
        "clean": _ends_record(found.clean),
        "there": _ends_record(found.there) if found.patch == SWAP else None,
        "values": _mean_record(found.values),
        "effects": _mean_record(found.effects),
        "words": what_they_show(found) if found.used else [],
    }


def _ends_record(ends: tuple[float, float, float]) -> dict[str, float | None]:
    return dict(zip(("mean", "low", "high"), map(number, ends), strict=True))


def _mean_record(mean: Any) -> dict[str, Any]:
    record = {name: plain(getattr(mean, name)) for name in ("mean", "low", "high")}
    return {**record, "n": mean.n.tolist()}


def plain(values: NDArray[np.float64]) -> list[list[float | None]]:
    return [[number(value) for value in row] for row in values.tolist()]


def number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def check_maps_output(path: Path) -> None:
    """Raise LocalprobeError for a file that could not be written."""
    if path.suffix.lower() == ".html":
        raise LocalprobeError(f"{path}: maps over a task are written as {', '.join(SUFFIXES)}")
    check_output(path)


def write_maps(path: Path, found: Maps) -> None:
    """The mean map, in the form that the name asks for."""
    check_maps_output(path)
    if not found.used:
        raise LocalprobeError(f"{found.path}: no example of it is done yet")
    form = path.suffix.lower()
    if form in FIGURES:
        from localprobe.report.map_figure import save

        save([found], path)
    elif form == ".csv":
        write_atomically(path, csv_text(found))
    else:
        written = io.BytesIO()
        arrays = {
            f"{name}{end}": getattr(mean, field)
            for name, mean in (("values", found.values), ("effects", found.effects))
            for field, end in (("mean", ""), ("low", "_low"), ("high", "_high"), ("n", "_n"))
        }
        np.savez(written, layers=found.layers, roles=np.array(found.roles), **arrays)
        write_atomically(path, written.getvalue())


def csv_text(found: Maps) -> str:
    """A row for every role and layer."""
    text = io.StringIO(newline="")
    records = cell_records(found)
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def cell_records(found: Maps) -> list[dict[str, Any]]:
    """Means by role, then by layer; None where nothing is known."""
    names = ("value", "low", "high", "effect", "effect_low", "effect_high")
    values, effects, records = found.values, found.effects, list[dict[str, Any]]()
    for column, role in enumerate(found.roles):
        for row, layer in enumerate(found.layers.tolist()):
            numbers = [
                number(float(each[row, column]))
                for mean in (values, effects)
                for each in (mean.mean, mean.low, mean.high)
            ]
            about = {"role": role, "layer": layer, "n": int(values.n[row, column])}
            records.append({**about, **dict(zip(names, numbers, strict=True))})
    return records
