"""How much there is to compute, so that what was not met yet can be judged by what was.

The unit is a token's row through a block. A decode takes as long as reading a block's weights
does, too, which prompts that share it pay together.
"""

from __future__ import annotations

from dataclasses import dataclass

from localprobe.engine.interventions import by_name
from localprobe.runs.tally import SWAP

_READING = 6.0
"""Rows that could go through a block while its weights are read: 3 to 10 on the CPUs tried."""
_KEYS_AND_VALUES = 0.12
"""The share of a block's multiplications that give a row's keys and values."""
_LIKELY_ANSWER = 3.0
_LEFT = 0.5
"""The share of prompts of which some answer leaves the clean one and is not settled by that."""


@dataclass
class Work:
    """Of a sweep on a model of n_layer blocks.

    n_tokens: of a prompt, on average. n_shared: that prompts begin with in common. n_swapped:
    from the swapped words on. is_whole: whether every answer takes whole passes. n_layers: at how
    many layers an intervention is tried.
    """

    n_layer: int
    n_tokens: float
    n_shared: float
    n_swapped: float
    max_tokens: int
    is_whole: bool
    n_layers: int = 1
    n_answers: int = 0
    n_answered: int = 0

    def saw(self, n_tokens: int) -> None:
        """An answer of so many tokens."""
        self.n_answers += 1
        self.n_answered += n_tokens

    def clean(self, together: int) -> float:
        """Of the clean answer to one of several prompts that share a decode."""
        rows = self.n_tokens - self.n_shared * (1 - 1 / together)
        return self.n_layer * (self._decode(rows, together) + self._rest(1, together))

    def cell(self, patch: str, layer: int, together: int) -> float:
        """Of an answer under an intervention at a layer."""
        if self.is_whole:
            whole = self._decode(self.n_tokens, together) + self._rest(2, together)
            return self.n_layer * whole
        if patch == SWAP:
            rows, writes, decodes = self.n_swapped, False, 1
        else:
            kind = by_name(patch, 0)
            rows = self.n_tokens - kind.first_row(round(self.n_tokens))
            writes, decodes = kind.writes_generated, 1
            if kind.holds_past:
                rows, decodes = 1 + _KEYS_AND_VALUES * rows, 2
        first = decodes * _READING / together + max(1.0, rows)
        rest = self.n_layer * self._rest(1 + writes, together)
        return (self.n_layer - layer) * first + rest + self.below(patch, together)

    def below(self, patch: str, together: int) -> float:
        """Of `cell`, its share in what answers that leave the clean one need below their layers."""
        if self.is_whole or self.max_tokens < 2:
            return 0.0
        rows = self.n_swapped if patch == SWAP else self.n_tokens
        return _LEFT * self.n_layer * self._decode(rows, together) / max(1, self.n_layers)

    def in_few_rows(self, patch: str, layer: int, together: int) -> float:
        """Of `cell`, what goes into decodes of a row or two a prompt."""
        if self.is_whole:
            return self.n_layer * self._rest(2, together)
        if patch == SWAP:
            return self.n_layer * self._rest(1, together)
        kind, n = by_name(patch, 0), round(self.n_tokens)
        if kind.holds_past or kind.first_row(n) >= n - 1:
            return self.cell(patch, layer, together) - self.below(patch, together)
        return self.n_layer * self._rest(1 + kind.writes_generated, together)

    def _decode(self, rows: float, together: int) -> float:
        return rows + _READING / together

    def _rest(self, rows: int, together: int) -> float:
        """The answer's tokens after the first one, through all blocks."""
        likely = min(_LIKELY_ANSWER, self.max_tokens)
        n = self.n_answered / self.n_answers if self.n_answers else likely
        return max(0.0, n - 1) * self._decode(rows, together)
