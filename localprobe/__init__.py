"""localprobe: overwrite hidden states of quantized GGUF models and watch the answer change.

The library is in `localprobe.api`; its names can be imported from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localprobe.api import (
        Model,
        attention,
        lens,
        load_run,
        map_task,
        probe,
        states,
        swap,
        sweep,
        token_map,
        transition,
    )
    from localprobe.errors import LocalprobeError

__version__: str
__all__ = [
    "LocalprobeError",
    "Model",
    "attention",
    "lens",
    "load_run",
    "map_task",
    "probe",
    "states",
    "swap",
    "sweep",
    "token_map",
    "transition",
]


def __getattr__(name: str) -> Any:
    # llama.cpp is loaded when it is needed, and the package's record is read when it is asked for,
    # so that localprobe --help is there at once.
    if name == "__version__":
        from importlib.metadata import version

        return version("localprobe")
    if name == "LocalprobeError":
        return import_module("localprobe.errors").LocalprobeError
    if name in __all__:
        return getattr(import_module("localprobe.api"), name)
    raise AttributeError(f"module 'localprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", *(name for name in globals() if name.startswith("__"))])
