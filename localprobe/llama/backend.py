"""llama.cpp's library as a whole: started once, and what it complains of kept."""

from __future__ import annotations

import os

import llama_cpp.llama_cpp as llama

from localprobe.files.foreign import printable

RANGE = "llama-cpp-python>=0.3.36,<0.3.37"
"""As in pyproject.toml."""
_LOG_LEVEL_ERROR = 4

_log: list[str] = []
_started = False


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_errors(level: int, text: bytes, _user_data: object) -> None:
    if level == _LOG_LEVEL_ERROR:
        _log.append(text.decode(errors="replace").strip())


def how_to_build(flags: str) -> str:
    """The command that compiles a llama.cpp of that range here, with flags for CMake."""
    return f'CMAKE_ARGS="{flags}" pip install "{RANGE}" --force-reinstall --no-cache-dir'


def start() -> None:
    """Before anything else is asked of llama.cpp."""
    global _started
    if not _started:
        # Where llama.cpp gives up, it would start a debugger on us.
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        llama.llama_log_set(_keep_errors, None)
        llama.llama_backend_init()
        _started = True


def forget_errors() -> None:
    """Before a call whose `last_error` is of interest."""
    _log.clear()


def last_error() -> str:
    """The first thing llama.cpp complained of since then: later ones follow from it."""
    said = [line for line in _log if line]
    return printable(said[0]) if said else "llama.cpp gave no reason"
