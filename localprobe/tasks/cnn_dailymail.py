"""CNN/Daily Mail: summaries of news articles; ROUGE-1, -2 and -L.

Hermann et al., 2015, See et al., 2017; ROUGE by the rouge-score package, with
stemming, F-measure. Base models are asked for a summary as GPT-2 was (Radford et al., 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.tasks.base import Example, TaskOptions, Template
from localprobe.tasks.datafile import read_records

_KEYS = ("article", "highlights")
_LONGEST_HIGHLIGHTS = 10_000
"""ROUGE-L takes memory and time by the product of two lengths."""

TEMPLATE = "{article}\n\nTL;DR:"


class CnnDailymail:
    """Articles with their highlights: a JSONL, CSV or parquet file, or articles of our own.

    The summary is what is said up to the first empty line. Articles are cut at their end so that
    the prompt has no more than --max-prompt-tokens. Chance: the highlights of another one of
    these articles.
    """

    name = "cnn_dailymail"
    metrics = ("rouge1", "rouge2", "rougeL")
    max_tokens = 64
    has_right_answers = False
    max_prompt_tokens = 512
    takes = ("template", "data")

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:  # noqa: B008
        self._template = Template(options.template or TEMPLATE, "article")
        self._path = options.data or Path(__file__).with_name("cnn_dailymail.jsonl")

    def examples(self) -> Sequence[Example]:
        examples = []
        for number, (place, record) in enumerate(read_records(self._path, _KEYS)):
            for key in _KEYS:
                value = record.get(key)
                if not isinstance(value, str) or not value.strip():
                    raise LocalprobeError(f"{place}: {key!r} is missing or not a text")
            if len(record["highlights"]) > _LONGEST_HIGHLIGHTS:
                raise LocalprobeError(
                    f"{place}: 'highlights' is longer than {_LONGEST_HIGHLIGHTS} characters"
                )
            article = record["article"].strip()
            prompt = self._template.fill(article=article)
            body = self._template.span("article", article=article)
            examples.append(Example(number, prompt, (record["highlights"],), body=body))
        return examples

    def score(self, text: str, example: Example) -> dict[str, float]:
        found = _scorer().score(example.answers[0], _summary(text))
        return {metric: float(found[metric].fmeasure) for metric in self.metrics}

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        return "\n\n" in text.lstrip()


def _summary(text: str) -> str:
    return text.strip().partition("\n\n")[0]


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(CnnDailymail.metrics), use_stemmer=True)
