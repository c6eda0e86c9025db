"""SQuAD v1.1: a question about a passage; exact match and F1 with the official normalisation.

Rajpurkar et al., 2016; the scores are those of its evaluate-v1.1.py.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.tasks.base import EXACT_MATCH, Example, TaskOptions, Template
from localprobe.tasks.datafile import read_json

F1 = "f1"

TEMPLATE = (
    "Answer the question with words from the passage.\n\n"
    "Passage: The library of Elmsford was founded in 1887 by Ruth Carver, a printer.\n"
    "Question: Who founded the library?\n"
    "Answer: Ruth Carver\n\n"
    "Passage: {passage}\nQuestion: {question}\nAnswer:"
)


class Squad:
    """Questions whose answers stand in a passage: the official JSON file, or one of our own.

    Chance: the answer to another one of these questions.
    """

    name = "squad"
    metrics = (EXACT_MATCH, F1)
    max_tokens = 24
    has_right_answers = True
    max_prompt_tokens = None
    takes = ("template", "data")

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:  # noqa: B008
        self._template = Template(options.template or TEMPLATE, "passage", "question")
        self._path = options.data or Path(__file__).with_name("squad.json")

    def examples(self) -> Sequence[Example]:
        examples = [
            Example(number, self._template.fill(passage=passage, question=question), answers)
            for number, (passage, question, answers) in enumerate(
                self._questions(read_json(self._path))
            )
        ]
        if not examples:
            raise LocalprobeError(f"{self._path} holds no examples")
        return examples

    def score(self, text: str, example: Example) -> dict[str, float]:
        said = text.partition("\n")[0]
        return {
            EXACT_MATCH: max(float(normalised(said) == normalised(a)) for a in example.answers),
            F1: max(f1(said, answer) for answer in example.answers),
        }

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        return "\n" in text.lstrip(" ")

    def _questions(self, data: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        for i, article in enumerate(self._list(data, "data", "the file")):
            where = f"data[{i}]"
            for j, paragraph in enumerate(self._list(article, "paragraphs", where)):
                where = f"data[{i}].paragraphs[{j}]"
                passage = self._text(paragraph, "context", where)
                for k, question in enumerate(self._list(paragraph, "qas", where)):
                    place = f"{where}.qas[{k}]"
                    answers = tuple(
                        self._text(answer, "text", f"{place}.answers[{n}]")
                        for n, answer in enumerate(self._list(question, "answers", place))
                    )
                    if not answers:
                        raise self._error(f"{place} has no answers; SQuAD v1.1 has one at least")
                    yield passage, self._text(question, "question", place), answers

    def _list(self, record: Any, key: str, where: str) -> list[Any]:
        value = self._get(record, key, where)
        if not isinstance(value, list):
            raise self._error(f"{key} of {where} is not a list")
        return value

    def _text(self, record: Any, key: str, where: str) -> str:
        value = self._get(record, key, where)
        if not isinstance(value, str) or not value.strip():
            raise self._error(f"{key} of {where} is not a text")
        return value

    def _get(self, record: Any, key: str, where: str) -> Any:
        if not isinstance(record, dict) or key not in record:
            raise self._error(f"{where} lacks the key {key!r}")
        return record[key]

    def _error(self, message: str) -> LocalprobeError:
        return LocalprobeError(f"{self._path} is not SQuAD v1.1: {message}")


def plain_text() -> str:
    """The passages of our own questions, one after the other: real text to measure models on."""
    data = read_json(Path(__file__).with_name("squad.json"))
    return "\n\n".join(
        paragraph["context"] for article in data["data"] for paragraph in article["paragraphs"]
    )


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def f1(said: str, answer: str) -> float:
    """Harmonic mean of precision and recall over the words of both."""
    words, wanted = normalised(said).split(), normalised(answer).split()
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0
