"""Tasks: data, prompts, answers, score.

In: options, files of data. Out: examples with their prompts, and scores of answers.
Must not know: models, engines, interventions. Adding a task touches nothing but this wing.
"""

from __future__ import annotations

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.tasks.arithmetic import Arithmetic
from localprobe.tasks.base import Task, TaskOptions
from localprobe.tasks.capitals import Capitals
from localprobe.tasks.cnn_dailymail import CnnDailymail
from localprobe.tasks.jsonl import Jsonl
from localprobe.tasks.squad import Squad

_TASKS = (Capitals, Arithmetic, Squad, CnnDailymail, Jsonl)
NAMES = tuple(task.name for task in _TASKS)


def task_by_name(name: str, options: TaskOptions = TaskOptions()) -> Task:  # noqa: B008
    """A task. Raises LocalprobeError if unknown, or for an option that it does not take."""
    for task in _TASKS:
        if task.name == name:
            for option in ("template", "shots", "data", "digits"):
                if getattr(options, option) is not None and option not in task.takes:
                    raise LocalprobeError(f"--{option} is not for the task {name}")
            return task(options)
    raise LocalprobeError(f"unknown task {name!r}; {did_you_mean(name, NAMES)}")
