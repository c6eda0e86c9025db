"""The rows of one decode, as llama.cpp wants them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Row:
    """One token at a position of one or more sequences. output: whether its logits are wanted."""

    token: int
    position: int
    sequences: tuple[int, ...] = (0,)
    output: bool = False


class Batch:
    """Rows in llama.cpp's layout; made once, it can be decoded many times.

    output_rows: which rows' logits are wanted. starts: sequence -> its first position.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        n = len(rows)
        self.tokens: NDArray[np.int32] = np.array([row.token for row in rows], np.int32)
        self._positions = np.array([row.position for row in rows], np.int32)
        self._outputs = np.array([row.output for row in rows], np.int8)
        self._counts = np.array([len(row.sequences) for row in rows], np.int32)
        self._sequences = [(llama.llama_seq_id * len(r.sequences))(*r.sequences) for r in rows]
        seq_id = ctypes.POINTER(llama.llama_seq_id)
        self._pointers = (seq_id * n)(*(ctypes.cast(ids, seq_id) for ids in self._sequences))
        self.starts: dict[int, int] = {}
        for row in rows:
            for sequence in row.sequences:
                start = self.starts.get(sequence, row.position)
                self.starts[sequence] = min(start, row.position)
        self.output_rows: NDArray[np.intp] = np.flatnonzero(self._outputs)
        self.llama = llama.llama_batch(
            n_tokens=n,
            token=self.tokens.ctypes.data_as(ctypes.POINTER(llama.llama_token)),
            pos=self._positions.ctypes.data_as(ctypes.POINTER(llama.llama_pos)),
            n_seq_id=self._counts.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._pointers,
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def __len__(self) -> int:
        return len(self.tokens)


def sequence_rows(tokens: Sequence[int], start: int, sequence: int = 0) -> list[Row]:
    """Tokens of one sequence at positions start, start+1, …; logits of the last one."""
    last = len(tokens) - 1
    return [Row(t, start + i, (sequence,), i == last) for i, t in enumerate(tokens)]
