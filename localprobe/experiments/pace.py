"""How long the rest takes, judged by what was done."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping


class Pace:
    """Seconds per unit of work, kind of work by kind. clock: seconds from whenever."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._last = clock()
        self._seconds: dict[str, float] = defaultdict(float)
        self._done: dict[str, float] = defaultdict(float)

    def did(self, kind: str, work: float) -> None:
        """Note what the time since the last note went into."""
        now = self._clock()
        self._seconds[kind] += now - self._last
        self._done[kind] += work
        self._last = now

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    def left(self, todo: Mapping[str, float]) -> float | None:
        """Seconds for this much more work of each kind; None before anything was done.

        A kind not met yet is taken to go like the others: work must be in one unit.
        """
        done = sum(self._done.values())
        if not done:
            return None
        usual = sum(self._seconds.values()) / done
        return sum(
            work * (self._seconds[kind] / self._done[kind] if self._done[kind] else usual)
            for kind, work in todo.items()
        )
