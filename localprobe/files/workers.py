"""Processes of our own, in which what comes from strangers does no harm."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path


def start(module: str) -> subprocess.Popen[str]:
    """Run `main` of a module, with pipes for its standard input and output."""
    here = str(Path(__file__).parents[2])
    paths = filter(None, [here, os.environ.get("PYTHONPATH")])
    # Not `-m`, which would look for modules in the working directory first.
    code = f"import sys; sys.path[:] = filter(None, sys.path); from {module} import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def end(worker: subprocess.Popen[str]) -> None:
    """Whatever it is doing."""
    worker.kill()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    worker.wait()


def bound(**limits: int) -> None:
    """In a worker: no more than this of what resource calls RLIMIT_…; without effect on Windows."""
    if sys.platform == "win32":
        return
    import resource

    for name, most in limits.items():
        what = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(what)[1]
        most = most if hard < 0 else min(most, hard)
        resource.setrlimit(what, (most, most))
