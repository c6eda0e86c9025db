"""Compute only what an intervention changes; equal to full.py.

An intervention at layer k leaves everything below k as it was. One clean pass keeps the states;
then, for each layer, only blocks k ... L-1 are computed, from the states kept:

    as usual           all rows from the first one that is written to; some may be held to it
    past held          keys and values of the past tokens, then the last row (freeze)
    attention off      the last row (skip)

Which of these it is, an intervention says about itself.

Several prompts share a decode, one sequence each. Where that leaves it with few rows, neighbouring
layers share it, too: all go on from the lowest of them, and at its own layer each prompt's rows,
clean until then, are written to. Generation goes on in the same way as long as
the answer is the clean one, whose states are known; when an answer leaves it, whole blocks are
computed again.

Two threads are faster with a decode each than at one: where there are rows enough, prompts, or
layers of the same ones, are computed side by side, in lanes.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from localprobe.engine.clean import clean_together
from localprobe.engine.full import (
    NO_ANSWER,
    Answer,
    Certain,
    CleanRun,
    FullEngine,
    Stop,
    Wanted,
    Writing,
)
from localprobe.engine.interventions import Intervention
from localprobe.engine.lane import Job, Key, Lane
from localprobe.engine.regions import MOST_PROMPTS, Placing, aligned, shared_prefix
from localprobe.errors import NotFiniteError
from localprobe.llama.abreast import Begun, contexts_of
from localprobe.llama.memory import free_memory
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.tiles import TILE

BATCH_SIZE = 32

FEW_ROWS, MANY_ROWS = {EXACT: 512, FLASH: 1024}, {EXACT: 256, FLASH: 1024}
"""Prompts share a decode as long as their tokens fit. In exact attention every row looks at every
cell in use, whose number llama.cpp rounds up to 256: where only a few rows of each prompt are
computed, more prompts pay; where all are, they make each other's attention longer."""
MORE_CELLS, _MEMORY = {EXACT: 2, FLASH: 2}, 1 << 29
"""Times as many, where of most prompts only the newest token is computed, unless that takes so many
bytes."""
ENOUGH_ROWS, MOST_LAYERS = TILE - 1, 16
"""Layers share a decode up to so many rows, which is then nearly as fast a row as any. They pass
through blocks below their own for nothing, so no more than so many do."""
AHEAD = 3
"""So many do though it is not known whether all are wanted: rows are cheaper than decodes."""
ROWS_A_LANE = 16
"""Lanes read all weights each, which so many rows are worth."""
_UNEVEN = 1.2
"""Times a lane may have its share of the rows; the others wait for it."""
ON_DEVICES = 2
"""Times as many, where a decode's costs are more its start and its transfers than its rows."""


class ResumeEngine(FullEngine):
    """Goes on from the layer at which an intervention acts."""

    name = "resume"

    def __init__(
        self,
        model: Model,
        batch_size: int = BATCH_SIZE,
        noise: float | None = None,
        *,
        keeps_bits: bool = False,
        plain: bool = False,
    ) -> None:
        """batch_size: how many prompts share a decode. keeps_bits: only those that change no bit of
        each other, which was seen to be so. plain: let llama.cpp choose their cells.
        """
        super().__init__(model, noise)
        self.batch_size, self._lets_choose = batch_size, plain
        self._keeps_bits = keeps_bits
        self.company = 1 if keeps_bits else batch_size
        self._contexts = contexts_of(model)

    @property
    def _placing(self) -> Placing:
        return Placing(self.model.attention, self._keeps_bits, self._lets_choose)

    def clean(
        self,
        prompts: Sequence[Sequence[int]],
        layers: Iterable[int],
        *,
        max_tokens: int,
        stops: Sequence[Stop | None],
    ) -> list[CleanRun]:
        for prompt in prompts:
            self.model.check_length(len(prompt) + max_tokens)
        asked = frozenset(layers)
        # An intervention at a layer may look at the states of the layer before it.
        wanted = asked | {layer - 1 for layer in asked if layer > 0}
        runs: list[CleanRun] = []
        placing = self._placing
        lengths = [placing.room(len(prompt) + max_tokens) for prompt in prompts]
        shared = placing.in_front(shared_prefix(prompts), lengths)
        cells = self._most_rows(FEW_ROWS)
        lanes = self._lanes(sum(lengths), max(lengths, default=1), cells)

        def task(model: Model, some: range) -> Callable[[], list[CleanRun]]:
            mine, until = prompts[some.start : some.stop], stops[some.start : some.stop]
            return lambda: clean_together(
                model, placing, self.noise, mine, wanted, max_tokens, until
            )

        rounds = list(self._rounds(lengths, cells, lanes, shared))
        begun = [
            self._contexts.begin(list(map(task, self._contexts.of(len(batches)), batches)))
            for batches in rounds
        ]
        try:
            for batches, each in zip(rounds, begun, strict=True):
                try:
                    runs += itertools.chain(*each.results())
                except NotFiniteError:
                    every = [i for some in batches for i in some]
                    if len(every) == 1:
                        prompt = tuple(prompts[every[0]])
                        runs.append(CleanRun(prompt, NO_ANSWER, prompt, {}))
                        continue
                    # One that is not finite spoils all that share its cache: each by itself.
                    for i in every:
                        runs += self.clean(
                            [prompts[i]], asked, max_tokens=max_tokens, stops=[stops[i]]
                        )
        finally:
            for each in begun:
                each.drop()
        return runs

    def run(
        self,
        runs: Sequence[CleanRun],
        interventions: Sequence[Intervention],
        layers: Sequence[int],
        *,
        max_tokens: int,
        examples: Sequence[int],
        stops: Sequence[Stop | None],
        wanted: Wanted | None = None,
        certain: Certain | None = None,
    ) -> Iterator[tuple[int, int, Answer]]:
        if not runs:
            return
        if wanted is None:
            wanted, certain = _everything, _always
        kind, placing = interventions[0], self._placing
        rooms = [placing.room(len(run.prompt) + max_tokens) for run in runs]
        downwards = sorted(layers, reverse=True)
        all_rows = _changes_all_rows(kind)
        cells = self._most_rows(MANY_ROWS) if all_rows else self._most_cells()
        may_share = certain is not None and self.batch_size > 1
        jobs = [Job(i, run, interventions[i], examples[i], stops[i]) for i, run in enumerate(runs)]

        def together(some: range, cells: int) -> int:
            part = slice(some.start, some.stop)
            return self._layers_together(runs[part], kind, rooms[part], cells) if may_share else 1

        most = self._contexts.most
        less = cells if all_rows else cells // most
        a_lane = range(max(1, min(-(-len(runs) // most), less // max(rooms), self.batch_size)))
        rows = max(_rows(run, kind) for run in runs) * len(a_lane) * together(a_lane, less)
        lanes = self._lanes(rows, max(rooms), less)
        cells = less if lanes > 1 else cells
        for batches in self._rounds(rooms, cells, lanes):
            n = min(together(some, cells) for some in batches)
            # Of one batch other layers in each lane, where what is wanted there can be known.
            across = lanes if len(batches) == 1 and certain is not None else 1
            groups = _neighbours(downwards, n * across)
            longest = max(map(len, groups), default=0)
            if longest < across:
                across = 1
            n = -(-longest // across)
            places = [range(lane, n * across, across) for lane in range(across)]
            if certain is _always:
                # As few blocks as can be are passed through for nothing.
                places = [range(lane * n, (lane + 1) * n) for lane in range(across)]
            parts = [
                [(i, place) for i in some for place in each] for some in batches for each in places
            ]
            yield from self._round(jobs, parts, groups, max_tokens, wanted, certain or _once)

    def _layers_together(
        self,
        runs: Sequence[CleanRun],
        intervention: Intervention,
        rooms: Sequence[int],
        cells: int,
    ) -> int:
        """How many layers of these prompts, which take so much room each, share a decode."""
        first = intervention.first_row(len(runs[0].prompt))
        window = self.model.info.sliding_window
        if (
            # Where blocks look at those below in another way than by the state.
            (self.model.has_inputs or self.model.first_shared < self.model.n_layer)
            # What stands before it would be filled for each of them.
            or (
                first
                and not intervention.attention_off
                and (len(runs) > 1 or (self._placing.is_tiled and max(rooms) >= TILE))
            )
            or (window and max(rooms) > window)
        ):
            return 1
        rows = len(runs)
        if not intervention.holds_past:
            rows = sum(_rows(run, intervention) for run in runs)
        return max(
            1,
            min(ENOUGH_ROWS // rows, MOST_LAYERS, cells // sum(rooms), MOST_PROMPTS // len(runs)),
        )

    def _round(
        self,
        jobs: Sequence[Job],
        parts: Sequence[Sequence[Key]],
        groups: Sequence[Sequence[int]],
        max_tokens: int,
        wanted: Wanted,
        certain: Certain,
    ) -> Iterator[tuple[int, int, Answer]]:
        """The answers of some jobs, at layers that are computed together, going down.

        jobs: of all prompts. parts: for each lane its jobs, by prompt and by place in a group.
        """
        placing, noise = self._placing, self.noise
        lanes = [
            Lane(model, placing, noise, {key: jobs[key[0]] for key in part}, max_tokens)
            for model, part in zip(self._contexts.of(len(parts)), parts, strict=True)
        ]
        prompts = sorted({i for part in parts for i, _ in part})
        left = deque(groups)

        def step(layers: Sequence[int]) -> _Step:
            todo = [
                {
                    (i, place): layers[place]
                    for i, place in part
                    if place < len(layers) and wanted(i, layers[place])
                }
                for part in parts
            ]
            tasks = [partial(lane.write, part) for lane, part in zip(lanes, todo, strict=True)]
            return _Step(layers, [*itertools.chain(*todo)], self._contexts.begin(tasks))

        ahead = deque[_Step]()
        try:
            while ahead or left:
                known = min(map(certain, prompts))
                if not ahead:
                    layers, n = left.popleft(), max(AHEAD, known)
                    if n < len(layers):
                        left.appendleft(layers[n:])
                        layers = layers[:n]
                    ahead.append(step(layers))
                if len(lanes) > 1 and left and known >= len(ahead[0].layers) + len(left[0]):
                    # So that no lane waits for another one, or for whoever takes the answers.
                    ahead.append(step(left.popleft()))
                now = ahead.popleft()
                try:
                    found = dict(item for part in now.begun.results() for item in part.items())
                except NotFiniteError:
                    if len(now.keys) == 1:
                        ((i, place),) = now.keys
                        if not place or wanted(i, now.layers[place]):
                            yield i, now.layers[place], NO_ANSWER
                        continue
                    # One that is not finite spoils all that share its cache: each by itself.
                    rest = [now.layers, *(each.layers for each in ahead), *left]
                    one_by_one = [[layer] for layers in rest for layer in layers]
                    for each in ahead:
                        each.begun.drop()
                    for i in prompts:
                        alone = [[(i, 0)]]
                        yield from self._round(jobs, alone, one_by_one, max_tokens, wanted, certain)
                    return
                for place, layer in enumerate(now.layers):
                    for i in prompts:
                        # By now it may be known that an answer computed ahead is not wanted.
                        if (i, place) in found and (not place or wanted(i, layer)):
                            yield i, layer, found[i, place].answer()
        finally:
            for each in ahead:
                each.begun.drop()

    def together(self, n_tokens: int, shared: int = 0) -> int:
        shared = self._placing.in_front(shared, [n_tokens])
        cells = self._most_rows(FEW_ROWS) - shared
        return max(1, min(self.batch_size, cells // aligned(n_tokens - shared)))

    def _most_cells(self) -> int:
        cells, times = self._most_rows(FEW_ROWS), MORE_CELLS[self.model.attention]
        is_small = self.model.context_bytes(times * cells) <= _MEMORY
        return self._possible(times * cells) if is_small else cells

    def _most_rows(self, on_cpu: Mapping[str, int]) -> int:
        rows = on_cpu[self.model.attention] * (1 if self.model.on_cpu else ON_DEVICES)
        return self._possible(rows)

    def _possible(self, cells: int) -> int:
        """So many, or as many as the model's context may hold beside a companion."""
        most = self.model.most_cells
        return min(cells, most - 1) if most else cells

    def _lanes(self, rows: int, room: int, cells: int) -> int:
        """How many lanes some work is for, of so many rows in a lane, which has so many cells."""
        most = self._contexts.most
        needed = self.model.context_bytes(max(room, cells), MOST_PROMPTS)
        return most if rows >= ROWS_A_LANE and 2 * most * needed < free_memory() else 1

    def _rounds(
        self, lengths: Sequence[int], most_rows: int, lanes: int, shared: int = 0
    ) -> Iterator[Sequence[range]]:
        """Batches that are computed at the same time, one in each lane, or one alone."""
        most = self.batch_size
        batches = list(self._batched(lengths, most_rows, shared, most))
        if lanes > 1:
            n = -(-len(batches) // lanes) * lanes
            most = min(most, -(-len(lengths) // n))
            even = list(self._batched(lengths, most_rows, shared, most))
            batches = even if len(even) <= n else batches
        while batches:
            some = batches[:lanes]
            rows = [sum(lengths[batch.start : batch.stop]) for batch in some]
            if len(some) < lanes or max(rows) * lanes > _UNEVEN * sum(rows):
                some = some[:1]
            yield some
            batches = batches[len(some) :]

    def _batched(
        self, lengths: Sequence[int], most_rows: int, shared: int, most: int
    ) -> Iterator[range]:
        """Neighbours that share a decode: at most so many, and so many rows. shared: how many of
        the rows of each are those of all.

        Those that grow longer than a sliding window are alone: llama.cpp gives the cells of tokens
        that have left it to other sequences, and a rewound answer would need them again.
        """
        window, start = self.model.info.sliding_window, 0
        most = min(most, MOST_PROMPTS)
        while start < len(lengths):
            end = start + 1
            while (
                end < len(lengths)
                and end - start < most
                and (not window or max(lengths[start : end + 1]) <= window)
                and sum(lengths[start : end + 1]) - (end - start) * shared
                <= max(most_rows, lengths[start])
            ):
                end += 1
            yield range(start, end)
            start = end


@dataclass(frozen=True)
class _Step:
    """Layers that are computed together. keys: which of their answers are."""

    layers: Sequence[int]
    keys: Sequence[Key]
    begun: Begun[dict[Key, Writing]]


def _everything(_number: int, _layer: int) -> bool:
    return True


def _always(_number: int) -> int:
    return sys.maxsize


def _once(_number: int) -> int:
    return 1


def _neighbours(layers: Sequence[int], most: int) -> list[Sequence[int]]:
    """Layers, from the last one down, in groups of neighbours, as even as can be."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    groups: list[Sequence[int]] = []
    for run in runs:
        n = -(-len(run) // most)
        ends = [len(run) * i // n for i in range(n + 1)]
        groups += [run[start:end] for start, end in itertools.pairwise(ends)]
    return groups


def _changes_all_rows(intervention: Intervention) -> bool:
    """Whether every row of a prompt goes through all blocks from the layer on."""
    return not (intervention.needs_donor or intervention.holds_past or intervention.attention_off)


def _rows(run: CleanRun, intervention: Intervention) -> int:
    """How many rows of a prompt are computed at a layer."""
    length = len(run.prompt)
    return 1 if intervention.attention_off else length - intervention.first_row(length)
