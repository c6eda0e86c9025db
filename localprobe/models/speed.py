"""How fast this machine multiplies with weights of each type, at the shapes that a model has.

Weights are multiplied with for nearly all of the time. So products of their shapes, with random
numbers, tell in seconds which type of weights is the fastest here, without converting anything.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from localprobe.errors import LocalprobeError
from localprobe.llama.product import Product, other_layouts, plain_layout
from localprobe.llama.rearranged import is_safe
from localprobe.llama.threads import checked
from localprobe.models.header import BLOCKS, Tensor, read_header
from localprobe.models.prepare import TYPES

FASTEST = "fastest"
"""Instead of a type: the one that is found here."""

_KINDS = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
_OF_A_FILE = (0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20, 23, 30)
"""Types that random numbers are turned into at once, and without knowing how they are used."""
ROWS, _RUNS = 64, 5
AS_FAST = 1.1
"""Types that are less than this much slower than the fastest are as fast: the most exact wins."""

Shape = tuple[int, int]
Watch = Callable[[Iterable[str], int], Iterable[str]]


@dataclass(frozen=True)
class TypeSpeed:
    """ms: milliseconds that a row takes in all blocks, multiplications alone. size: bytes."""

    type: str
    ms: float
    size: int


def speeds(
    path: Path, threads: int = 0, watch: Watch = lambda types, _total: types
) -> list[TypeSpeed]:
    """Of every type that a model can be prepared with, the fastest first.

    threads: 0 for all cores. Raises ModelError for a file that is none.
    """
    matrices = _matrices(path)
    shapes = Counter(_shape(tensor) for tensor in matrices if _is_in_a_block(tensor))
    found = []
    for kind in watch(TYPES, len(TYPES)):
        size = sum(_size(kind, _shape(tensor), math.prod(tensor.shape)) for tensor in matrices)
        seconds = sum(
            count * _seconds(_kind(kind, shape), shape, checked(threads))
            for shape, count in shapes.items()
        )
        found.append(TypeSpeed(kind, 1000 * seconds / ROWS, size))
    return sorted(found, key=lambda each: each.ms)


def own_speed(path: Path, threads: int = 0) -> float | None:
    """Milliseconds that a row takes in all blocks with the types that a file has.

    None where it has one that cannot be timed so.
    """
    shapes = Counter(
        (tensor.kind, _shape(tensor)) for tensor in _matrices(path) if _is_in_a_block(tensor)
    )
    if not {kind for kind, _ in shapes} <= set(_OF_A_FILE):
        return None
    seconds = sum(
        count * _seconds(kind, shape, checked(threads)) for (kind, shape), count in shapes.items()
    )
    return 1000 * seconds / ROWS


def _kind(kind: str, shape: Shape) -> int:
    """ggml's number of the type that such a matrix has in a model prepared with a type: llama.cpp
    takes F16 where its rows cannot be cut into blocks."""
    return _KINDS["f16" if shape[0] % BLOCKS[_KINDS[kind]][0] else kind]


def _size(kind: str, shape: Shape, n_weights: int) -> int:
    weights, width = BLOCKS[_kind(kind, shape)]
    return n_weights // weights * width


def _matrices(path: Path) -> list[Tensor]:
    return [tensor for tensor in read_header(path).tensors if len(tensor.shape) > 1]


def _is_in_a_block(tensor: Tensor) -> bool:
    return tensor.name.startswith("blk.")


def _shape(tensor: Tensor) -> Shape:
    return tensor.shape[0], tensor.shape[1]


def fastest(found: list[TypeSpeed], room: float) -> TypeSpeed:
    """Of those that fit into so many bytes and are about as fast as the fastest of them, the one
    with the most bits. Raises LocalprobeError where none fits.
    """
    fitting = [each for each in found if each.size <= room]
    if not fitting:
        least = min(each.size for each in found)
        raise LocalprobeError(
            f"the smallest type takes {least / 1e9:.1f} GB of memory, and {room / 1e9:.1f} GB are "
            "free; take a smaller model"
        )
    fast = [each for each in fitting if each.ms <= AS_FAST * fitting[0].ms]
    return max(fast, key=lambda each: each.size)


def _seconds(kind: int, shape: Shape, threads: int) -> float:
    n_in, n_out = shape
    some = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
    weights, tokens = np.resize(some, (n_out, n_in)), np.resize(some, (ROWS, n_in))
    # As llama.cpp chooses: the first layout that there is for the type.
    layouts = [*(other_layouts() if is_safe() else ()), plain_layout()]
    for layout in layouts:
        with Product(kind, weights, tokens, layout, threads) as product:
            if not product.is_possible:
                continue
            product.compute()
            taken = []
            for _ in range(_RUNS):
                start = time.perf_counter()
                product.compute()
                taken.append(time.perf_counter() - start)
            # Others at work can only make it longer.
            return min(taken)
    return 0.0
