"""What a task is to the rest of localprobe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from localprobe.errors import LocalprobeError

EXACT_MATCH, PREFIX_MATCH = "exact_match", "prefix_match"
FIRST_TOKEN = "first_token"
RIGHT_OR_WRONG = (EXACT_MATCH, PREFIX_MATCH, FIRST_TOKEN)
"""The scores that are 0 or 1."""


@dataclass(frozen=True)
class Example:
    """One prompt with its accepted answers.

    number: the example's place in the task's whole data; random draws depend on it.
    subject: the words that a swap replaces, empty where the task has no swaps.
    partner: whose subject they are replaced by; None: the next example's.
    body: the characters [start, end) of the prompt that may be cut short, if any.
    """

    number: int
    prompt: str
    answers: tuple[str, ...]
    subject: str = ""
    partner: Example | None = None
    body: tuple[int, int] | None = None


class Task(Protocol):
    """Data, a prompt and a scorer.

    metrics: the scores, each 0 … 1; the first one is the task's own measure. An example is
    answered right where that is above 0.
    has_right_answers: False where answers are only better or worse, so that all examples are used.
    """

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def has_right_answers(self) -> bool: ...

    @property
    def max_prompt_tokens(self) -> int | None: ...

    def examples(self) -> Sequence[Example]: ...

    def score(self, text: str, example: Example) -> Mapping[str, float]:
        """Every metric for what the model said after the prompt."""

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        """Whether the scores for each of these examples are known without generating on."""


@dataclass(frozen=True)
class TaskOptions:
    """What a user may change about a task. None: as the task has it.

    shots: solved ones in front of the task's own prompt.
    """

    template: str | None = None
    data: Path | None = None
    digits: int | None = None
    seed: int = 0
    shots: int | None = None


def n_shots(options: TaskOptions, own: int, most: int) -> int:
    """How many solved ones are to stand in front of a task's own prompt.

    Raises LocalprobeError for more than there are, and beside a template, which has its own.
    """
    if options.shots is None:
        return own
    if options.template is not None:
        raise LocalprobeError(
            "--shots is for the task's own prompt; in a --template, write the solved ones out"
        )
    if not 0 <= options.shots <= most:
        raise LocalprobeError(f"--shots must be 0 to {most}, not {options.shots}")
    return options.shots


class Template:
    """A prompt with places in braces, each of which must stand in it once."""

    _PLACE = re.compile(r"\{([a-z_]+)\}")

    def __init__(self, text: str, *names: str) -> None:
        self.text, self._names = text, names
        found = self._PLACE.findall(text)
        known = ", ".join(f"{{{name}}}" for name in names)
        for name in found:
            if name not in names:
                raise LocalprobeError(f"the template has the unknown {{{name}}}; known: {known}")
        for name in names:
            if found.count(name) != 1:
                raise LocalprobeError(
                    f"the template must hold {{{name}}} once, not {found.count(name)} times"
                )

    def fill(self, **values: str) -> str:
        return self._PLACE.sub(lambda place: values[place[1]], self.text)

    def span(self, name: str, **values: str) -> tuple[int, int]:
        """Where the value of a place stands in the filled text."""
        before = self.text.partition(f"{{{name}}}")[0]
        start = len(self._PLACE.sub(lambda place: values[place[1]], before))
        return start, start + len(values[name])


def cut(example: Example, n_tokens: Callable[[str], int], most: int) -> Example:
    """The example with its body cut at the end of a word, so that its prompt has ≤ `most` tokens.

    Raises LocalprobeError where what stands around the body is too long by itself.
    """
    if example.body is None or n_tokens(example.prompt) <= most:
        return example
    start, end = example.body
    before, body, after = example.prompt[:start], example.prompt[start:end], example.prompt[end:]
    ends = [0, *(match.end() for match in re.finditer(r"\S+", body))]
    fits, too_long = 0, len(ends) - 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if n_tokens(before + body[: ends[middle]] + after) <= most:
            fits = middle
        else:
            too_long = middle
    if fits == 0:
        raise LocalprobeError(
            f"a prompt of {most} tokens has no room for any of the text of example "
            f"{example.number}; raise --max-prompt-tokens"
        )
    kept = body[: ends[fits]]
    return replace(example, prompt=before + kept + after, body=(start, start + len(kept)))


_MATCHED, _SUMMARISED = 200, 30


def chance(task: Task) -> dict[str, float]:
    """What guessing gives: the mean scores of the answers of other examples of the task.

    Each example of up to 200 (30 where scores take long), spread evenly, is given the first
    accepted answer of every other one. Empty where there are no others.
    """
    examples = task.examples()
    step = -(-len(examples) // (_MATCHED if task.has_right_answers else _SUMMARISED)) or 1
    some = examples[::step]
    if len(some) < 2:
        return {}
    counts = Counter(example.answers[0] for example in some)
    totals = dict.fromkeys(task.metrics, 0.0)
    for example in some:
        own = example.answers[0]
        for answer, count in counts.items():
            others = count - (answer == own)
            scores = task.score(answer, example) if others else {}
            for metric, score in scores.items():
                totals[metric] += others * score
    n_pairs = len(some) * (len(some) - 1)
    return {metric: total / n_pairs for metric, total in totals.items()}
