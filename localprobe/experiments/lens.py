"""The logit lens on a prompt: what the next token would be, read off the states of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from localprobe.engine.interventions import FloatArray
from localprobe.engine.lens import Logits
from localprobe.errors import LocalprobeError
from localprobe.llama.model import Model
from localprobe.runs.display import shown_by

Values = NDArray[np.float64]
Progress = Callable[[Iterator[int], int], Iterable[int]]


@dataclass(frozen=True, eq=False)
class Lens:
    """The likeliest next tokens by final norm and output matrix on every state of a prompt.

    ids, probs: (n_layers, n_tokens), of the likeliest one; top_ids, top_probs: (n_layers, n_tokens,
    top), likeliest first. texts: id -> text, of all that are in them.
    token_probs, token_ranks: (n_layers, n_tokens), of the token that is followed; 1 is the
    likeliest. token, token_id: which that is.
    """

    prompt: str
    n_layer: int
    all_tokens: tuple[int, ...]
    tokens: tuple[str, ...]
    layers: NDArray[np.int_]
    top_ids: NDArray[np.int_]
    top_probs: Values
    vocabulary: dict[int, str]
    token: str
    token_id: int
    token_probs: Values
    token_ranks: NDArray[np.int_]

    def __repr__(self) -> str:
        cut = self.prompt if len(self.prompt) <= 40 else self.prompt[:39] + "…"
        size = f"{len(self.layers)} layers x {len(self.tokens)} tokens"
        return f"<Lens {cut!r}, following {self.token!r}: {size}>"

    @property
    def ids(self) -> NDArray[np.int_]:
        found: NDArray[np.int_] = self.top_ids[:, :, 0]
        return found

    @property
    def probs(self) -> Values:
        found: Values = self.top_probs[:, :, 0]
        return found

    @property
    def texts(self) -> list[list[str]]:
        """Of `ids`: by layer, by token."""
        return [[self.vocabulary.get(int(token), "") for token in row] for row in self.ids]

    def appears(self, position: int = -1) -> int | None:
        """The first layer from which on the followed token is the likeliest there, if any."""
        leads = self.ids[:, position] == self.token_id
        others = np.flatnonzero(~leads)
        first = int(others[-1]) + 1 if len(others) else 0
        return int(self.layers[first]) if first < len(self.layers) else None

    def where(self, share: float) -> list[int]:
        """The tokens on which the followed one somewhere has this probability, and the last."""
        reached = np.nanmax(self.token_probs, axis=0) >= share
        reached[-1] = True
        return [int(position) for position in np.flatnonzero(reached)]

    def plot(self, path: Any = None) -> Any:
        """The lens as a figure: written to a file where a path is given, else a matplotlib figure.

        Raises LocalprobeError where matplotlib is not there.
        """
        return shown_by("map_figure").figure(self, path)

    def _repr_html_(self) -> str:
        return str(shown_by("map_files").lens_html(self))


def look(
    model: Model,
    by: Callable[[Model, FloatArray], Logits],
    states: FloatArray,
    *,
    prompt: str,
    tokens: Sequence[int],
    layers: Sequence[int],
    token: int,
    top: int,
    progress: Progress = lambda cells, total: cells,
) -> Lens:
    """The lens on the states (n_layer, n_tokens, n_embd) of a prompt. by: see engine/lens.py.

    token: which to follow. top: how many likeliest tokens to keep of each state.
    """
    if not 1 <= top <= model.info.n_vocab:
        raise LocalprobeError(f"--top must be between 1 and {model.info.n_vocab}")
    shape = len(layers), len(tokens)
    chosen = states[list(layers)].reshape(-1, states.shape[-1])
    top_ids, top_probs = np.zeros((len(chosen), top), np.int_), np.zeros((len(chosen), top))
    probs, ranks = np.zeros(len(chosen)), np.zeros(len(chosen), np.int_)

    def parts() -> Iterator[int]:
        for part, logits in by(model, chosen):
            best = _likeliest(logits, top)
            most = logits.max(axis=1, keepdims=True)
            total = np.exp(logits - most).sum(axis=1, dtype=np.float64)
            shares = np.exp((logits - most).astype(np.float64)) / total[:, None]
            top_ids[part] = best
            top_probs[part] = np.take_along_axis(shares, best, axis=1)
            probs[part] = shares[:, token]
            ranks[part] = 1 + (logits > logits[:, [token]]).sum(axis=1)
            yield len(logits)

    for _ in progress(parts(), len(chosen)):
        pass
    names = {int(each): model.detokenize([int(each)]) for each in np.unique(top_ids)}
    return Lens(
        prompt=prompt,
        n_layer=model.n_layer,
        all_tokens=tuple(tokens),
        tokens=tuple(model.piece(t, control=True).decode(errors="replace") for t in tokens),
        layers=np.array(layers),
        top_ids=top_ids.reshape(*shape, top),
        top_probs=top_probs.reshape(*shape, top),
        vocabulary=names,
        token=model.detokenize([token]),
        token_id=token,
        token_probs=probs.reshape(shape),
        token_ranks=ranks.reshape(shape),
    )


def _likeliest(logits: FloatArray, top: int) -> NDArray[np.int_]:
    """Of logits (n, n_vocab): the likeliest tokens (n, top), likeliest first; ties by token id."""
    if top == 1:
        first: NDArray[np.int_] = logits.argmax(axis=1)[:, None]
        return first
    order = np.argsort(-logits, axis=1, kind="stable")
    best: NDArray[np.int_] = order[:, :top]
    return best
