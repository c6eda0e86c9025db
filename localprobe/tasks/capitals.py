"""The capitals task of the paper: "What is the capital of X?", one-shot, exact match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from localprobe.errors import LocalprobeError
from localprobe.tasks.base import Example, can_become, exact_match
from localprobe.tomlfile import TomlFile

TEMPLATE = "Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of {country}?\nA:"


class Capitals:
    """195 countries and their capitals.

    A country that the template itself names is left out: its answer would be given away.
    """

    name = "capitals"
    metric = "exact_match"
    max_tokens = 16

    def __init__(self, template: str | None = None) -> None:
        self.template = TEMPLATE if template is None else template
        if self.template.count("{country}") != 1:
            raise LocalprobeError("the template must hold {country} once, where the country goes")

    def examples(self) -> Sequence[Example]:
        data = TomlFile(Path(__file__).with_name("capitals.toml")).data
        return [
            Example(
                number=number,
                prompt=self.template.replace("{country}", country),
                answers=tuple(capitals),
                subject=country,
            )
            for number, (country, capitals) in enumerate(data.items())
            if not re.search(rf"\b{re.escape(country)}\b", self.template, re.IGNORECASE)
        ]

    def score(self, text: str, example: Example) -> float:
        return exact_match(text, example.answers)

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        return "\n" in text or not any(can_become(text, each.answers) for each in examples)
