"""Calls that recurse deeper than the usual stack allows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from localprobe.errors import LocalprobeError

_T = TypeVar("_T")
_lock = threading.Lock()


def with_stack(n_bytes: int, call: Callable[[], _T]) -> _T:
    """Do a call in a thread with a stack of so many bytes. LocalprobeError where there is none."""
    with ThreadPoolExecutor(1) as pool:
        # The size is one for all threads that are started meanwhile.
        with _lock:
            usual = threading.stack_size(n_bytes)
            try:
                called = pool.submit(call)
            except RuntimeError:
                reason = f"there are no {n_bytes >> 20} MB of memory for a stack"
                raise LocalprobeError(reason) from None
            finally:
                threading.stack_size(usual)
        return called.result()
