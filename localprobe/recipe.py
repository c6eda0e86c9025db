"""patches/*.toml: whole experiments as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from localprobe.errors import did_you_mean
from localprobe.resources import resource
from localprobe.tomlfile import TomlFile

_KINDS: dict[str, type] = {
    "description": str,
    "task": str,
    "interventions": list,
    "layers": str,
    "n": int,
    "seed": int,
}


@dataclass(frozen=True)
class Recipe:
    """One sweep: a task, interventions, layers (as on the command line), examples, seed."""

    description: str
    task: str
    interventions: tuple[str, ...]
    layers: str
    n: int
    seed: int


def shipped_recipe(name: str) -> Recipe:
    """A recipe that comes with localprobe."""
    return _recipe(TomlFile(resource("patches") / f"{name}.toml"))


def _recipe(file: TomlFile) -> Recipe:
    values: dict[str, Any] = {}
    for key, value in file.data.items():
        if key not in _KINDS:
            raise file.error(f"unknown key {key!r}; {did_you_mean(key, _KINDS)}", key=key)
        if type(value) is not _KINDS[key]:
            raise file.error(f"{key} must be of kind {_KINDS[key].__name__}", key=key)
        values[key] = value
    for key in _KINDS:
        if key not in values:
            raise file.error(f"the recipe lacks the key {key!r}")
    values["interventions"] = tuple(map(str, values["interventions"]))
    return Recipe(**values)
