"""A user's own task: one JSON object a line.

{"prompt": …, "answers": [… , …]}
{"prompt": …, "answers": […], "old": …, "new": …, "new_answers": […]}      for swaps
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.tasks.base import EXACT_MATCH, PREFIX_MATCH, Example, TaskOptions
from localprobe.tasks.datafile import read_records
from localprobe.tasks.matching import exact_match, fold, may_begin, prefix_match
from localprobe.tasks.problems import Problems

_SWAP_KEYS = ("old", "new", "new_answers")
_KEYS = ("prompt", "answers", *_SWAP_KEYS)


class Jsonl:
    """Prompts and accepted answers from a file.

    exact_match: the answer is the first line, whatever its case, accents and punctuation, but for
    what changes the meaning: -5, 3.5, 10 %, C#.
    prefix_match: the answer begins like that, as "Paris, France" does with "Paris".
    Chance: the answer to another one of these prompts.
    """

    name = "jsonl"
    metrics = (EXACT_MATCH, PREFIX_MATCH)
    max_tokens = 16
    has_right_answers = True
    has_first_tokens = True
    max_prompt_tokens = None
    takes = ("data",)

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:  # noqa: B008
        if options.data is None:
            raise LocalprobeError(
                'the task jsonl needs --data FILE, with {"prompt": ..., "answers": [...]} a line'
            )
        self._path = options.data

    def examples(self) -> Sequence[Example]:
        problems, found = Problems(self._path), list[Example]()
        for place, record in read_records(self._path, _KEYS, problems):
            with problems.noted():
                found.append(_example(len(found), place, record))
        problems.tell()
        return found

    def score(self, text: str, example: Example) -> dict[str, float]:
        return {
            EXACT_MATCH: exact_match(text, example.answers),
            PREFIX_MATCH: prefix_match(text, example.answers),
        }

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        """At the line end, or where the text neither begins like an answer nor may come to."""
        return not any(may_begin(text, example.answers) for example in examples)


def _example(number: int, place: str, record: dict[str, Any]) -> Example:
    for key in record:
        if key not in _KEYS:
            raise LocalprobeError(f"{place}: unknown key {key!r}; {did_you_mean(key, _KEYS)}")
    prompt, answers = _text(record, "prompt", place), _texts(record, "answers", place)
    if not any(key in record for key in _SWAP_KEYS):
        return Example(number, prompt, answers)
    new = _text(record, "new", place)
    partner = Example(number, "", _texts(record, "new_answers", place), subject=new)
    return Example(number, prompt, answers, _text(record, "old", place), partner)


def _text(record: dict[str, Any], key: str, place: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        raise LocalprobeError(f"{place}: {key!r} is missing or not a text")
    return value


def _texts(record: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    value = record.get(key)
    good = isinstance(value, list) and value and all(isinstance(v, str) and fold(v) for v in value)
    if not good:
        raise LocalprobeError(f"{place}: {key!r} is missing or not a list of texts")
    assert isinstance(value, list)
    return tuple(value)
