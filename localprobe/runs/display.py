"""How a record shows itself, in a figure or a notebook: by the wing above, when it is asked to."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def shown_by(name: str) -> Any:
    """A module of report/, looked up only when something is to be shown."""
    return import_module(f"localprobe.report.{name}")
