"""How many threads llama.cpp takes, how they wait for one another, and who else wants the cores."""

from __future__ import annotations

import os
import time

import psutil

from localprobe.errors import LocalprobeError

_BUSY = 0.25
"""Of all cores: if others take this much, threads on every core wait for one another's turn."""
_TOO_SHORT = 0.1
"""Seconds; the system counts in hundredths."""


def checked(threads: int) -> int:
    """0: as many as there are cores. Raises LocalprobeError where they would stand in each
    other's way: llama.cpp's threads wait for each other in loops.
    """
    cores = os.cpu_count() or 1
    if threads > 4 * cores:
        raise LocalprobeError(
            f"{threads} threads are too many for the {cores} cores of this machine; more than "
            f"{cores} make it slower"
        )
    return threads or cores


class Others:
    """What other programs take of the processor, from when this is made on."""

    def __init__(self) -> None:
        self._started, self._all, self._own = time.monotonic(), _all_seconds(), _own_seconds()

    def advice(self) -> str:
        """A sentence where fewer threads than cores are likely to be faster; else empty."""
        elapsed = time.monotonic() - self._started
        cores = os.cpu_count() or 1
        if elapsed < _TOO_SHORT or cores == 1:
            return ""
        others = (_all_seconds() - self._all - (_own_seconds() - self._own)) / elapsed
        if others < _BUSY * cores:
            return ""
        threads = max(1, min(cores - 1, round(cores - others)))
        return (
            f"other programs take {min(others, cores):.1f} of this machine's {cores} cores; "
            f"--threads {threads} is likely to be faster"
        )


def _all_seconds() -> float:
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "steal"))


def _own_seconds() -> float:
    return sum(os.times()[:4])
