"""The math task of the paper: short additions and subtractions, few-shot, exact match."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from localprobe.errors import LocalprobeError
from localprobe.tasks.base import EXACT_MATCH, Example, TaskOptions, Template, n_shots

_MOST_EXAMPLES = 1000
_N_SHOTS, _MOST_SHOTS = 4, 16
# Not the beginning of 8.5, 8,000 or 8/3.
_NUMBER = re.compile(r"\s*(-?\d+)(?!\d|[.,/]\d)")


class Arithmetic:
    """Additions and subtractions of numbers of so many digits, none with a negative result.

    The seed draws the problems and the solved ones in front of them, which are the same for all.
    Chance: the result of another one of these problems.
    """

    name = "math"
    metrics = (EXACT_MATCH,)
    has_right_answers = True
    max_prompt_tokens = None
    takes = ("template", "shots", "digits")

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:  # noqa: B008
        digits = 1 if options.digits is None else options.digits
        if not 1 <= digits <= 9:
            raise LocalprobeError(f"--digits must be 1 to 9, not {digits}")
        # A token a digit, the sum's own too, the space before and what ends the number.
        self.max_tokens = max(8, digits + 4)
        problems = _problems(digits, np.random.default_rng([options.seed, digits]))
        shots = n_shots(options, _N_SHOTS, _MOST_SHOTS)
        solved = "".join(f"{problem} = {result}\n" for problem, result in problems[:shots])
        # A problem's number does not depend on how many stand in front.
        numbered = list(enumerate(problems[_N_SHOTS:]))
        self._problems = numbered[max(0, shots - _N_SHOTS) :]
        self._template = Template(options.template or solved + "{problem} =", "problem")

    def examples(self) -> Sequence[Example]:
        return [
            Example(number, self._template.fill(problem=problem), (str(result),))
            for number, (problem, result) in self._problems
        ]

    def score(self, text: str, example: Example) -> dict[str, float]:
        """Whether the first thing said is the number, and not another that begins like it."""
        said = _NUMBER.match(text)
        right = said is not None and int(said[1]) == int(example.answers[0])
        return {EXACT_MATCH: float(right)}

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        """A number is over when something else follows; words are never one."""
        return not re.fullmatch(r"\s*-?\d*[.,/]?", text)


def _problems(digits: int, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Distinct problems with their results, in random order: all there are, or 1000 of them."""
    low, high = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits
    span = high - low
    if span * span <= 4 * _MOST_EXAMPLES:
        pairs = rng.permutation(2 * span * span)
    else:
        pairs = rng.integers(0, 2 * span * span, size=4 * _MOST_EXAMPLES)
    found: dict[str, int] = {}
    for number in pairs:
        (a, b), plus = divmod(int(number) // 2, span), int(number) % 2 == 0
        a, b = a + low, b + low
        if plus:
            found[f"{a} + {b}"] = a + b
        elif a >= b:
            found[f"{a} - {b}"] = a - b
        if len(found) == _MOST_EXAMPLES + _N_SHOTS:
            break
    return list(found.items())
