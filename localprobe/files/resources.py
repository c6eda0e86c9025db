"""The data that stands at the top of the repository and inside the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def recipe_files() -> list[Path]:
    """The recipes that come with localprobe, by name."""
    return sorted(resource("patches").glob("*.toml"))


def resource(name: str) -> Path:
    """models.toml or patches: in the wheel inside the package, in a checkout one folder above."""
    shipped = _PACKAGE / name
    return shipped if shipped.exists() else _PACKAGE.parent / name
