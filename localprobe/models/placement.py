"""How many blocks of a model, and which, go to which device: by the memory that they need.

What is needed is estimated from the GGUF alone, before anything is loaded: weights as they lie in
the file, a float32 cache, and what a decode needs beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from localprobe.errors import LocalprobeError
from localprobe.llama.devices import Device, Placement
from localprobe.models.header import Array, Header

AUTO = "auto"
ALL = -1

_EXPECTED_TOKENS = 2048
"""What room is made for where nobody says how long prompts are; a context grows with them."""
_LEFT_ALONE, _SHARE_LEFT_ALONE = 200e6, 0.05
"""Of a device's free memory: its driver needs some, and so do others who use it."""
_STEPS = 20
"""Free memory changes all the time. Compared in so many steps, it gives the same split again."""


def parse_gpu_layers(text: str | int) -> int | str:
    """A number of layers, -1 for all, or auto. Raises LocalprobeError for anything else."""
    if isinstance(text, int) and not isinstance(text, bool) and text >= ALL:
        return text
    word = str(text).strip().lower()
    if word == AUTO:
        return AUTO
    if word == str(ALL) or (word.isascii() and word.isdecimal() and len(word) < 7):
        return int(word)
    raise LocalprobeError(f"--gpu-layers must be a number, -1 for all, or auto, not {text!r}")


@dataclass(frozen=True)
class Needs:
    """Bytes. layers: of each block, and of the output as the last, with the cache.

    buffers: on every device that has a part of the model.
    """

    layers: tuple[float, ...]
    buffers: float

    def of(self, first: int, count: int) -> float:
        return sum(self.layers[first : first + count]) + self.buffers if count else 0.0


def needs(header: Header, ctx: int = 0) -> Needs:
    """What a model needs. ctx: the longest sequence, 0 where that is not known."""
    architecture = header.metadata["general.architecture"]
    assert isinstance(architecture, bytes)
    prefix = architecture.decode(errors="replace")

    def number(name: str, otherwise: float) -> float:
        value = header.metadata.get(f"{prefix}.{name}", otherwise)
        if isinstance(value, Array):
            value = max((float(each) for each in value.numbers()), default=otherwise)
        return float(value) if isinstance(value, int | float) else otherwise

    n_layer = int(number("block_count", 1))
    weights = [0.0] * (n_layer + 1)
    sizes = {tensor.name: tensor.size for tensor in header.tensors}
    for name, size in sizes.items():
        kind, _, rest = name.partition(".")
        block = rest.partition(".")[0]
        if kind == "blk" and block.isdecimal() and int(block) < n_layer:
            weights[int(block)] += size
        elif name.startswith("output"):
            weights[n_layer] += size
    if "output.weight" not in sizes:
        weights[n_layer] += sizes.get("token_embd.weight", 0)  # tied: a copy of it
    trained = number("context_length", _EXPECTED_TOKENS)
    n_tokens = ctx or min(trained, _EXPECTED_TOKENS)
    n_embd, n_head = number("embedding_length", 1), number("attention.head_count", 1)
    head = n_embd / max(1.0, n_head)
    per_head = number("attention.key_length", head) + number("attention.value_length", head)
    cache = 4 * n_tokens * number("attention.head_count_kv", n_head) * per_head
    return Needs(
        (*(size + cache for size in weights[:-1]), weights[-1]),
        4 * n_tokens * (2 * n_head * n_tokens + 16 * n_embd),
    )


def place(needed: Needs, devices: Sequence[Device], asked: int | str) -> Placement:
    """Where the last layers go. asked: how many of them, ALL or AUTO: as many as there is room for.

    Raises LocalprobeError, with figures, where devices have no room for what was asked.
    """
    total = len(needed.layers)
    rooms = [_room(device) for device in devices]
    if asked == AUTO:
        most = sum(_filled(needed, rooms, total))
        return _placement(needed, devices, rooms, most)
    assert isinstance(asked, int)
    wanted = total if asked == ALL else min(asked, total)
    placement = _placement(needed, devices, rooms, wanted)
    if placement.n_placed < wanted:
        most = placement.n_placed
        size = needed.of(total - wanted, wanted)
        raise LocalprobeError(
            f"{wanted} of {total} layers need about {size / 1e9:.1f} GB on "
            f"{', '.join(device.name for device in devices)}, where "
            f"{_free_text(devices)} are free; with --gpu-layers {most} they fit"
        )
    return placement


def _placement(
    needed: Needs, devices: Sequence[Device], rooms: Sequence[float], wanted: int
) -> Placement:
    """By shares of free memory, where that fits; else filled up from the last device on."""
    counts = _in_proportion(rooms, wanted)
    if not _fits(needed, rooms, counts):
        counts = _filled(needed, rooms, wanted)
    shares = tuple((d, count) for d, count in zip(devices, counts, strict=True) if count)
    return Placement(len(needed.layers) - 1, shares)


def _room(device: Device) -> float:
    free, total = device.memory()
    if not total:
        return math.inf
    return max(0.0, free - _LEFT_ALONE - _SHARE_LEFT_ALONE * free)


def _in_proportion(rooms: Sequence[float], wanted: int) -> list[int]:
    if not rooms:
        return []
    finite = [room for room in rooms if math.isfinite(room)]
    largest = max(finite, default=1.0)
    known = [room if math.isfinite(room) else largest for room in rooms]
    steps = [round(_STEPS * room / (sum(known) or 1)) for room in known]
    whole = sum(steps)
    if not whole:
        return [0] * len(rooms)
    counts, given = [], 0
    for number in range(len(steps)):
        until = -(-wanted * sum(steps[: number + 1]) // whole)  # a half goes to the first
        counts.append(until - given)
        given = until
    return counts


def _fits(needed: Needs, rooms: Sequence[float], counts: Sequence[int]) -> bool:
    first = len(needed.layers) - sum(counts)
    for room, count in zip(rooms, counts, strict=True):
        if needed.of(first, count) > room:
            return False
        first += count
    return True


def _filled(needed: Needs, rooms: Sequence[float], wanted: int) -> list[int]:
    """As many as there is room for, the last layers on the last device."""
    counts = [0] * len(rooms)
    first = len(needed.layers)
    for number in reversed(range(len(rooms))):
        while sum(counts) < wanted and needed.of(first - 1, counts[number] + 1) <= rooms[number]:
            first -= 1
            counts[number] += 1
    return counts


def _free_text(devices: Sequence[Device]) -> str:
    return " + ".join(f"{device.memory()[0] / 1e9:.1f} GB" for device in devices)


def what_was_chosen(placement: Placement) -> str:
    """By auto, in a sentence."""
    return (
        f"--gpu-layers auto: {placement.n_placed} of {placement.n_layer + 1} layers (blocks and "
        f"the output) fit, so that they lie as {placement}"
    )
