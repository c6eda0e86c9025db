"""Ctrl-C and SIGTERM while llama.cpp is at work.

Python runs its signal handlers between any two bytecodes, so also inside a callback that llama.cpp
makes, where an exception is lost: it cannot pass through C. So signals are held back while
llama.cpp is at work, and handled as soon as it has come back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back(notice: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let the handlers of signals, which may raise, run at the end of the block.

    notice: called when a signal comes, to end the work early; must not raise.
    Outside the main thread, which alone gets signals, this does nothing; nor does it for signals
    that Python has no handler for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, _frame: object) -> None:
        came.append(number)
        notice()

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, remember)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for came_number in came:
            handler = handlers[signal.Signals(came_number)]
            assert callable(handler)
            handler(came_number, None)
