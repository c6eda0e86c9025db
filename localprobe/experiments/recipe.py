"""patches/*.toml: whole experiments as data.

    description = "…"
    model = "smollm2-135m"
    interventions = ["freeze"]

    [tasks.capitals]
    n = 20

Every task is one sweep; what stands above the tasks holds for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.experiments.experiment import PROMPTS, Experiment
from localprobe.files.cache import user_path
from localprobe.files.resources import recipe_files
from localprobe.files.tomlfile import TomlFile
from localprobe.runs.tally import patches
from localprobe.tasks import NAMES as TASKS

_SWEEP_KINDS: dict[str, type[Any]] = {
    "interventions": list,
    "layers": str,
    "n": int,
    "seed": int,
    "metric": str,
    "all_examples": bool,
    "max_tokens": int,
    "max_prompt_tokens": int,
    "template": str,
    "shots": int,
    "prompts": str,
    "data": str,
    "digits": int,
    "chat": bool,
    "patience": int,
    "check": float,
    "keep": float,
    "until_width": int,
    "adaptive": bool,
    "width": float,
}
_TOP_KINDS: dict[str, type[Any]] = {
    "description": str,
    "model": str,
    "gpu_layers": int,
    "devices": list,
    "rpc": str,
    "attention": str,
    "tasks": dict,
    **_SWEEP_KINDS,
}
_KIND_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number such as 0.5",
    list: "a list",
    bool: "true or false",
}
_AT_LEAST = {
    "gpu_layers": -1,
    "n": 1,
    "seed": 0,
    "max_tokens": 1,
    "max_prompt_tokens": 1,
    "shots": 0,
    "digits": 1,
    "patience": 1,
    "until_width": 0,
}


@dataclass(frozen=True)
class Recipe:
    """A model and the experiments to make on it.

    gpu_layers, devices, rpc, attention: where and how the model is to be computed, as on the
    command line.
    """

    name: str
    description: str
    model: str
    experiments: tuple[Experiment, ...]
    gpu_layers: int | str | None = None
    devices: tuple[str, ...] = ()
    rpc: str = ""
    attention: str | None = None


def recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of a .toml file.

    Raises LocalprobeError for an unknown name, and for a file that says where it is wrong.
    """
    path = user_path(name) if name.startswith("~") else Path(name)
    if path.suffix.lower() == ".toml":
        return _recipe(TomlFile(path))
    files = {each.stem: each for each in recipe_files()}
    if name not in files:
        raise LocalprobeError(f"unknown recipe {name!r}; {did_you_mean(name, files)}")
    return _recipe(TomlFile(files[name]))


def _recipe(file: TomlFile) -> Recipe:
    _check(file, file.data, "", _TOP_KINDS)
    for key in ("description", "model", "tasks"):
        if key not in file.data:
            raise file.error(f"the recipe lacks {'[tasks.NAME]' if key == 'tasks' else key}")
    common = {key: value for key, value in file.data.items() if key in _SWEEP_KINDS}
    experiments = []
    for task, settings in file.data["tasks"].items():
        table = f"tasks.{task}"
        if task not in TASKS:
            raise file.error(f"unknown task {task!r}; {did_you_mean(task, TASKS)}", table)
        if not isinstance(settings, dict):
            raise file.error(f"{task} must be a table: [tasks.{task}]", "tasks", task)
        _check(file, settings, table, _SWEEP_KINDS)
        experiments.append(_experiment(file, task, {**common, **settings}))
    if not experiments:
        raise file.error("the recipe names no task")
    return Recipe(
        file.path.stem,
        file.data["description"],
        file.data["model"],
        tuple(experiments),
        file.data.get("gpu_layers"),
        tuple(map(str, file.data.get("devices", ()))),
        file.data.get("rpc", ""),
        file.data.get("attention"),
    )


def _check(
    file: TomlFile, values: dict[str, Any], table: str, kinds: Mapping[str, type[Any]]
) -> None:
    for key, value in values.items():
        if key not in kinds:
            raise file.error(f"unknown key {key!r}; {did_you_mean(key, kinds)}", table, key)
        is_number = kinds[key] is float and type(value) is int
        is_auto = (key, value) == ("gpu_layers", "auto")
        if type(value) is not kinds[key] and not is_number and not is_auto:
            kind = _KIND_NAMES.get(kinds[key], "a table")
            raise file.error(f"{key} must be {kind}, not {value!r}", table, key)
        if key in _AT_LEAST and type(value) is int and value < _AT_LEAST[key]:
            raise file.error(f"{key} must be at least {_AT_LEAST[key]}, not {value}", table, key)
        if key == "prompts" and value not in PROMPTS:
            hint = did_you_mean(value, PROMPTS)
            raise file.error(f"unknown prompts {value!r}; {hint}", table, key)
        for patch in value if key == "interventions" else ():
            if patch not in patches():
                hint = did_you_mean(str(patch), patches())
                raise file.error(f"unknown intervention {patch!r}; {hint}", table, key)


def _experiment(file: TomlFile, task: str, values: dict[str, Any]) -> Experiment:
    if not values.get("interventions"):
        raise file.error("the recipe lacks interventions", f"tasks.{task}")
    named = tuple(values.pop("interventions"))
    if "data" in values:
        # As in a script beside its data: from the folder of the recipe.
        data = values["data"]
        values["data"] = user_path(data) if data.startswith("~") else file.path.parent / data
    return Experiment(task, named, **values)
