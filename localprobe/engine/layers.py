"""Layer choices as users write them: all, 12, 3,7,12, 0:30:2, -5:."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable

from localprobe.errors import LocalprobeError

_SLICE = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?(?::(\d{1,9}))?")


Layers = str | int | Iterable[int]


def layers_text(layers: Layers) -> str:
    """Layers as users write them; from Python also 12, [3, 7, 12] or range(0, 30, 2).

    Raises LocalprobeError for what is neither.
    """
    if isinstance(layers, str):
        return layers
    numbers = [layers] if isinstance(layers, int) else layers
    try:
        return ",".join(str(operator.index(number)) for number in numbers)
    except TypeError:
        raise LocalprobeError(f"layers must be a text or whole numbers, not {layers!r}") from None


def parse_layers(text: str, n_layer: int) -> list[int]:
    """Layers in ascending order, each once, of a model with layers 0 … n_layer-1.

    Slices are Python's: the end is not included, negative numbers count from the end.
    Raises LocalprobeError for anything else and for layers that the model does not have.
    """
    chosen: set[int] = set()
    for part in text.replace(" ", "").split(","):
        if part.lower() == "all":
            chosen.update(range(n_layer))
        elif re.fullmatch(r"-?\d{1,9}", part):
            layer = int(part)
            if not -n_layer <= layer < n_layer:
                raise LocalprobeError(
                    f"there is no layer {layer}: the model has layers 0 to {n_layer - 1}"
                )
            chosen.add(layer % n_layer)
        elif match := _SLICE.fullmatch(part):
            first, end, step = (int(group) if group else None for group in match.groups())
            if step == 0:
                raise LocalprobeError(f"the step of the layers {part!r} must be at least 1")
            layers = range(n_layer)[first:end:step]
            if not layers:
                raise LocalprobeError(
                    f"{part!r} picks no layer: the model has layers 0 to {n_layer - 1}"
                )
            chosen.update(layers)
        else:
            raise LocalprobeError(
                f"cannot read the layers {text!r}; write all, 12, 3,7,12, 0:30:2 or -5:"
            )
    return sorted(chosen)
