"""`localprobe devices` and `localprobe worker`: what there is to compute on, here and elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rich.text import Text

from localprobe.llama import rearranged
from localprobe.llama import rpc as workers_of
from localprobe.llama.devices import Device, backends, chosen, own_devices
from localprobe.llama.threads import checked
from localprobe.report.terminal import (
    new_table,
    print_document,
    say,
    shrink_only_last,
    stdout_console,
    visible,
)

_OF_THE_CPU = ("CPU", "BLAS", "RPC")


def list_devices(rpc: str, *, json: bool) -> None:
    with workers_of.Workers(workers_of.endpoints(rpc)) as workers, workers.watched():
        known = [*own_devices(), *workers.devices]
        memory = [device.memory() for device in known]
    usable = any(device.usable for device in known)
    can_rpc = workers_of.is_there()
    if json:
        print_document(
            {
                "devices": [
                    {
                        "name": device.name,
                        "description": device.description,
                        "backend": device.backend,
                        "kind": device.kind,
                        "memory_total": total or None,
                        "memory_free": free if total else None,
                        "usable": device.usable,
                    }
                    for device, (free, total) in zip(known, memory, strict=True)
                ],
                "backends": backends(),
                "gpu": usable,
                "rpc": can_rpc,
            }
        )
        return
    table = new_table("name", "backend")
    for header in ("memory", "free"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("blocks", no_wrap=True)
    table.add_column("what it is", overflow="ellipsis", no_wrap=True)
    for device, (free, total) in zip(known, memory, strict=True):
        shown = [f"{size / 1e9:.1f} GB" if total else "?" for size in (total, free)]
        table.add_row(
            Text(visible(device.name)),
            Text(visible(device.backend)),
            *shown,
            _takes_blocks(device),
            Text(visible(device.description)),
        )
    console = stdout_console()
    shrink_only_last(console, table)
    console.print(table)
    if not usable:
        say(_why_none())
    if advice := rearranged.advice():
        say(advice)
    if not can_rpc:
        say(f"no RPC, for several machines; to get it: {workers_of.HOW_TO_GET_IT}")


def _why_none() -> str:
    made_for = [name for name in backends() if name not in _OF_THE_CPU]
    if made_for:
        return f"no GPU: this llama-cpp-python was built for {', '.join(made_for)}, and sees none"
    return (
        "no GPU: this llama-cpp-python was built for the CPU alone; for CUDA, Metal or Vulkan, see "
        '"Use a GPU" in the manual'
    )


def _takes_blocks(device: Device) -> str:
    if device.kind == "cpu":
        return "rest"
    return "yes" if device.usable else "no"


def work(host: str, port: int, names: Sequence[str], threads: int) -> None:
    """Serve until Ctrl-C. Raises LocalprobeError where that cannot be done."""
    address = workers_of.resolved(host)
    port = workers_of.free_port(address, port)
    known = own_devices()
    devices = chosen(known, names) or [device for device in known if device.kind == "cpu"]
    if not workers_of.is_loopback(address):
        say(
            f"localprobe: llama.cpp's RPC has no authentication: whoever reaches {address}:{port} "
            "can use this machine, and may do it harm; for trusted networks only"
        )
    say(
        f"localprobe: a worker at {address}:{port}, on "
        f"{', '.join(device.name for device in devices)}; Ctrl-C ends it"
    )
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            workers_of.serve(address, port, devices, checked(threads))
        except BaseException as error:
            failed.append(error)

    # In a thread of its own: in the main one llama.cpp would not let Ctrl-C through.
    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    while serving.is_alive():
        serving.join(0.5)
    raise failed[0]
