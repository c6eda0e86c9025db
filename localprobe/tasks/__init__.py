"""Tasks: data, prompts, answers, score. Adding one touches no engine code."""

from __future__ import annotations

from collections.abc import Callable

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.tasks.base import Task
from localprobe.tasks.capitals import Capitals

TASKS: dict[str, Callable[[str | None], Task]] = {"capitals": Capitals}


def task_by_name(name: str, template: str | None = None) -> Task:
    """A task, with its own prompt template or another. Raises LocalprobeError if unknown."""
    if name not in TASKS:
        raise LocalprobeError(f"unknown task {name!r}; {did_you_mean(name, TASKS)}")
    return TASKS[name](template)
