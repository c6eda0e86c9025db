"""Does llama.cpp multiply rightly with weights that it has rearranged for this processor?

Where a processor has AMX, llama.cpp keeps weights in a layout of their own for it. Built by a
compiler that drops a part of AMX's set-up (GCC 12 does), it dies at the first multiplication. So,
once per build, a small product is tried in a child process (`main`), and compared with that of
plain weights. Where the trial fails, weights are left as they are: slower, and right.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from functools import cache

import numpy as np
from numpy.typing import NDArray

from localprobe.files import workers
from localprobe.files.cache import remembered_of_machine
from localprobe.llama import ggml

_DEVICE_CPU = 0
_TYPES = (1, 2, 3, 8, 12)
"""F16, Q4_0, Q4_1, Q8_0, Q4_K."""
_COLUMNS, _ROWS, _TOKENS = 256, 64, 5
_SECONDS = 60
_TOLERANCE = 0.05
"""As a share of the largest number: the two round what they multiply to 8 bits, or not."""

_ptr, _size, _int, _int64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64


@cache
def is_safe() -> bool:
    """Whether weights may be rearranged; tried once per build, where the processor has AMX."""
    if b"AMX" not in {_name(kind) for kind in _layouts()}:
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
    plain, *layouts = [_plain_layout(), *_layouts()]
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
    """tokens @ weights.T by ggml, (n_tokens, n_rows), weights being of a type and in a layout.

    None where llama.cpp would not use that layout.
    """
    function = ggml.function
    new_2d = function("ggml_new_tensor_2d", _ptr, _ptr, _int, _int64, _int64)
    place = function("ggml_backend_alloc_ctx_tensors_from_buft", _ptr, _ptr, _ptr)
    backend = function("ggml_backend_dev_init", _ptr, _ptr, ctypes.c_char_p)(_cpu(), None)
    theirs, ours = ggml.new_context(), ggml.new_context()
    weight = new_2d(theirs, kind, _COLUMNS, _ROWS)
    place(theirs, layout)
    token = new_2d(ours, ggml.GGML_TYPE_F32, _COLUMNS, _TOKENS)
    product = function("ggml_mul_mat", _ptr, _ptr, _ptr, _ptr)(ours, weight, token)
    graph = function("ggml_new_graph", _ptr, _ptr)(ours)
    function("ggml_build_forward_expand", None, _ptr, _ptr)(graph, product)
    place(ours, _plain_layout())
    if not function("ggml_backend_dev_supports_op", ctypes.c_bool, _ptr, _ptr)(_cpu(), product):
        return None
    packed = np.empty(_byte_count(weight), np.uint8)
    quantize = function(
        "ggml_quantize_chunk", _size, _int, _ptr, _ptr, _int64, _int64, _int64, _ptr
    )
    quantize(kind, weights.ctypes.data, packed.ctypes.data, 0, _ROWS, _COLUMNS, None)
    put = function("ggml_backend_tensor_set", None, _ptr, _ptr, _size, _size)
    put(weight, packed.ctypes.data, 0, packed.nbytes)
    ggml.write(token, tokens)
    function("ggml_backend_graph_compute", _int, _ptr, _ptr)(backend, graph)
    found: NDArray[np.float32] = ggml.read(product)
    return found  # nothing is given back: the process ends soon


def _byte_count(tensor: int) -> int:
    return int(ggml.function("ggml_nbytes", _size, _ptr)(tensor))


def _cpu() -> int:
    return int(ggml.function("ggml_backend_dev_by_type", _ptr, _int)(_DEVICE_CPU))


def _plain_layout() -> int:
    return int(ggml.function("ggml_backend_dev_buffer_type", _ptr, _ptr)(_cpu()))


def _layouts() -> list[int]:
    """The kinds of buffers that the CPU has beside the plain one; none where it does not say."""
    registry = ggml.function("ggml_backend_dev_backend_reg", _ptr, _ptr)(_cpu())
    look_up = ggml.function("ggml_backend_reg_get_proc_address", _ptr, _ptr, ctypes.c_char_p)
    address = look_up(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    found = ctypes.CFUNCTYPE(ctypes.POINTER(_ptr), _ptr)(address)(_cpu())
    layouts: list[int] = []
    while found and found[len(layouts)]:
        layouts.append(found[len(layouts)])
    return layouts


def _name(layout: int) -> bytes:
    name = ggml.function("ggml_backend_buft_name", ctypes.c_char_p, _ptr)(layout)
    return bytes(name)
