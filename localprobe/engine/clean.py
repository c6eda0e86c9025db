"""Clean answers to prompts that share decodes, and the states that interventions start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from localprobe.engine.full import CleanRun, Stop, Writing
from localprobe.engine.interventions import FloatArray
from localprobe.engine.regions import Placing, Regions, shared_prefix
from localprobe.llama.batch import Batch, Row
from localprobe.llama.model import Model
from localprobe.llama.residual import Keep


def clean_together(
    model: Model,
    placing: Placing,
    noise: float | None,
    prompts: Sequence[Sequence[int]],
    layers: frozenset[int],
    max_tokens: int,
    stops: Sequence[Stop | None],
) -> list[CleanRun]:
    """The clean answers to some prompts that share decodes, with their states at these layers.

    Raises NotFiniteError where logits of one of them are not finite numbers.
    """
    n = len(prompts)
    lengths = [len(prompt) + max_tokens for prompt in prompts]
    shared = placing.in_front(shared_prefix(prompts), lengths)
    regions = placing.regions(model, lengths, shared)
    regions.reserve()
    model.clear()
    kept = _Kept(layers, n, regions)
    everyone = tuple(range(n))
    if shared:
        # Its logits are of no use, but some graphs (Chameleon's) cannot do without any.
        kept.decode(
            model, [Row(prompts[0][p], p, everyone, p == shared - 1) for p in range(shared)]
        )
    regions.lay()

    def logits_of(some: Sequence[int], starts: Sequence[int]) -> Iterator[FloatArray]:
        ends = [len(sequences[i]) for i in some]
        for part in placing.alike([b - a for a, b in zip(starts, ends, strict=True)]):
            spans = list(zip(some[part], starts[part], ends[part], strict=True))
            for i, start, end in spans:
                regions.take(i, start, end)
            yield from kept.decode(
                model,
                [
                    Row(sequences[i][p], p, (i,), p == end - 1)
                    for i, start, end in spans
                    for p in range(start, end)
                ],
            )

    sequences: Sequence[Sequence[int]] = prompts
    writings = [
        Writing(model, prompt, max_tokens, stop, row, noise)
        for prompt, stop, row in zip(prompts, stops, logits_of(everyone, [shared] * n), strict=True)
    ]
    sequences = [writing.sequence for writing in writings]
    while active := [i for i in everyone if not writings[i].done]:
        rows = list(logits_of(active, [len(sequences[i]) - 1 for i in active]))
        for i, row in zip(active, rows, strict=True):
            writings[i].take(row)
    return [
        kept.run(i, prompt, writing)
        for i, (prompt, writing) in enumerate(zip(prompts, writings, strict=True))
    ]


class _Kept:
    """The states of some layers, for each of n sequences, of every row that is decoded."""

    def __init__(self, layers: frozenset[int], n: int, regions: Regions) -> None:
        self._layers, self._regions = layers, regions
        self._states: list[dict[int, list[FloatArray]]] = [
            {k: [] for k in layers} for _ in range(n)
        ]

    def decode(self, model: Model, rows: list[Row]) -> FloatArray:
        keep = Keep(self._layers)
        logits = model.decode(Batch(self._regions.in_company(rows)), keep)
        for i, kept in enumerate(self._states):
            mine = [number for number, row in enumerate(rows) if i in row.sequences]
            for layer, states in keep.states.items():
                kept[layer].append(states[mine])
        return logits[: sum(row.output for row in rows)]

    def run(self, i: int, prompt: Sequence[int], writing: Writing) -> CleanRun:
        states = {k: np.concatenate(parts) for k, parts in self._states[i].items()}
        n_known = len(prompt) if not states else len(next(iter(states.values())))
        tokens = tuple(writing.sequence[:n_known])
        return CleanRun(tuple(prompt), writing.answer(), tokens, states)
