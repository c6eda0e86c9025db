"""Devices: which are chosen, and that a build for GPUs with nothing on them is the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import pytest

from localprobe.errors import LocalprobeError
from localprobe.llama import devices
from localprobe.llama.devices import Device, Placement, chosen, own_devices
from localprobe.llama.memory import check_fits_on
from localprobe.llama.model import Model


def device(name: str, backend: str = "CUDA", kind: str = "gpu", hardware: str | None = None):
    return Device(name, f"the {name}", backend, kind, hardware, 0)


CPU = device("CPU", "CPU", "cpu")
BLAS = device("BLAS", "BLAS", "accel")
CARD, SAME_CARD = device("CUDA0", hardware="pci:1"), device("Vulkan0", "Vulkan", hardware="pci:1")
INNER, INNER_TOO = device("Vulkan1", "Vulkan", "igpu"), device("SYCL0", "SYCL", "igpu")
WORKER = device("RPC0", devices.RPC)


def test_those_that_llama_cpp_would_take() -> None:
    assert chosen([CPU, BLAS], ()) == []
    assert chosen([CPU, CARD, SAME_CARD, INNER], ()) == [CARD]
    assert chosen([CPU, INNER, INNER_TOO], ()) == [INNER]
    # Workers come first; graphics within the processor do not count less for them.
    assert chosen([CPU, INNER, WORKER], ()) == [WORKER, INNER]


def test_those_that_are_named() -> None:
    assert chosen([CPU, CARD, SAME_CARD], ["vulkan0", "CUDA0"]) == [SAME_CARD, CARD]
    assert chosen([CPU, CARD], ["CPU"]) == []
    for names, reason in (
        (["CUDA1"], "no device 'CUDA1'.*did you mean CUDA0"),
        (["CUDA0", "cuda0"], "twice"),
        (["BLAS"], "uses it by itself"),
        (["CUDA0", "CPU"], "alone, or not at all"),
    ):
        with pytest.raises(LocalprobeError, match=reason):
            chosen([CPU, BLAS, CARD, SAME_CARD], names)


def test_this_machine_has_a_cpu() -> None:
    (cpu,) = [each for each in own_devices() if each.kind == "cpu"]
    free, total = cpu.memory()
    assert cpu.name == cpu.backend == "CPU" and cpu.description and not cpu.usable
    assert 0 < free <= total


def test_blocks_from_the_last_one_on() -> None:
    def shown(*shares: tuple[Device, int]) -> str:
        return str(Placement(4, shares))

    assert shown() == "4 CPU"
    assert shown((CARD, 1)) == "4 CPU + output CUDA0"
    assert shown((CARD, 2)) == "3 CPU + 1 CUDA0"
    assert shown((CARD, 4)) == "1 CPU + 3 CUDA0"
    assert shown((CARD, 5)) == "4 CUDA0"
    assert shown((WORKER, 2), (CARD, 2)) == "1 CPU + 2 RPC0 + 1 CUDA0"
    placement = Placement(4, ((WORKER, 2), (CARD, 2)))
    assert placement.n_placed == 4
    assert [placement.share_of(each) for each in (None, WORKER, CARD)] == [0.25, 0.5, 0.25]
    assert placement.record == "1 CPU, 2 RPC0 (RPC), 1 CUDA0 (CUDA, the CUDA0)"


@pytest.fixture
def parameters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What llama.cpp is given for the next model and its context."""
    seen: dict[str, Any] = {}
    load, make = llama.llama_model_load_from_file, llama.llama_init_from_model

    def loading(path: bytes, params: Any) -> Any:
        seen["model"] = params
        listed = ctypes.cast(params.devices, ctypes.POINTER(ctypes.c_void_p))
        seen["devices"] = [listed[0]]
        while listed and seen["devices"][-1] is not None:
            seen["devices"].append(listed[len(seen["devices"])])
        return load(path, params)

    def making(model: int, params: Any) -> Any:
        seen["context"] = params
        return make(model, params)

    monkeypatch.setattr(llama, "llama_model_load_from_file", loading)
    monkeypatch.setattr(llama, "llama_init_from_model", making)
    return seen


def test_no_layers_on_devices_is_the_cpu_in_every_build(
    tiny_file: Callable[[str], Path], parameters: dict[str, Any]
) -> None:
    """RPC cannot show these two, a GPU would: with an empty list of devices, which is not the same
    as none, none is taken; and nothing that is the CPU's is computed elsewhere."""
    for placement in (None, Placement(4, ())):
        with Model(tiny_file("llama"), threads=1, placement=placement) as model:
            model.plain_logits([1, 2, 3])
            assert model.devices == "cpu" and model.placement is None
            tiles = "AMX, " if model.in_tiles else ""
            assert model.checked_on == f"cpu, {tiles}build {devices.build()}"
        assert parameters["devices"] == [None]
        assert parameters["model"].devices and parameters["model"].n_gpu_layers == 0
        assert parameters["context"].op_offload is False


def test_what_llama_cpp_is_told_of_a_placement(
    tiny_file: Callable[[str], Path],
    parameters: dict[str, Any],
    two_workers: tuple[Any, Any],
) -> None:
    from localprobe.llama.rpc import Workers

    with Workers([worker.address for worker in two_workers]) as workers:
        placement = Placement(4, tuple(zip(workers.devices, (1, 3), strict=True)))
        with Model(tiny_file("llama"), placement=placement, workers=workers) as model:
            model.plain_logits([1, 2, 3])
    assert parameters["devices"] == [*(each.address for each in placement.devices), None]
    assert parameters["model"].n_gpu_layers == 4
    assert parameters["context"].op_offload is False


def test_too_little_memory_on_a_device_is_said_with_figures() -> None:
    check_fits_on("CUDA0", (2_000_000_000, 8_000_000_000), 1.9e9, "it", "take less")
    check_fits_on("CUDA0", (0, 0), 1e15, "it", "take less")  # which says nothing of its memory
    message = "it needs about 2.1 GB of memory on CUDA0, and 2.0 GB are free there; take less"
    with pytest.raises(LocalprobeError) as caught:
        check_fits_on("CUDA0", (2_000_000_000, 8_000_000_000), 2.1e9, "it", "take less")
    assert str(caught.value) == message


def test_a_context_is_asked_for_where_its_blocks_are(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []
    monkeypatch.setattr(
        "localprobe.llama.model.check_fits",
        lambda needed, _what, _remedy: asked.append(("CPU", needed)),
    )
    monkeypatch.setattr(
        "localprobe.llama.model.check_fits_on",
        lambda name, _memory, needed, _what, _remedy: asked.append((name, needed)),
    )
    monkeypatch.setattr(Device, "memory", lambda _self: (1, 1))
    with Model(tiny_file("llama"), threads=1) as model:
        whole = model.context_bytes(256)
        model.plain_logits([1, 2, 3])
        assert asked == [("CPU", whole)]
        asked.clear()
        model.placement = Placement(4, ((CARD, 2),))  # as if
        model._check_room()
    cache = 4 * 256 * 2 * 4 * 32 * 2 / 4
    assert asked == [("CPU", whole - cache / 4), ("CUDA0", whole - 3 * cache / 4)]
