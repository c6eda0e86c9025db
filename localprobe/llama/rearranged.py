"""Does llama.cpp multiply rightly with weights that it has rearranged for this processor?

Where a processor has AMX, llama.cpp keeps weights in a layout of their own for it. Built by a
compiler that drops a part of AMX's set-up (GCC 12 does), it dies at the first multiplication. So,
once per build, a small product is tried in a child process (`main`), and compared with that of
plain weights. Where the trial fails, weights are left as they are: slower, and right.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
from numpy.typing import NDArray

from localprobe.files import workers
from localprobe.files.cache import remembered_of_machine
from localprobe.llama.product import Product, name_of, other_layouts, plain_layout

_TYPES = (1, 2, 3, 8, 12)
"""F16, Q4_0, Q4_1, Q8_0, Q4_K."""
_COLUMNS, _ROWS, _TOKENS = 256, 64, 5
_SECONDS = 60
_TOLERANCE = 0.05
"""As a share of the largest number: the two round what they multiply to 8 bits, or not."""


@cache
def is_safe() -> bool:
    """Whether weights may be rearranged; tried once per build, where the processor has AMX."""
    if b"AMX" not in {name_of(layout) for layout in other_layouts()}:
        return True
    return remembered_of_machine("rearranged weights", _try_in_child) == "good"


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
    weights = random.standard_normal((_ROWS, _COLUMNS), np.float32)
    tokens = random.standard_normal((_TOKENS, _COLUMNS), np.float32)
    plain, *layouts = [plain_layout(), *other_layouts()]
    for kind in _TYPES:
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
