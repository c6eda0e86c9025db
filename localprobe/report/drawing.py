"""Matplotlib (the extra `plot`), loaded when something is drawn, and as itself wherever that is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files.foreign import printable


def loaded() -> Any:
    """matplotlib. Raises LocalprobeError where it is not there, or cannot be loaded."""
    try:
        import matplotlib
    except ImportError:
        raise LocalprobeError(
            "figures need matplotlib; run: pip install 'localprobe[plot]'"
        ) from None
    except Exception as error:  # of a matplotlibrc that is no text, say
        raise LocalprobeError(f"matplotlib cannot be loaded: {printable(str(error))}") from None
    return matplotlib


@contextmanager
def unstyled() -> Iterator[None]:
    """A figure that is made in it is the same everywhere: a matplotlibrc here may be a stranger's.

    Raises LocalprobeError where matplotlib is not there, or cannot be loaded.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        matplotlib = loaded()
        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            # Letters that the font lacks are drawn as boxes; that needs no warning.
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            yield
    finally:
        log.setLevel(level)
