"""Does llama.cpp multiply rightly with weights that it has rearranged for this processor?

Where a processor has AMX, llama.cpp keeps weights in a layout of their own for it, and sets up
AMX's tiles once per thread. Built by a compiler that drops a part of that (GCC 12 does; see
ggml-org/llama.cpp#26954), it dies at the first multiplication. So, once per build, a few products
are tried in a child process (`main`), and compared with those of plain weights. Where the trial
fails, weights are left as they are: slower, and right. So they are where something else that sets
up tiles for its own use, PyTorch say, is in the same process: llama.cpp would not notice.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from localprobe.errors import LocalprobeError
from localprobe.files import workers
from localprobe.files.cache import remembered_of_machine
from localprobe.llama import backend
from localprobe.llama.devices import build
from localprobe.llama.product import Product, name_of, other_layouts, plain_layout

_HOW_TO_BUILD = backend.how_to_build("-DCMAKE_CXX_FLAGS='-fno-dse -fno-tree-dse'")
"""By GCC, so that what AMX's tiles are set up with is not taken for unused."""
_OTHERS = ("torch", "tensorflow", "jaxlib", "onnxruntime", "openvino")
"""Modules that set up AMX's tiles for themselves."""

_TYPES = (1, 2, 3, 8, 12, 13, 14, 23)
"""F16, Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_XS."""
BLOCK, _IN_BLOCKS = 32, (2, 3, 8)
"""Columns in a block of Q4_0, Q4_1 and Q8_0."""
_ROWS, _TOKENS = 96, (1, 2, 5, 32, 69)
_SECONDS = 60
_TOLERANCE = 0.05
"""As a share of the largest number: the two round what they multiply to 8 bits, or not."""


def is_safe() -> bool:
    """Whether weights may be rearranged now."""
    return not has_tiles() or (builds_well() and not _other_user())


def advice() -> str:
    """A sentence where another build would be much faster on this processor; else empty."""
    if not has_tiles() or builds_well():
        return ""
    return (
        "this processor has AMX, which llama.cpp cannot use as it was built here; built with "
        f"{_HOW_TO_BUILD}, it multiplies with quantized weights some 3 times as fast"
    )


def check_undisturbed() -> None:
    """Before weights in AMX's layout are multiplied with. Raises LocalprobeError where llama.cpp
    would die.
    """
    if other := _other_user():
        raise LocalprobeError(
            f"{other} was imported after this model was opened, and both use the processor's AMX; "
            f"import {other} first, or open the model again"
        )


def fit_tiles(matrices: Iterable[tuple[int, int]]) -> bool:
    """Whether AMX gives the right products with such matrices: ggml's number of the type, n_in.

    llama.cpp adds those of a single block of 32 to what happens to lie in memory.
    """
    return all(kind not in _IN_BLOCKS or n_in > BLOCK for kind, n_in in matrices)


@cache
def has_tiles() -> bool:
    """Whether this build of llama.cpp has AMX, and the processor, too."""
    return b"AMX" in {name_of(layout) for layout in other_layouts()}


@cache
def builds_well() -> bool:
    """Whether the compiler left AMX's set-up whole; tried once per build."""
    return remembered_of_machine(f"rearranged weights, build {build()}", _try_in_child) == "good"


def _other_user() -> str:
    return next((name for name in _OTHERS if name in sys.modules), "")


def _try_in_child() -> str:
    child = workers.start(__name__)
    try:
        said, _ = child.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return "no end"
    finally:
        workers.end(child)
    return said.strip() if child.returncode == 0 else f"exit code {child.returncode}"


def main() -> None:
    """In the child: "good" on standard output, if it lives to say so."""
    random = np.random.default_rng(0)
    plain, *layouts = [plain_layout(), *other_layouts()]
    for kind, n_tokens, n_blocks in itertools.product(_TYPES, _TOKENS, (2, 8)):
        n_columns = n_blocks * (BLOCK if kind in _IN_BLOCKS else 8 * BLOCK)
        weights = random.standard_normal((_ROWS, n_columns), np.float32)
        tokens = random.standard_normal((n_tokens, n_columns), np.float32)
        expected = _product(kind, weights, tokens, plain)
        for layout in layouts:
            found = _product(kind, weights, tokens, layout)
            if found is None or expected is None:
                continue  # a layout that is not for this type
            if not np.abs(found - expected).max() <= _TOLERANCE * np.abs(expected).max():
                sys.stdout.write("other numbers\n")
                return
    sys.stdout.write("good\n")


def _product(
    kind: int, weights: NDArray[np.float32], tokens: NDArray[np.float32], layout: int
) -> NDArray[np.float32] | None:
    """None where llama.cpp would not use that layout."""
    with Product(kind, weights, tokens, layout) as product:
        if not product.is_possible:
            return None
        product.compute()
        return product.found()
