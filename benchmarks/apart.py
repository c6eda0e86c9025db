"""An object that lives in a process of its own, with all that it imports.

PyTorch sets up AMX's tiles for itself, and so localprobe does without them where PyTorch is loaded:
in one process, each would be measured in the other's way.
"""

from __future__ import annotations

import importlib
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any


class Apart:
    """module.name(*arguments) in a new process; calling this calls a method of it there.

    Arguments and results are pickled. What is raised there ends this program, too.
    """

    def __init__(self, module: str, name: str, *arguments: object, **named: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        what = (theirs, module, name, arguments, named)
        self._process = context.Process(target=_serve, args=what, daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, method: str, *arguments: object, **named: object) -> Any:
        self._ours.send((method, arguments, named))
        try:
            found, error = self._ours.recv()
        except EOFError:
            raise SystemExit(f"the process of {method} died") from None
        if error:
            raise SystemExit(error)
        return found


def _serve(
    calls: Connection,
    module: str,
    name: str,
    arguments: tuple[object, ...],
    named: dict[str, object],
) -> None:
    made, error = None, ""
    try:
        made = getattr(importlib.import_module(module), name)(*arguments, **named)
    except (Exception, SystemExit) as raised:
        error = f"{type(raised).__name__}: {raised}"
    while True:
        try:
            method, given, options = calls.recv()
        except EOFError:
            return
        found = None
        if not error:
            try:
                found = getattr(made, method)(*given, **options)
            except (Exception, SystemExit) as raised:
                error = f"{type(raised).__name__}: {raised}"
        calls.send((found, error))
