"""Graphs that ggml computes on the CPU for us, and not for llama.cpp.

The operators and their operands are the same, and so is every bit. But llama.cpp lets the memory
that operators work in begin anywhere, and where that is in the middle of a cache line, processors
fetch two lines for one: products of many rows take up to a tenth longer, attention a quarter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from weakref import finalize

import numpy as np

from localprobe.errors import ModelError
from localprobe.llama import ggml
from localprobe.llama.devices import own_devices

MANY_ROWS = 128
"""From so many rows a decode on it pays. Two tiles of flash attention."""

_LINE = 64
"""Bytes of a cache line."""

_OP_NONE = 0

_ptr, _int, _size, _bool = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_bool


class Plan(ctypes.Structure):
    """`struct ggml_cplan` (ggml-cpu.h): how a graph is computed."""

    _fields_ = [
        ("work_size", _size),
        ("work_data", _ptr),
        ("n_threads", _int),
        ("threadpool", _ptr),
        ("abort_callback", _ptr),
        ("abort_callback_data", _ptr),
        ("use_ref", _bool),
    ]


@cache
def is_possible() -> bool:
    """Whether this build lets others compute, and llama.cpp computes by nothing else on the CPU."""
    try:
        Computing(1)
    except ModelError:
        return False
    return all(device.kind != "accel" for device in own_devices())


class Nodes:
    """A graph of nodes, each behind those that it is computed from. They are not copied."""

    def __init__(self, addresses: Sequence[int]) -> None:
        size = 16 * len(addresses)  # nodes, and what they are computed from
        overhead = ggml.function("ggml_graph_overhead_custom", _size, _size, _bool)
        context = ggml.new_context(overhead(size, False))
        finalize(self, ggml.function("ggml_free", None, _ptr), context)
        new_graph = ggml.function("ggml_new_graph_custom", _ptr, _ptr, _size, _bool)
        self.address: int = new_graph(context, size, False)
        expand = ggml.function("ggml_build_forward_expand", None, _ptr, _ptr)
        nodes = [ggml.at(address) for address in addresses]
        flags = [node.flags for node in nodes]
        for address, node in zip(addresses, nodes, strict=True):
            if node.op != _OP_NONE:
                expand(self.address, address)
        for node, before in zip(nodes, flags, strict=True):
            node.flags = before  # all were switched on


class Computing:
    """Computes graphs, one at a time, by so many threads.

    Raises ModelError where this build of ggml cannot be asked to.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._room = np.empty(0, np.uint8)
        self._plan = ggml.function("ggml_graph_plan", Plan, _ptr, _int, _ptr)
        self._compute = ggml.function("ggml_graph_compute", _int, _ptr, _ptr)

    def plan(self, nodes: Nodes) -> Plan:
        """Holds for as long as no node changes its shape, whichever are computed."""
        plan: Plan = self._plan(nodes.address, self._threads, None)
        return plan

    def compute(self, nodes: Nodes, plan: Plan) -> None:
        """Those of the nodes that are switched on."""
        if len(self._room) < plan.work_size + _LINE:
            self._room = np.empty(plan.work_size + _LINE, np.uint8)
        start = self._room.ctypes.data
        plan.work_data = start + -start % _LINE
        if self._compute(nodes.address, ctypes.byref(plan)):
            raise ModelError("ggml could not compute a part of the graph")
