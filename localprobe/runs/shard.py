"""A part of a sweep, for several machines to share one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from localprobe.errors import LocalprobeError


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1 on: every count-th of the examples."""

    number: int
    count: int

    def has(self, place: int) -> bool:
        return place % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """2/3 -> the second of three shards. Raises LocalprobeError for anything else."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise LocalprobeError(f"--shard must be like 1/3, the first of three, not {text!r}")
    return Shard(number, count)
