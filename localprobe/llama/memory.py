"""Does it fit into this machine's memory? Asked before it is taken."""

from __future__ import annotations

import math
from pathlib import Path

import psutil

from localprobe.errors import LocalprobeError

# Where memory runs out, systems stop programs instead of telling them. This much is left alone.
_LEFT_ALONE = 200e6


def check_fits(needed: float, what: str, remedy: str) -> str:
    """Raise LocalprobeError where so many bytes are more than memory and swap have left.

    A sentence where it fits, but only with swap, which is slow; else an empty text.
    """
    free, swap = psutil.virtual_memory().available, psutil.swap_memory().free
    if (allowed := allowed_memory()) < free:
        free, swap = allowed, 0
    free -= _LEFT_ALONE
    if needed > free + swap:
        raise LocalprobeError(
            f"{what} needs about {_gigabytes(needed)} of memory, and "
            f"{_gigabytes(max(0, free))} are free; {remedy}"
        )
    if needed > free:
        return (
            f"{what} needs about {_gigabytes(needed)}, more than the {_gigabytes(max(0, free))} of "
            "memory that are free: it will swap, and be slow"
        )
    return ""


def free_memory() -> float:
    """Bytes that may be taken without swap."""
    available: int = psutil.virtual_memory().available
    return max(0.0, min(available, allowed_memory()) - _LEFT_ALONE)


def check_fits_on(
    name: str, memory: tuple[int, int], needed: float, what: str, remedy: str
) -> None:
    """Raise LocalprobeError where so many bytes are more than a device, by its name, has free.

    memory: its free and all its bytes; 0 and 0 where it does not say, and anything goes.
    """
    free, total = memory
    if total and needed > free:
        raise LocalprobeError(
            f"{what} needs about {_gigabytes(needed)} of memory on {name}, and {_gigabytes(free)} "
            f"are free there; {remedy}"
        )


def allowed_memory(root: Path = Path("/")) -> float:
    """Bytes that the control groups of this process leave it (Linux: containers, batch jobs).

    Infinite where there are none. root: where /proc and /sys are.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    left = math.inf
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        here = top / path.strip("/")
        # A group has what every group around it has. In a container, the outer ones are not seen.
        for folder in [here, *here.parents]:
            if folder.is_relative_to(top):
                left = min(left, _left_in(folder, *names))
    return left


def _left_in(folder: Path, limit: str, usage: str, prefix: str) -> float:
    try:
        most = (folder / limit).read_text(encoding="utf-8").strip()
        used = int((folder / usage).read_text(encoding="utf-8"))
        counts = dict(
            line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines()
        )
        # What was only read from files is given up when memory is needed.
        given_up = sum(
            int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive")
        )
        return math.inf if most == "max" else max(0, int(most) - used + given_up)
    except (OSError, ValueError):
        return math.inf


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
