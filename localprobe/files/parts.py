"""A model may lie in several files, as NAME-00001-of-00003.gguf: one is given, all are meant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from localprobe.errors import ModelError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", re.IGNORECASE)
_MOST = 1000


def parts_of(path: Path) -> tuple[Path, ...]:
    """All files of the model that a file is one of, by its name and in order: itself, mostly.

    Raises ModelError where one is missing.
    """
    name, number, count = split_name(path)
    if count == 1:
        return (path,)
    if not 1 <= number <= count <= _MOST:
        raise ModelError(f"{path} is called part {number} of {count}, which cannot be")
    places = range(1, count + 1)
    parts = tuple(path.with_name(f"{name}-{at:05}-of-{count:05}{path.suffix}") for at in places)
    for part in parts:
        if part != path and not part.is_file():
            raise ModelError(
                f"{path} is one of {count} parts, and {part.name} is not in its folder"
            )
    return parts


def split_name(path: Path) -> tuple[str, int, int]:
    """What a model is called by its file; which part of how many the file is."""
    found = _PART.fullmatch(path.name)
    if found is None or int(found[3]) == 1:
        return (found[1] if found else path.stem), 1, 1
    return found[1], int(found[2]), int(found[3])


def total_size(path: Path) -> int:
    """Bytes of a model, all its files together."""
    return sum(part.stat().st_size for part in parts_of(path))


def joint_sha256(digests: Sequence[str]) -> str:
    """That of a model, by those of its files: of several, the SHA-256 of theirs, as one text."""
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
