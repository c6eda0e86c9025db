"""What this build of llama.cpp can compute on, and which blocks of a model lie on what.

The CPU is always there. Anything else is a `Device` that takes a part of a model's layers: blocks,
and as the last layer the output matrix. Layers go to devices in order, and what is left over at
the start stays on the CPU, as in llama.cpp.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import llama_cpp.llama_cpp as llama
import psutil

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.files.foreign import printable
from localprobe.llama import backend, ggml

RPC = "RPC"
_KINDS = ("cpu", "gpu", "igpu", "accel", "meta")
"""By ggml's number of a device's type. accel: what the CPU uses by itself, BLAS, say."""

_ptr, _size, _int, _text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p


class _Properties(ctypes.Structure):
    """`struct ggml_backend_dev_props` (ggml-backend.h), without its capabilities."""

    _fields_ = [
        ("name", _text),
        ("description", _text),
        ("free", _size),
        ("total", _size),
        ("kind", _int),
        ("id", _text),
        ("capabilities", ctypes.c_bool * 64),  # five of them today
    ]


@dataclass(frozen=True)
class Device:
    """One device. kind: cpu, gpu, igpu (with the memory of the CPU) or accel.

    hardware: what it is by any backend's name, where known: CUDA and Vulkan may see the same card.
    """

    name: str
    description: str
    backend: str
    kind: str
    hardware: str | None
    address: int

    @property
    def usable(self) -> bool:
        """Whether blocks can be placed on it."""
        return self.kind in ("gpu", "igpu")

    def memory(self) -> tuple[int, int]:
        """Bytes that are free now, and all of them; 0 and 0 where the device does not say."""
        if self.kind == "cpu":  # of which ggml takes all to be free
            memory = psutil.virtual_memory()
            return int(memory.available), int(memory.total)
        free, total = _size(), _size()
        ask = ggml.function("ggml_backend_dev_memory", None, _ptr, _ptr, _ptr)
        ask(self.address, ctypes.addressof(free), ctypes.addressof(total))
        return int(free.value), int(total.value)

    def __str__(self) -> str:
        """For what is remembered and written down. A worker's address is no property of it."""
        what = self.backend if self.backend == RPC else f"{self.backend}, {self.description}"
        return f"{self.name} ({what})"


def own_devices() -> list[Device]:
    """The devices of this machine, by this build."""
    backend.start()
    count = ggml.function("ggml_backend_dev_count", _size)()
    get = ggml.function("ggml_backend_dev_get", _ptr, _size)
    return [device_at(get(number)) for number in range(count)]


def backends() -> list[str]:
    """What this build was made for, whether or not there is a device of that kind."""
    backend.start()
    count = ggml.function("ggml_backend_reg_count", _size)()
    get = ggml.function("ggml_backend_reg_get", _ptr, _size)
    name = ggml.function("ggml_backend_reg_name", _text, _ptr)
    return [_shown(name(get(number))) for number in range(count)]


def device_at(address: int) -> Device:
    registry = ggml.function("ggml_backend_dev_backend_reg", _ptr, _ptr)(address)
    backend_name = ggml.function("ggml_backend_reg_name", _text, _ptr)(registry)
    properties = _Properties()
    ask = ggml.function("ggml_backend_dev_get_props", None, _ptr, _ptr)
    ask(address, ctypes.addressof(properties))
    return Device(
        _shown(properties.name),
        _shown(properties.description),
        _shown(backend_name),
        _KINDS[properties.kind] if 0 <= properties.kind < len(_KINDS) else "unknown",
        _shown(properties.id) or None,
        address,
    )


def _shown(text: bytes | None) -> str:
    return printable((text or b"").decode(errors="replace"))


def chosen(known: Sequence[Device], names: Sequence[str]) -> list[Device]:
    """The devices of these names; where none is named, those that llama.cpp would take.

    Raises LocalprobeError for an unknown name, and for a device that takes no blocks.
    """
    if not names:
        return _all_that_make_sense(known)
    found: list[Device] = []
    for name in names:
        matching = [device for device in known if device.name.lower() == name.lower()]
        if not matching:
            hint = did_you_mean(name, [device.name for device in known])
            raise LocalprobeError(f"there is no device {name!r} (see localprobe devices); {hint}")
        (device,) = matching
        if device in found:
            raise LocalprobeError(f"the device {device.name} was named twice")
        if not device.usable and device.kind != "cpu":
            raise LocalprobeError(
                f"no blocks can be placed on {device.name}: the CPU uses it by itself"
            )
        found.append(device)
    if len(found) > 1 and any(device.kind == "cpu" for device in found):
        raise LocalprobeError(
            "blocks that are on no other device are on the CPU; it is named alone, or not at all"
        )
    return [device for device in found if device.usable]


def _all_that_make_sense(known: Sequence[Device]) -> list[Device]:
    """Workers, then cards, each once; graphics within the processor only where there is no card."""
    workers = [device for device in known if device.backend == RPC]
    cards: list[Device] = []
    for device in known:
        seen = device.hardware and device.hardware in [card.hardware for card in cards]
        if device.kind == "gpu" and device.backend != RPC and not seen:
            cards.append(device)
    if not cards:
        inner = [device for device in known if device.kind == "igpu"]
        cards = [device for device in inner if device.backend == inner[0].backend]
    return workers + cards


@dataclass(frozen=True)
class Placement:
    """Which layers of a model are where. n_layer: its blocks; the output is a layer more.

    shares: devices and how many layers each takes, in the order of the layers; what is left over
    at the start is on the CPU.
    """

    n_layer: int
    shares: tuple[tuple[Device, int], ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for device, _ in self.shares)

    @property
    def n_placed(self) -> int:
        """Layers that are not on the CPU: llama.cpp's n_gpu_layers."""
        return sum(count for _, count in self.shares)

    def blocks(self) -> Iterator[tuple[Device | None, int]]:
        """Devices and their numbers of blocks, from the first block on; None: the CPU."""
        left = self.n_layer + 1 - self.n_placed
        if left:
            yield None, min(left, self.n_layer)
        for number, (device, count) in enumerate(self.shares):
            has_output = number == len(self.shares) - 1
            yield device, count - has_output

    def share_of(self, device: Device | None) -> float:
        """The share of the blocks that lies on a device; None: on the CPU."""
        return sum(count for where, count in self.blocks() if where == device) / self.n_layer

    def __str__(self) -> str:
        """As in a table's head: "16 CPU + 14 CUDA0"."""
        return " + ".join(
            f"{n or 'output'} {device.name if device else 'CPU'}" for device, n in self.blocks()
        )

    @property
    def record(self) -> str:
        """What numbers depend on, in words: the same text, the same arithmetic."""
        return ", ".join(f"{n or 'output'} {device or 'CPU'}" for device, n in self.blocks())


@cache
def build() -> str:
    """A few digits that another build of llama.cpp, or one for other processors, has not.

    Nor one by another compiler, or by the same one told otherwise: the library itself counts.
    """
    said = [
        llama.llama_print_system_info(),
        ggml.function("ggml_version", _text)(),
        ggml.function("ggml_commit", _text)(),
        *(path.read_bytes() for path in ggml.of_the_cpu()),
    ]
    return hashlib.sha256(b"\n".join(said)).hexdigest()[:12]
