"""How much each type of weights changes what a model says: known of those that were made, and
found out for the others where that takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from localprobe.errors import LocalprobeError
from localprobe.files.parts import total_size
from localprobe.models.change import Change
from localprobe.models.prepare import (
    TYPES,
    measured,
    prepare,
    prepared_from,
    prepared_path,
    remove_prepared,
)

SMALL = 500_000_000
"""Bytes of a model of which each type is made to see what it changes."""

Watch = Callable[[Iterator[str], int], Iterable[str]]


def changes(
    name: str,
    source: Path,
    digest: str,
    text: str,
    *,
    keep: str,
    watch: Watch,
    tell: Callable[[str], object] = lambda _message: None,
) -> dict[str, Change]:
    """By type; those are missing that were not made, are not made here, or cannot be measured.

    What is made for this is deleted again, but for the type that is kept.
    tell: is told that all are measured, where they are.
    """
    found: dict[str, Change] = {}
    is_small = total_size(source) <= SMALL
    if is_small:
        tell("measuring how much each of them changes ...")
    for kind in watch(iter(TYPES), len(TYPES)):
        there = prepared_from(digest, kind)
        if there is None and not is_small:
            continue
        try:
            path = prepared_path(there) if there else prepare(name, source, digest, kind)[1]
            try:
                change = measured(path, source, text, lambda decodes, _total: decodes).change
            finally:
                if there is None and kind != keep:
                    remove_prepared(path)
        except LocalprobeError:
            continue
        if change is not None:
            found[kind] = change
    return found
