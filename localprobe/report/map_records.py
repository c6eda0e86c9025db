"""Maps for pages, and to walk through: what `map --json` wrote, read back; means over a task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files.foreign import printable
from localprobe.files.textfile import read_bytes
from localprobe.report import maps_view
from localprobe.report.terminal import visible
from localprobe.runs.manifest import described
from localprobe.runs.maps import Maps

_MOST_BYTES = 1 << 26

Numbers = list[list[float | None]]


@dataclass(frozen=True)
class MapRecord:
    """A map. values, effect: by layer, then by token; None where not finite.

    of: what the metric is of. about: what was asked, and the clean answer. tokens: the texts of its
    columns, quoted, or roles; columns: told apart. across: what they are.
    """

    model: str
    patch: str
    metric: str
    of: str
    about: list[str]
    across: str
    tokens: list[str]
    columns: list[str]
    layers: list[int]
    values: Numbers
    effect: Numbers
    words: list[str]

    @property
    def title(self) -> str:
        return f"{self.patch}, {self.metric} of {self.of}"


def mean_record(found: Maps) -> MapRecord:
    """The means of maps over a task. Raises LocalprobeError where there are none yet."""
    if not found.used:
        raise LocalprobeError(f"{found.path}: no example of it is done yet")
    return MapRecord(
        model=described(found.manifest.data["model"]),
        patch=found.patch,
        metric=found.metric,
        of=f"{found.manifest.task}, mean over examples",
        about=[maps_view.explained(found), maps_view.clean_line(found)],
        across="tokens by their role",
        tokens=[visible(role) for role in found.roles],
        columns=[f"{role} ({found.n_of(role)})" for role in found.roles],
        layers=found.layers.tolist(),
        values=maps_view.plain(found.values.mean),
        effect=maps_view.plain(found.effects.mean),
        words=maps_view.what_they_show(found),
    )


def read_maps(file: Path) -> list[MapRecord]:
    """The maps of a document. Raises LocalprobeError where it is none."""
    text = read_bytes(file, most=_MOST_BYTES)
    try:
        document = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise LocalprobeError(
            f"{file} is not valid JSON; localprobe map --json > FILE writes a map"
        ) from None
    try:
        maps = document.get("maps", [document])
        model = described(document["model"])
        return [_record(each, model) for each in maps]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = printable(f"{type(error).__name__}: {error}", 100)
        raise LocalprobeError(
            f"{file} holds no map as localprobe map --json writes it ({reason})"
        ) from None


def _record(found: Mapping[str, Any], model: str) -> MapRecord:
    layers = [int(layer) for layer in found["layers"]]
    tokens = [str(token["text"]) for token in found["tokens"]]
    places = [[int(at) for at in token["positions"]] for token in found["tokens"]]
    shape = len(layers), len(tokens)
    metric, answer = str(found["metric"]), f"`{visible(str(found['clean']['answer']))}`"
    return MapRecord(
        model=model,
        patch=str(found["patch"]),
        metric=metric,
        of=answer,
        about=[
            f"prompt: {visible(str(found['prompt']))}",
            f"clean answer: {answer}, {metric} {float(found['clean']['value']):.2f}",
        ],
        across="token of the prompt",
        tokens=[f"`{visible(token)}`" for token in tokens],
        columns=[
            f"{text} ({', '.join(map(str, at))})" for text, at in zip(tokens, places, strict=True)
        ],
        layers=layers,
        values=_numbers(found["values"], shape),
        effect=_numbers(found["effect"], shape),
        words=[str(line) for line in found["words"]],
    )


def _numbers(rows: Any, shape: tuple[int, int]) -> Numbers:
    found = [[None if each is None else float(each) for each in row] for row in rows]
    if len(found) != shape[0] or any(len(row) != shape[1] for row in found):
        raise ValueError("not one number for each layer and token")
    if any(each is not None and not math.isfinite(each) for row in found for each in row):
        raise ValueError("a number is not finite")
    return found
