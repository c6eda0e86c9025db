"""What a user is told when something cannot be done: one sentence, one exit code."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LocalprobeError(Exception):
    """Wrong use or bad input. The message is shown to the user as it is."""

    exit_code = 2


class ModelError(LocalprobeError):
    """A model file that cannot be read, or that localprobe cannot probe."""


class NotFiniteError(ModelError):
    """Logits that are not finite numbers, so that there is no answer."""


class FetchError(LocalprobeError):
    """A model that could not be fetched or that is not what it should be."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A sentence tail for an unknown name: the near misses, or else all that is known."""
    names = list(known)
    near = get_close_matches(wrong, names, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(names)}" if names else "nothing is known by any name"
