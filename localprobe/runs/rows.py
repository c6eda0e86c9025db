"""What a sweep finds: one row per (example, intervention, layer), as Python and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from localprobe.engine.answers import Token

CLEAN = "clean"


@dataclass(frozen=True)
class Row:
    """What the model said to an example under an intervention at a layer, and its scores.

    patch "clean" is the model left alone; its layer is None. used: whether the example is swept;
    cut: whether its prompt was cut short. partner: the example that a swap took its states from.
    top: the five likeliest first tokens.
    not_finite: the model's numbers were not, so that there is neither an answer nor a score.
    near_tie: some token of the answer was hardly likelier than another one; computed on another
    machine, or in another batch, the answer may differ. ties: of a near tie, metric by metric, the
    lowest and the highest score that it could have had, where that is another than its score; None
    where it was not looked at (in runs of before), so that it could be any.
    used_by_tie: whether the example is used hangs on a near tie.
    prompt, accepted, subject: of clean rows, what was asked (before a chat template), what is
    right, and the example's words, if it has some. new, new_accepted: of swaps, the partner's.
    last_token_only: of the swapped words, since they have unequal numbers of tokens.
    """

    example: int
    patch: str
    layer: int | None
    answer: str
    scores: Mapping[str, float]
    top: tuple[Token, ...]
    used: bool = True
    cut: bool = False
    partner: int | None = None
    not_finite: bool = False
    near_tie: bool = False
    last_token_only: bool = False
    ties: Mapping[str, tuple[float, float]] | None = None
    used_by_tie: bool = False
    prompt: str = ""
    accepted: tuple[str, ...] = ()
    subject: str = ""
    new: str = ""
    new_accepted: tuple[str, ...] = ()

    def could_score(self, metric: str) -> tuple[float, float]:
        """The lowest and the highest score, however the near ties of its answer fall."""
        score = self.scores[metric]
        if not self.near_tie:
            return score, score
        return (0.0, 1.0) if self.ties is None else self.ties.get(metric, (score, score))


_DEFAULTS = {field.name: field.default for field in fields(Row) if field.default is not MISSING}


def to_json(row: Row) -> str:
    """One line, without the fields that say nothing."""
    record = {
        key: value
        for key, value in asdict(row).items()
        if key not in _DEFAULTS or value != _DEFAULTS[key]
    }
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def from_json(line: str) -> Row:
    """The row of a line. Raises ValueError where it is none."""
    try:
        record = json.loads(line)
        tokens = tuple(Token(**token) for token in record["top"])
        row = Row(**{**record, "top": tokens, **_tuples(record)})
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a row: {error}") from None
    _check(row)
    return row


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples that a row has; of the wrong kind, they are left to `_check`."""
    found: dict[str, Any] = {
        name: tuple(record[name])
        for name in ("accepted", "new_accepted")
        if isinstance(record.get(name), list)
    }
    if isinstance(record.get("ties"), dict):
        found["ties"] = {
            name: tuple(ends) if isinstance(ends, list) else ends
            for name, ends in record["ties"].items()
        }
    return found


def _check(row: Row) -> None:
    good: dict[str, Any] = {
        "example": _is_count(row.example),
        "patch": isinstance(row.patch, str),
        "layer": row.layer is None if row.patch == CLEAN else _is_count(row.layer),
        "answer": isinstance(row.answer, str),
        "scores": isinstance(row.scores, dict)
        and all(type(v) in (int, float) and 0 <= v <= 1 for v in row.scores.values()),
        "top": all(_is_token(token) for token in row.top),
        "used": isinstance(row.used, bool),
        "cut": isinstance(row.cut, bool),
        "partner": row.partner is None or _is_count(row.partner),
        "not_finite": isinstance(row.not_finite, bool),
        "near_tie": isinstance(row.near_tie, bool),
        "last_token_only": isinstance(row.last_token_only, bool),
        "ties": row.ties is None or (row.near_tie and _are_ranges(row.ties, row.scores)),
        "used_by_tie": isinstance(row.used_by_tie, bool),
        "prompt": isinstance(row.prompt, str),
        "accepted": _are_texts(row.accepted),
        "subject": isinstance(row.subject, str),
        "new": isinstance(row.new, str),
        "new_accepted": _are_texts(row.new_accepted),
    }
    assert good.keys() == {field.name for field in fields(Row)}
    for name, is_good in good.items():
        if not is_good:
            raise ValueError(f"a row's {name} cannot be {getattr(row, name)!r}")


def _are_ranges(ties: object, scores: object) -> bool:
    """Whether each range is one of a score that is in it."""
    if not isinstance(ties, dict) or not isinstance(scores, dict):
        return False
    if not ties.keys() <= scores.keys():
        return False
    for name, ends in ties.items():
        if not isinstance(ends, tuple) or len(ends) != 2:
            return False
        low, score, high = numbers = ends[0], scores[name], ends[1]
        if any(type(number) not in (int, float) for number in numbers):
            return False
        if not 0 <= low <= score <= high <= 1:
            return False
    return True


def _are_texts(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


def _is_token(token: Token) -> bool:
    # Not infinite, not nan, and not a whole number that no float can hold.
    numbers = all(type(n) in (int, float) and abs(n) < 1e300 for n in (token.logit, token.prob))
    return _is_count(token.id) and isinstance(token.text, str) and numbers


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
