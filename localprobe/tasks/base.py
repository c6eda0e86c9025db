"""What a task is to the rest of localprobe."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Example:
    """One prompt with its accepted answers.

    number: the example's place in the task's whole data; random draws depend on it.
    subject: the words that a swap replaces by another example's.
    """

    number: int
    prompt: str
    answers: tuple[str, ...]
    subject: str


class Task(Protocol):
    name: str
    metric: str
    max_tokens: int

    def examples(self) -> Sequence[Example]: ...

    def score(self, text: str, example: Example) -> float:
        """0 … 1 for what the model said after the prompt."""

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        """Whether the score for each of these examples is known without generating on."""


def fold(text: str) -> str:
    """Letters and digits only, without case or accents: São Tomé -> saotome."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in letters if unicodedata.category(c) in ("Ll", "Lo", "Nd"))


def exact_match(text: str, answers: Iterable[str]) -> float:
    """1 when the text up to its first line end is one of the answers, after folding; else 0."""
    said = fold(text.partition("\n")[0])
    return float(any(said == fold(answer) for answer in answers))


def can_become(text: str, answers: Iterable[str]) -> bool:
    """Whether a text without a line end so far may still become an exact match."""
    said = fold(text)
    return any(fold(answer).startswith(said) for answer in answers)
