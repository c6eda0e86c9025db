"""What a model said, as records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # Reading runs needs no llama.cpp.
    from localprobe.llama.model import Model

FloatArray = NDArray[np.float32]


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


def softmax(logits: FloatArray) -> NDArray[np.float64]:
    """Probabilities (n_vocab,) in float64."""
    shifted: NDArray[np.float64] = np.exp(logits.astype(np.float64) - float(logits.max()))
    shifted /= shifted.sum()
    return shifted
