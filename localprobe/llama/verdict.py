"""What was found out about a model: what can be done with it, and why the rest cannot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Reasons are empty where there are none against it.

    refused: why nothing can be done. writing: why states cannot be overwritten. attention: why
    attention cannot be switched off. longest: the longest sequence in tokens for which that holds,
    0 for any; longest_since: why. has_inputs: whether blocks have an input of their own beside the
    state. shared: the first layer from which on blocks attend to keys and values that were made
    below it, too, which overwriting there does not reach; unread: that from which on overwriting
    past tokens changes nothing at all; None where there is no such layer.
    """

    refused: str = ""
    writing: str = ""
    attention: str = ""
    longest: int = 0
    longest_since: str = ""
    has_inputs: bool = False
    shared: int | None = None
    unread: int | None = None
