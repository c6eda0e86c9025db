"""What a token is to a prompt with a subject, so that prompts of unlike length can be averaged.

As in causal tracing (Meng et al. 2022): of a subject of one token, that is the last one, and of two
the first and the last.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST, BEFORE = "first token", "before subject"
SUBJECT_FIRST, SUBJECT_MIDDLE, SUBJECT_LAST = "subject first", "subject middle", "subject last"
AFTER, FURTHER, BEFORE_LAST = "first after", "further after", "next to last"
ROLES = (
    *(FIRST, BEFORE, SUBJECT_FIRST, SUBJECT_MIDDLE, SUBJECT_LAST),
    *(AFTER, FURTHER, BEFORE_LAST),
)
"""In the order of the prompt."""


def roles_of(n_tokens: int, subject: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Role -> positions, of every past token of a prompt; roles that no token has are not there.

    subject: the positions of its tokens, one after the other, without the last of the prompt.
    """
    start, last = subject[0], subject[-1]
    after = range(last + 1, n_tokens - 1)
    found = {
        FIRST: range(min(1, start)),
        BEFORE: range(1, start),
        SUBJECT_FIRST: subject[:1] if len(subject) > 1 else (),
        SUBJECT_MIDDLE: subject[1:-1],
        SUBJECT_LAST: subject[-1:],
        AFTER: after[:1],
        FURTHER: after[1:-1],
        BEFORE_LAST: after[-1:] if len(after) > 1 else (),
    }
    return {role: tuple(at) for role, at in found.items() if at}
