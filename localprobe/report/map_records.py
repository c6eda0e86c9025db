"""What `localprobe map --json` wrote, read back: for pages, and to walk through."""

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
from localprobe.runs.manifest import described

_MOST_BYTES = 1 << 26

Numbers = list[list[float | None]]


@dataclass(frozen=True)
class MapRecord:
    """A map. values, effect: by layer, then by token; None where not finite.

    tokens: the texts of its columns, at `positions`. clean: the metric of the clean answer.
    """

    model: str
    patch: str
    metric: str
    prompt: str
    tokens: list[str]
    positions: list[list[int]]
    layers: list[int]
    answer: str
    clean: float
    values: Numbers
    effect: Numbers
    words: list[str]

    @property
    def columns(self) -> list[str]:
        """Tokens, told apart by where they are."""
        return [
            f"{text} ({', '.join(map(str, at))})"
            for text, at in zip(self.tokens, self.positions, strict=True)
        ]


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
    shape = len(layers), len(tokens)
    return MapRecord(
        model=model,
        patch=str(found["patch"]),
        metric=str(found["metric"]),
        prompt=str(found["prompt"]),
        tokens=tokens,
        positions=[[int(at) for at in token["positions"]] for token in found["tokens"]],
        layers=layers,
        answer=str(found["clean"]["answer"]),
        clean=float(found["clean"]["value"]),
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
