"""The capitals task of the paper: "What is the capital of X?", one-shot, exact match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from localprobe.files.tomlfile import TomlFile
from localprobe.tasks.base import EXACT_MATCH, Example, TaskOptions, Template
from localprobe.tasks.matching import exact_match, may_match

TEMPLATE = "Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of {country}?\nA:"


class Capitals:
    """195 countries and their capitals.

    A country that the template itself names is left out: its answer would be given away.
    Chance: the capital of another country.
    """

    name = "capitals"
    metrics = (EXACT_MATCH,)
    max_tokens = 16
    has_right_answers = True
    has_first_tokens = True
    max_prompt_tokens = None
    takes = ("template",)

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:  # noqa: B008
        self._template = Template(options.template or TEMPLATE, "country")

    def examples(self) -> Sequence[Example]:
        data = TomlFile(Path(__file__).with_name("capitals.toml")).data
        return [
            Example(
                number=number,
                prompt=self._template.fill(country=country),
                answers=tuple(capitals),
                subject=country,
            )
            for number, (country, capitals) in enumerate(data.items())
            if not re.search(rf"\b{re.escape(country)}\b", self._template.text, re.IGNORECASE)
        ]

    def score(self, text: str, example: Example) -> dict[str, float]:
        return {EXACT_MATCH: exact_match(text, example.answers)}

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        """At the line end, or where the text fits none of the answers."""
        return not any(may_match(text, example.answers) for example in examples)
