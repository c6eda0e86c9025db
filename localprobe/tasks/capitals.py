"""The capitals task of the paper: "What is the capital of X?", one-shot, exact match.

Small models know more of them than one solved question brings to light; --shots has more in front.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from localprobe.files.tomlfile import TomlFile
from localprobe.tasks.base import EXACT_MATCH, Example, TaskOptions, Template, n_shots
from localprobe.tasks.matching import exact_match, may_match

_QUESTION = "Q: What is the capital of {country}?\nA:"
_SOLVED = (
    ("Spain", "Madrid"),
    ("Japan", "Tokyo"),
    ("Egypt", "Cairo"),
    ("Peru", "Lima"),
    ("Norway", "Oslo"),
    ("Kenya", "Nairobi"),
    ("Thailand", "Bangkok"),
    ("Cuba", "Havana"),
)
"""The paper's, and more for whoever asks for more."""


def _asked(shots: int) -> str:
    solved = (
        f"{_QUESTION.format(country=country)} {capital}\n" for country, capital in _SOLVED[:shots]
    )
    return "".join(solved) + _QUESTION


TEMPLATE = _asked(1)
"""That of the paper."""


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
    takes = ("template", "shots")

    def __init__(self, options: TaskOptions = TaskOptions()) -> None:  # noqa: B008
        own = _asked(n_shots(options, 1, len(_SOLVED)))
        self._template = Template(options.template or own, "country")

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
