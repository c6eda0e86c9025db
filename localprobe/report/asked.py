"""Long work is asked where it is: by SIGINFO (Ctrl-T on macOS and BSD) or SIGUSR1 (kill -USR1)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = [getattr(signal, name) for name in ("SIGINFO", "SIGUSR1") if hasattr(signal, name)]


@contextmanager
def asked() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether somebody has asked since it was called last.

    The handler does no more than to note that: it may run while something is being written.
    Outside the main thread, which alone gets signals, nobody asks.
    """
    came: list[int] = []

    def has_asked() -> bool:
        found = bool(came)
        came.clear()
        return found

    if threading.current_thread() is not threading.main_thread():
        yield has_asked
        return
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in _SIGNALS}
    try:
        yield has_asked
    finally:
        for number, handler in before.items():
            if handler is not None:  # of C, which Python cannot set again
                signal.signal(number, handler)
