"""One multiplication by ggml on the CPU: tokens times weights of a type, in a layout.

with Product(Q8_0, weights, tokens, plain_layout()) as product:
    product.compute()
    product.found()
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from localprobe.llama import backend, ggml

if TYPE_CHECKING:
    from typing_extensions import Self

_DEVICE_CPU = 0

_ptr, _size, _int, _int64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64


class Product:
    """tokens (n_tokens, n_in) @ weights (n_out, n_in).T, the weights being of ggml's type `kind`.

    is_possible: whether llama.cpp would use that layout for these weights; else nothing is
    computed. threads: 0 for ggml's own number.
    """

    def __init__(
        self,
        kind: int,
        weights: NDArray[np.float32],
        tokens: NDArray[np.float32],
        layout: int,
        threads: int = 0,
    ) -> None:
        backend.start()
        function = ggml.function
        new_2d = function("ggml_new_tensor_2d", _ptr, _ptr, _int, _int64, _int64)
        place = function("ggml_backend_alloc_ctx_tensors_from_buft", _ptr, _ptr, _ptr)
        (n_out, n_in), n_tokens = weights.shape, len(tokens)
        self._contexts = [ggml.new_context(), ggml.new_context()]
        self._backend = function("ggml_backend_dev_init", _ptr, _ptr, ctypes.c_char_p)(_cpu(), None)
        if threads:
            set_threads = ctypes.CFUNCTYPE(None, _ptr, _int)(_of_cpu(b"ggml_backend_set_n_threads"))
            set_threads(self._backend, threads)
        weight = new_2d(self._contexts[0], kind, n_in, n_out)
        self._buffers = [place(self._contexts[0], layout)]
        token = new_2d(self._contexts[1], ggml.GGML_TYPE_F32, n_in, n_tokens)
        multiply = function("ggml_mul_mat", _ptr, _ptr, _ptr, _ptr)
        self._product = multiply(self._contexts[1], weight, token)
        self._graph = function("ggml_new_graph", _ptr, _ptr)(self._contexts[1])
        function("ggml_build_forward_expand", None, _ptr, _ptr)(self._graph, self._product)
        self._buffers.append(place(self._contexts[1], plain_layout()))
        supports = function("ggml_backend_dev_supports_op", ctypes.c_bool, _ptr, _ptr)
        self.is_possible = bool(supports(_cpu(), self._product))
        if self.is_possible:
            packed = np.empty(function("ggml_nbytes", _size, _ptr)(weight), np.uint8)
            quantize = function(
                "ggml_quantize_chunk", _size, _int, _ptr, _ptr, _int64, _int64, _int64, _ptr
            )
            quantize(kind, weights.ctypes.data, packed.ctypes.data, 0, n_out, n_in, None)
            put = function("ggml_backend_tensor_set", None, _ptr, _ptr, _size, _size)
            put(weight, packed.ctypes.data, 0, packed.nbytes)
            ggml.write(token, tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for buffer in self._buffers:
            ggml.function("ggml_backend_buffer_free", None, _ptr)(buffer)
        ggml.function("ggml_backend_free", None, _ptr)(self._backend)
        for context in self._contexts:
            ggml.function("ggml_free", None, _ptr)(context)

    def compute(self) -> None:
        ggml.function("ggml_backend_graph_compute", _int, _ptr, _ptr)(self._backend, self._graph)

    def found(self) -> NDArray[np.float32]:
        """(n_tokens, n_out)."""
        found: NDArray[np.float32] = ggml.read(self._product)
        return found


def plain_layout() -> int:
    """The kind of buffer in which weights lie as they are in the file."""
    return int(ggml.function("ggml_backend_dev_buffer_type", _ptr, _ptr)(_cpu()))


def other_layouts() -> list[int]:
    """The kinds of buffers that the CPU has beside the plain one; none where it does not say."""
    address = _of_cpu(b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    found = ctypes.CFUNCTYPE(ctypes.POINTER(_ptr), _ptr)(address)(_cpu())
    layouts: list[int] = []
    while found and found[len(layouts)]:
        layouts.append(found[len(layouts)])
    return layouts


def name_of(layout: int) -> bytes:
    name = ggml.function("ggml_backend_buft_name", ctypes.c_char_p, _ptr)(layout)
    return bytes(name)


def _cpu() -> int:
    return int(ggml.function("ggml_backend_dev_by_type", _ptr, _int)(_DEVICE_CPU))


def _of_cpu(name: bytes) -> int:
    """The address of a function that only the CPU's backend has; 0 where it has none."""
    registry = ggml.function("ggml_backend_dev_backend_reg", _ptr, _ptr)(_cpu())
    look_up = ggml.function("ggml_backend_reg_get_proc_address", _ptr, _ptr, ctypes.c_char_p)
    return int(look_up(registry, name) or 0)
