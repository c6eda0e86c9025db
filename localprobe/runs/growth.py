"""What of a run stays as it is when more examples are wanted of it.

Rows depend on their own example, but in two ways. The swap of the last example takes the words of
the first one, until there is a next one. And where several prompts share a decode, those of the
last one, which was not full, are to have other company.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from localprobe.errors import LocalprobeError
from localprobe.runs.adaptive import next_look
from localprobe.runs.manifest import Manifest
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.shard import parse_shard
from localprobe.runs.tally import SWAP


def growing(most: int) -> Iterator[int]:
    """How many prompts a batch has: 1, 2, 4 … most, most, …

    The whole table is there after the first example. A batch ends where it is looked which cells
    of an adaptive sweep have enough, so that prompts share decodes there as in any other.
    """
    size, n = 1, 0
    while True:
        now = min(size, next_look(n) - n)
        yield now
        n, size = n + now, min(2 * size, most)


def check_growth(found: Manifest, wanted: int | None) -> None:
    """Raise LocalprobeError where fewer examples are wanted than a run is of."""
    if wanted is not None and (found.n is None or found.n > wanted):
        of = "all examples" if found.n is None else f"{found.n} examples"
        no_less = "no -n" if found.n is None else f"-n {found.n} or more"
        raise LocalprobeError(
            f"the run there is of {of}, not {wanted}; it can grow, but not shrink: give "
            f"{no_less}, or choose another --out"
        )


def first_to_redo(found: Manifest, known: Sequence[Row]) -> int | None:
    """The first of the examples known whose rows, and those after them, are to be found again.

    known: the rows of a run that was of a certain number of examples, and is to be of more.
    """
    used = [row.example for row in known if row.patch == CLEAN and row.used]
    n_kept = len(used)
    if _took_the_first(found, known, used):
        n_kept -= 1
    if found.data["batch"] > 1:
        whole = 0
        for size in growing(found.data["batch"]):
            if whole + size > n_kept:
                break
            whole += size
        n_kept = whole
    return used[n_kept] if n_kept < len(used) else None


def _took_the_first(found: Manifest, known: Sequence[Row], used: Sequence[int]) -> bool:
    """Whether the last example known is the run's last, and had the words of its first."""
    if found.n is None or not used:
        return False
    shard = parse_shard(found.data["experiment"]["shard"])
    is_there = len(used) == len(range(shard.number - 1, found.n, shard.count))
    has_a_partner = any(
        row.partner is not None for row in known if row.patch == SWAP and row.example == used[-1]
    )
    return is_there and shard.has(found.n - 1) and has_a_partner
