"""Does it fit into this machine's memory? Asked before it is taken."""

from __future__ import annotations

import psutil

from localprobe.errors import LocalprobeError

# Where memory runs out, systems stop programs instead of telling them. This much is left alone.
_LEFT_ALONE = 200e6


def check_fits(needed: float, what: str, remedy: str) -> str:
    """Raise LocalprobeError where so many bytes are more than memory and swap have left.

    A sentence where it fits, but only with swap, which is slow; else an empty text.
    """
    free = psutil.virtual_memory().available - _LEFT_ALONE
    swap = psutil.swap_memory().free
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


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
