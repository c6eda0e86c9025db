"""Ctrl-C while llama.cpp is at work.

Python runs its signal handlers between any two bytecodes, so also inside a callback that llama.cpp
makes, where an exception is lost: it cannot pass through C. So Ctrl-C is held back while llama.cpp
is at work, and raised as soon as it has come back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held_back(notice: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block instead of within it.

    notice: called when Ctrl-C is pressed, to end the work early; must not raise.
    Outside the main thread, which alone gets signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def remember(_number: int, _frame: object) -> None:
        nonlocal pressed
        pressed = True
        notice()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            raise KeyboardInterrupt
