"""What a model said, as records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from localprobe.llama.model import Model, softmax
from localprobe.llama.residual import FloatArray


@dataclass(frozen=True)
class Token:
    """A candidate for the next token."""

    id: int
    text: str
    logit: float
    prob: float


def top_tokens(model: Model, logits: FloatArray, n: int = 5) -> tuple[Token, ...]:
    """The n likeliest next tokens, likeliest first; ties by token id."""
    probabilities = softmax(logits)
    least = np.partition(logits, -n)[-n]
    candidates = np.flatnonzero(logits >= least)
    best = candidates[np.argsort(-logits[candidates], kind="stable")][:n]
    return tuple(
        Token(int(i), model.detokenize([int(i)]), float(logits[i]), float(probabilities[i]))
        for i in best
    )
