"""ggml tensors: name, op, sources, shape, and their float32 data.

The fields that have no public accessor in ggml (`op`, `src`) are read through the layout of
`struct ggml_tensor`. That layout is not promised by ggml, so it is proved when this module
loads: a tensor is made with known contents and every field that we use is compared with what
ggml's public functions say. Without the proof nothing can be read; without that of the flags
(`FLAGS_PROVED`) no node can be switched off, and only whole passes are left.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp._ctypes_extensions import load_shared_library
from numpy.typing import NDArray

from localprobe.errors import ModelError

GGML_TYPE_F32 = 0
GGML_TYPE_I32 = 26
FLAG_COMPUTE = 16


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` (ggml.h) on a 64-bit machine."""

    _fields_ = [
        ("type", ctypes.c_int32),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int32),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
    ]


class _InitParams(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


_FOLDER = Path(llama_cpp.__file__).parent / "lib"


def _load_libraries() -> list[ctypes.CDLL]:
    # On Linux and macOS libggml finds the symbols of the others; Windows needs them by name.
    found = []
    for name in ("ggml", "ggml-base", "ggml-cpu"):
        try:
            found.append(load_shared_library(name, _FOLDER))
        except FileNotFoundError:
            continue
    return found


_LIBRARIES = _load_libraries()


def of_the_cpu() -> list[Path]:
    """The files, as installed, of what multiplies on the CPU; none in a build of another shape."""
    names = ("libggml-cpu.so", "libggml-cpu.dylib", "ggml-cpu.dll")
    return [path for name in names if (path := _FOLDER / name).is_file()]


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml by its name and types. Raises ModelError where this build has none."""
    for library in _LIBRARIES:
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype = result
            function.argtypes = list(arguments)
            return function
    raise ModelError(
        f"this build of llama-cpp-python does not export {name}; "
        "install a llama-cpp-python within the range that localprobe asks for"
    )


_ptr, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_nbytes = function("ggml_nbytes", _size, _ptr)
_get = function("ggml_backend_tensor_get", None, _ptr, _ptr, _size, _size)
_set = function("ggml_backend_tensor_set", None, _ptr, _ptr, _size, _size)
_op_name = function("ggml_op_name", ctypes.c_char_p, _int)
_validate = function("ggml_validate_row_data", ctypes.c_bool, _int, _ptr, _size)


def at(address: int) -> Tensor:
    """The tensor at an address. It is ggml's memory, not a copy."""
    return Tensor.from_address(address)


def op_name(op: int) -> str:
    """Of the op of a node."""
    name: bytes = _op_name(op)
    return name.decode()


def read(address: int) -> NDArray[Any]:
    """The data of a contiguous float32 or int32 tensor: (rows, columns), or (n,) when int32.

    Raises ModelError for any other type or layout.
    """
    tensor = at(address)
    columns, rows = tensor.ne[0], tensor.ne[1] * tensor.ne[2] * tensor.ne[3]
    dtype = {GGML_TYPE_F32: np.float32, GGML_TYPE_I32: np.int32}.get(tensor.type)
    if dtype is None or tensor.nb[0] != 4 or _nbytes(address) != 4 * columns * rows:
        raise ModelError(f"the node {tensor.name.decode()} is not a contiguous float32 array")
    data = np.empty((rows, columns), dtype)
    _get(address, data.ctypes.data, 0, data.nbytes)
    return data.reshape(-1) if dtype is np.int32 else data


def write(address: int, rows: NDArray[np.float32], first_row: int = 0) -> None:
    """Overwrite `len(rows)` rows of a contiguous float32 tensor, from `first_row` on.

    A row may be several of ggml's: those of the streams of a token lie one after another.
    """
    data = np.ascontiguousarray(rows, np.float32)
    tensor = at(address)
    total = tensor.ne[0] * tensor.ne[1] * tensor.ne[2] * tensor.ne[3]
    width = data.shape[1]
    if width % tensor.ne[0] or (first_row + len(data)) * width > total:
        raise ValueError(f"{data.shape} does not fit {tensor.name.decode()} from {first_row}")
    _set(address, data.ctypes.data, first_row * 4 * width, data.nbytes)


def zero(address: int) -> None:
    """Overwrite a contiguous float32 tensor with zeros. Raises ModelError for any other."""
    tensor = at(address)
    size = 4 * tensor.ne[0] * tensor.ne[1] * tensor.ne[2] * tensor.ne[3]
    if tensor.type != GGML_TYPE_F32 or _nbytes(address) != size:
        raise ModelError(f"the node {tensor.name.decode()} is not a contiguous float32 array")
    _set(address, bytes(size), 0, size)


def all_finite(type: int, address: int, size: int) -> bool:
    """Whether weights of a type, `size` bytes of whole blocks, are finite numbers."""
    return bool(_validate(type, address, size))


def new_context(size: int = 1 << 20) -> int:
    """Room for tensors without their data, or for graphs; to be given back by ggml_free."""
    init = function("ggml_init", _ptr, _InitParams)
    return int(init(_InitParams(size, None, True)))


def _prove_layout() -> tuple[dict[str, int], bool]:
    """Check every field of `Tensor` that we use.

    Gives the numbers of the ops that we look for, and whether flags are what we think.
    """
    free = function("ggml_free", None, _ptr)
    new_1d = function("ggml_new_tensor_1d", _ptr, _ptr, _int, ctypes.c_int64)
    new_2d = function("ggml_new_tensor_2d", _ptr, _ptr, _int, ctypes.c_int64, ctypes.c_int64)
    set_name = function("ggml_set_name", _ptr, _ptr, ctypes.c_char_p)
    new_add = function("ggml_add", _ptr, _ptr, _ptr, _ptr)
    new_get_rows = function("ggml_get_rows", _ptr, _ptr, _ptr, _ptr)

    new_mul_mat = function("ggml_mul_mat", _ptr, _ptr, _ptr, _ptr)
    new_mul_mat_id = function("ggml_mul_mat_id", _ptr, _ptr, _ptr, _ptr, _ptr)
    new_set_rows = function("ggml_set_rows", _ptr, _ptr, _ptr, _ptr, _ptr)
    new_cpy = function("ggml_cpy", _ptr, _ptr, _ptr, _ptr)
    new_soft_max = function(
        "ggml_soft_max_ext", _ptr, _ptr, _ptr, _ptr, ctypes.c_float, ctypes.c_float
    )
    new_flash = function("ggml_flash_attn_ext", _ptr, *[_ptr] * 5, *[ctypes.c_float] * 3)
    get_data = function("ggml_get_data", _ptr, _ptr)
    new_view = function("ggml_view_1d", _ptr, _ptr, _ptr, ctypes.c_int64, _size)
    new_graph = function("ggml_new_graph", _ptr, _ptr)
    expand = function("ggml_build_forward_expand", None, _ptr, _ptr)

    context = new_context()
    try:
        left = new_2d(context, GGML_TYPE_F32, 3, 5)
        right = new_2d(context, GGML_TYPE_F32, 3, 5)
        index = new_1d(context, GGML_TYPE_I32, 2)
        total = new_add(context, left, right)
        picked = new_get_rows(context, total, index)
        set_name(total, b"localprobe-proof")
        stored = new_set_rows(context, left, picked, index)
        copied = new_cpy(context, left, right)
        view = new_view(context, right, 3, 12)
        product = new_mul_mat(context, left, right)
        chosen = new_mul_mat_id(context, left, right, new_1d(context, GGML_TYPE_I32, 5))
        masked = new_soft_max(context, left, right, 1.0, 0.0)
        attended = new_flash(context, left, right, right, None, 1.0, 0.0, 0.0)
        ops = {
            "ADD": at(total).op,
            "GET_ROWS": at(picked).op,
            "SET_ROWS": at(stored).op,
            "CPY": at(copied).op,
            "MUL_MAT": at(product).op,
            "MUL_MAT_ID": at(chosen).op,
            "SOFT_MAX": at(masked).op,
            "FLASH_ATTN_EXT": at(attended).op,
        }
        at(index).data = 48  # nobody looks there
        flags_before = at(total).flags
        expand(new_graph(context), picked)
        flags_proved = flags_before == 0 and at(total).flags == at(picked).flags == FLAG_COMPUTE
        proved = (
            # The numbers are small before they are given to ggml_op_name, which trusts them.
            all(0 < op < 96 and _op_name(op) == name.encode() for name, op in ops.items())
            and at(view).view_src == right
            and at(view).view_offs == 12
            and at(stored).view_src == left
            and at(copied).view_src == right
            and at(total).name == b"localprobe-proof"
            and at(total).type == GGML_TYPE_F32
            and at(index).type == GGML_TYPE_I32
            and list(at(total).ne) == [3, 5, 1, 1]
            and list(at(total).nb) == [4, 12, 60, 60]
            and list(at(total).src) == [left, right] + [None] * 8
            and list(at(picked).src)[:2] == [total, index]
            and list(at(masked).src)[:2] == [left, right]
            and list(at(attended).src)[:3] == [left, right, right]
            and get_data(index) == 48
        )
    finally:
        free(context)
    if not proved:
        raise ModelError(
            "this build of llama-cpp-python lays out its tensors in a way that localprobe does "
            "not know; install a version within the range that localprobe asks for"
        )
    return ops, flags_proved


_OPS, FLAGS_PROVED = _prove_layout()
OP_ADD, OP_GET_ROWS = _OPS["ADD"], _OPS["GET_ROWS"]
OP_SET_ROWS, OP_CPY = _OPS["SET_ROWS"], _OPS["CPY"]
OP_MUL_MAT, OP_MUL_MAT_ID = _OPS["MUL_MAT"], _OPS["MUL_MAT_ID"]
OP_SOFT_MAX, OP_FLASH_ATTN_EXT = _OPS["SOFT_MAX"], _OPS["FLASH_ATTN_EXT"]
