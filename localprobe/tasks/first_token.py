"""Any task of short answers, scored by the first token of what is said: nothing is generated.

Right is a token that a right answer begins with: of "Paris", ` Paris`, ` Par` and ` P`. So it is
right more often than a whole answer is, of small models above all.
"""

from __future__ import annotations

from collections.abc import Sequence

from localprobe.errors import LocalprobeError
from localprobe.tasks.base import FIRST_TOKEN, Example, Task
from localprobe.tasks.matching import begins


class FirstToken:
    """Another task, of which only the first token counts."""

    metrics = (FIRST_TOKEN,)
    max_tokens = 1
    has_right_answers = True
    max_prompt_tokens = None
    has_first_tokens = True

    def __init__(self, task: Task) -> None:
        if not getattr(task, "has_first_tokens", False):
            raise LocalprobeError(
                f"{FIRST_TOKEN} is for tasks whose answers are a few words, such as capitals, and "
                f"not for {task.name}"
            )
        self.name, self._task = task.name, task

    def examples(self) -> Sequence[Example]:
        return self._task.examples()

    def score(self, text: str, example: Example) -> dict[str, float]:
        return {FIRST_TOKEN: float(begins(text, example.answers))}

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        return True
