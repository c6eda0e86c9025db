"""How much other weights change what a model says: measured on real text, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # Lists of models are read without llama.cpp.
    from localprobe.llama.model import Model

N_TOKENS = 200
_ROWS = 25

Watch: TypeAlias = Callable[[Iterator[None], int], Iterable[None]]


@dataclass(frozen=True)
class Change:
    """What was seen at each of n tokens of a text, which is given, whatever the model would say.

    kept: the share of them after which the likeliest next token is the same.
    kl: mean Kullback-Leibler divergence D(original || changed) of the next token, in nats.
    """

    n: int
    kept: float
    kl: float

    def __str__(self) -> str:
        return (
            f"on {self.n} tokens of plain text {self.kept:.1%} of the likeliest next tokens stay, "
            f"KL divergence {self.kl:.2g} nats a token"
        )


def change(
    original: Path,
    changed: Path,
    text: str,
    watch: Watch = lambda decodes, total: decodes,
) -> Change:
    """Between two models of one vocabulary. The first N_TOKENS tokens of the text are taken.

    watch: given the decodes as they are done and their number, shows progress.
    Raises LocalprobeError where one of them cannot be loaded, or its logits are not finite.
    """
    from localprobe.llama.memory import check_fits
    from localprobe.llama.model import Model

    found: list[tuple[NDArray[np.bool_], NDArray[np.float64]]] = []
    remedy = "take a smaller one"

    def decodes() -> Iterator[None]:
        # One after the other: both may not fit into memory at once.
        expected = []
        with Model(original) as model:
            tokens = _tokens(model, text)
            for logits in model.next_logits(tokens, _ROWS):
                expected.append(_log_shares(logits))
                yield
        check_fits(changed.stat().st_size, f"the model {changed}", remedy)
        with Model(changed) as model:
            for logits, before in zip(model.next_logits(tokens, _ROWS), expected, strict=True):
                found.append(_compared(before, _log_shares(logits)))
                yield

    for _ in watch(decodes(), 2 * (N_TOKENS // _ROWS)):
        pass
    kept = np.concatenate([each for each, _ in found])
    divergence = np.concatenate([each for _, each in found])
    # A sum of both signs that is 0 but for its rounding is no negative divergence.
    return Change(len(kept), float(kept.mean()), max(0.0, float(divergence.mean())))


def _tokens(model: Model, text: str) -> list[int]:
    return model.tokenize(text)[: min(N_TOKENS, model.ctx)]


def _log_shares(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithms of the softmax, row by row; float32, since there are n_vocab a token."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted.astype(np.float64)).sum(axis=1, keepdims=True)
    found: NDArray[np.float32] = (shifted - np.log(total)).astype(np.float32)
    return found


def _compared(
    before: NDArray[np.float32], after: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Row by row: whether the likeliest token is the same, and the divergence."""
    one, two = before.astype(np.float64), after.astype(np.float64)
    divergence: NDArray[np.float64] = (np.exp(one) * (one - two)).sum(axis=1)
    return before.argmax(axis=1) == after.argmax(axis=1), divergence
