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
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from localprobe.engine.full import (
    CLEAN,
    NO_ANSWER,
    Answer,
    Certain,
    CleanRun,
    FullEngine,
    Stop,
    Wanted,
    Writing,
)
from localprobe.engine.interventions import Edit, FloatArray, Intervention
from localprobe.engine.regions import MOST_PROMPTS, STEP, TILE, Regions, aligned, alike
from localprobe.errors import NotFiniteError
from localprobe.llama.batch import Batch, Row
from localprobe.llama.graph import Graph, Later, Part
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.residual import Keep

BATCH_SIZE = 32

FEW_ROWS, MANY_ROWS = {EXACT: 512, FLASH: 1024}, {EXACT: 256, FLASH: 512}
"""Prompts share a decode as long as their tokens fit: attention looks at every cell in use, and
llama.cpp rounds their number up to 256. Where only a few rows of each prompt are computed, more
prompts pay; where all are, they only make each other's attention longer: flash attention passes
over what a row does not see, but looks for it first."""
MORE_CELLS, _MEMORY = {EXACT: 2, FLASH: 3}, 1 << 29
"""Times as many, where of most prompts only the newest token is computed, unless that takes so many
bytes."""
ENOUGH_ROWS, MOST_LAYERS = TILE - 1, 16
"""Layers share a decode up to so many rows, which is then nearly as fast a row as any. They pass
through blocks below their own for nothing, so no more than so many do."""
AHEAD = 3
"""So many do though it is not known whether all are wanted: rows are cheaper than decodes."""
ON_DEVICES = 2
"""Times as many, where a decode's costs are more its start and its transfers than its rows."""


@dataclass
class _Job:
    """One prompt at one layer in a batch, and then at another.

    prompt: which one. number: the job's sequence. first: the prompt's first row that changes.
    """

    prompt: int
    number: int
    run: CleanRun
    intervention: Intervention
    example: int
    stop: Stop | None
    layer: int = 0
    writing: Writing | None = None

    @property
    def first(self) -> int:
        return self.intervention.first_row(len(self.run.prompt))

    @property
    def newest(self) -> int:
        length = len(self.run.prompt) if self.writing is None else len(self.writing.sequence)
        return length - 1

    def knows_the_newest(self) -> bool:
        """Whether the answer so far is the clean one, with the states of its newest token."""
        assert self.writing is not None
        sequence = self.writing.sequence
        return tuple(sequence) == self.run.tokens[: len(sequence)]


_Span = tuple[_Job, int, int]
"""The tokens [start, end) of a job."""


@dataclass
class _Batches:
    """Batches by the rows they hold: those of a prompt are the same at every layer.

    jobs: those that have cells in the cache, by prompt and by place among the layers that share a
    decode. One that is left out at a layer keeps its own, so that the others find theirs. regions:
    where those are.
    """

    jobs: Mapping[tuple[int, int], _Job]
    regions: Regions
    made: dict[tuple[object, ...], Batch] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)
    """The prompts whose cells hold clean keys and values below their layers."""

    @property
    def shares_layers(self) -> bool:
        """Whether a prompt has several jobs, for layers that share decodes."""
        return any(place for _, place in self.jobs)

    def take(self, spans: Sequence[_Span]) -> None:
        """Before the rows of some spans are decoded: forget what their jobs have from there on."""
        for job, start, end in spans:
            self.regions.take(job.number, start, end)

    def of(self, spans: Sequence[_Span], outputs: str) -> Batch:
        """The rows of some spans. outputs: each (job's last row) or one (row), not looked at."""
        key = (outputs, *((job.number, start, end) for job, start, end in spans))
        if key not in self.made:
            rows = self.regions.in_company(
                [
                    Row(job.run.tokens[p], p, (job.number,), outputs == "each" and p == end - 1)
                    for job, start, end in spans
                    for p in range(start, end)
                ],
                want_logits=outputs == "each",
            )
            if outputs == "one":
                # The graph of a decode without any output is another one.
                rows[-1] = replace(rows[-1], output=True)
            self.made[key] = Batch(rows)
        return self.made[key]


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
        self.batch_size, self._asked_plain = batch_size, plain
        self._keeps_bits = keeps_bits
        self.company = 1 if keeps_bits else batch_size

    def clean(
        self,
        prompts: Sequence[Sequence[int]],
        layers: Iterable[int],
        *,
        max_tokens: int,
        stops: Sequence[Stop | None],
    ) -> list[CleanRun]:
        asked = frozenset(layers)
        # An intervention at a layer may look at the states of the layer before it.
        wanted = asked | {layer - 1 for layer in asked if layer > 0}
        runs: list[CleanRun] = []
        lengths = [self._room(prompt, max_tokens) for prompt in prompts]
        shared = self._in_front(_shared_prefix(prompts), lengths)
        for some in self._batched(lengths, self._most_rows(FEW_ROWS), shared):
            part = slice(some.start, some.stop)
            try:
                runs += self._clean_batch(prompts[part], wanted, max_tokens, stops[part])
            except NotFiniteError:
                if len(some) == 1:
                    prompt = tuple(prompts[some.start])
                    runs.append(CleanRun(prompt, NO_ANSWER, prompt, {}))
                    continue
                # One that is not finite spoils all that share its cache: each by itself.
                for i in some:
                    runs += self.clean([prompts[i]], asked, max_tokens=max_tokens, stops=[stops[i]])
        return runs

    def _clean_batch(
        self,
        prompts: Sequence[Sequence[int]],
        layers: frozenset[int],
        max_tokens: int,
        stops: Sequence[Stop | None],
    ) -> list[CleanRun]:
        model, n = self.model, len(prompts)
        for prompt in prompts:
            model.check_length(len(prompt) + max_tokens)
        lengths = [len(prompt) + max_tokens for prompt in prompts]
        shared = self._in_front(_shared_prefix(prompts), lengths)
        regions = self._regions(lengths, shared)
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
            for part in self._alike([b - a for a, b in zip(starts, ends, strict=True)]):
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
            Writing(model, prompt, max_tokens, stop, row, self.noise)
            for prompt, stop, row in zip(
                prompts, stops, logits_of(everyone, [shared] * n), strict=True
            )
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
        all_rows = _changes_all_rows(interventions[0])
        rooms = [self._room(run.prompt, max_tokens) for run in runs]
        downwards = sorted(layers, reverse=True)
        cells = self._most_rows(MANY_ROWS) if all_rows else self._most_cells()
        for some in self._batched(rooms, cells):
            n = 1
            if certain is not None and self.batch_size > 1:
                part = slice(some.start, some.stop)
                n = self._layers_together(runs[part], interventions[0], rooms[part], cells)
            jobs = {
                i: _Job(i, i - some.start, runs[i], interventions[i], examples[i], stops[i])
                for i in some
            }
            groups = _neighbours(downwards, n)
            yield from self._run_batch(jobs, groups, max_tokens, wanted, certain or _once)

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
            (self.model.first_shared < self.model.n_layer or self.model.has_inputs)
            # What stands before it would be filled for each of them.
            or (
                first
                and not intervention.attention_off
                and (len(runs) > 1 or (self._is_tiled and max(rooms) >= TILE))
            )
            or (window and max(rooms) > window)
        ):
            return 1
        rows = len(runs)
        if not (intervention.attention_off or intervention.holds_past):
            rows = sum(len(run.prompt) - intervention.first_row(len(run.prompt)) for run in runs)
        return max(
            1,
            min(ENOUGH_ROWS // rows, MOST_LAYERS, cells // sum(rooms), MOST_PROMPTS // len(runs)),
        )

    def _run_batch(
        self,
        jobs: Mapping[int, _Job],
        groups: Sequence[Sequence[int]],
        max_tokens: int,
        wanted: Wanted,
        certain: Certain,
    ) -> Iterator[tuple[int, int, Answer]]:
        """The answers of jobs that share decodes, at layers that share them, going down.

        jobs: by prompt's number.
        """
        places = range(max(map(len, groups), default=0))
        each = {
            (i, place): replace(job, number=job.number * len(places) + place)
            for i, job in jobs.items()
            for place in places
        }
        ready: _Batches | None = None
        n_decodes = 0
        left = deque(groups)
        while left:
            layers, n = left.popleft(), max(AHEAD, min(map(certain, jobs)))
            if n < len(layers):
                left.appendleft(layers[n:])
                layers = layers[:n]
            todo = {
                (i, place): each[i, place]
                for i in jobs
                for place, layer in enumerate(layers)
                if wanted(i, layer)
            }
            if not todo:
                continue
            try:
                # Whoever is given an answer may use the model before asking for the next one. And
                # one that has no cells yet would take those of others.
                if (
                    ready is None
                    or self.model.n_decodes != n_decodes
                    or not todo.keys() <= ready.jobs.keys()
                ):
                    prompts = {i for i, _ in todo}
                    having = {at: job for at, job in each.items() if at[0] in prompts}
                    lengths = [len(job.run.prompt) + max_tokens for job in each.values()]
                    ready = _Batches(having, self._fill_prefix(list(having.values()), lengths))
                for (_, place), job in todo.items():
                    job.layer, job.writing = layers[place], None
                self._layers(list(todo.values()), max_tokens, ready)
                n_decodes = self.model.n_decodes
            except NotFiniteError:
                if len(todo) > 1:
                    # One that is not finite spoils all that share its cache: each by itself.
                    for i, job in jobs.items():
                        alone = {i: replace(job, number=0)}
                        one_by_one = [[layer] for rest in (layers, *left) for layer in rest]
                        yield from self._run_batch(alone, one_by_one, max_tokens, wanted, certain)
                    return
                yield next(iter(todo))[0], layers[0], NO_ANSWER
                ready = None
                continue
            for place, layer in enumerate(layers):
                for i in jobs:
                    # By now it may be known that an answer computed ahead is not wanted.
                    if (i, place) in todo and (not place or wanted(i, layer)):
                        writing = todo[i, place].writing
                        assert writing is not None
                        yield i, layer, writing.answer()

    def _layers(self, jobs: list[_Job], max_tokens: int, batches: _Batches) -> None:
        """Write the answers of all jobs, each at its layer."""
        active, elsewhere = jobs, list[_Job]()
        while active:
            logits = self._step(active, batches)
            for job, row in zip(active, logits, strict=True):
                if job.writing is None:
                    job.writing = Writing(
                        self.model, job.run.prompt, max_tokens, job.stop, row, self.noise
                    )
                else:
                    job.writing.take(row)
            unfinished = [job for job in active if job.writing and not job.writing.done]
            active = [job for job in unfinished if job.knows_the_newest()]
            elsewhere += [job for job in unfinished if not job.knows_the_newest()]
        if not elsewhere:
            return
        elsewhere.sort(key=lambda job: job.number)
        off = jobs[0].intervention.attention_off
        if off and self._is_plain:
            # What lies below a layer stays only where every layer finds its rows in the same cells.
            # Here the newest tokens came first, and llama.cpp gives them other cells each time.
            self.model.clear()
            batches.filled.clear()
        if missing := [job for job in elsewhere if job.prompt not in batches.filled]:
            highest = max(job.layer for job in jobs)
            self._fill_below(highest, {job.prompt for job in missing}, batches)
            if batches.shares_layers and not off:
                # What stood there from their own layers on was written over.
                self._step([replace(job, writing=None) for job in missing], batches)
        # Attention is switched off for all rows of a decode, or for none.
        for layer in sorted({job.layer for job in elsewhere}) if off else [None]:
            some = [job for job in elsewhere if layer is None or job.layer == layer]
            self._go_on_together(some, batches.regions)

    def _fill_prefix(self, jobs: Sequence[_Job], lengths: Sequence[int]) -> Regions:
        """What stands before the first row that changes, clean, where that row attends to it.

        lengths: of all prompts that have a number, with their answers. Returns where they lie.
        """
        prompts = [job.run.prompt[: job.first + 1] for job in jobs]
        is_needed = not jobs[0].intervention.attention_off and any(job.first for job in jobs)
        shared = 0
        if is_needed:
            shared = min(_shared_prefix(prompts), *(job.first for job in jobs))
            shared = self._in_front(shared, lengths)
        regions = self._regions(lengths, shared)
        regions.reserve()
        self.model.clear()
        if shared:
            everyone = tuple(job.number for job in jobs)
            self._fill(regions, [Row(prompts[0][p], p, everyone) for p in range(shared)])
        regions.lay()
        if is_needed:
            for part in self._alike([job.first - shared for job in jobs]):
                for job in jobs[part]:
                    regions.take(job.number, shared, job.first)
                rows = [
                    Row(job.run.prompt[p], p, (job.number,))
                    for job in jobs[part]
                    for p in range(shared, job.first)
                ]
                self._fill(regions, rows)
        return regions

    def _fill(self, regions: Regions, rows: list[Row]) -> None:
        if rows:
            rows = regions.in_company(rows, want_logits=False)
            self.model.decode(Batch([*rows[:-1], replace(rows[-1], output=True)]), CLEAN)

    def _fill_below(self, layer: int, prompts: Collection[int], batches: _Batches) -> None:
        """Clean keys and values below a layer, in the cells of some prompts.

        Only answers that leave the clean one need them. Below their layers they stay there, since
        every layer finds its rows in the same cells.
        """
        batches.filled.update(prompts)
        by_prompt: dict[int, list[_Job]] = {}
        for (i, _), job in batches.jobs.items():
            if i in prompts:
                by_prompt.setdefault(i, []).append(job)
        jobs = [same[0] for same in by_prompt.values()]
        kind = jobs[0].intervention
        starts = [0 if kind.attention_off else job.first for job in jobs]
        lengths = [len(job.run.prompt) for job in jobs]
        spans = list(zip(jobs, starts, lengths, strict=True))
        past, newest = _split(spans)
        is_split = kind.attention_off or kind.holds_past
        parts = [(past, "one"), (newest, "each")] if is_split else [(spans, "each")]
        for every, outputs in parts:
            for part in self._alike([end - start for _, start, end in every]):
                batches.take(every[part])
                rows = batches.of(every[part], outputs)
                self.model.decode_part(rows, lambda graph: graph.below(layer), want_logits=False)
        for one, *others in by_prompt.values():
            length = len(one.run.prompt)
            batches.regions.copy(one.number, [other.number for other in others], length)

    def _go_on_together(self, jobs: Sequence[_Job], regions: Regions) -> None:
        """Generate to the end through all blocks, the cache holding the prompts.

        jobs: in the order of their numbers.
        """
        todo = [(job, job.writing) for job in jobs if job.writing is not None]
        rewrites = jobs[0].intervention.writes_generated
        starts = {job.number: len(job.run.prompt) - rewrites for job in jobs}
        while todo:
            counts = [len(writing.sequence) - starts[job.number] for job, writing in todo]
            for part in self._alike(counts):
                rows: list[Row] = []
                edits: list[tuple[Edit, int]] = []
                for job, writing in todo[part]:
                    start, end = starts[job.number], len(writing.sequence)
                    regions.take(job.number, start, end)
                    rows += [
                        Row(writing.sequence[p], p, (job.number,), p == end - 1)
                        for p in range(start, end)
                    ]
                    change = self._change(job.intervention, job.layer, job.example)
                    edits.append((change(start), end - start))
                    starts[job.number] = end - rewrites
                together = regions.in_company(rows)
                edits += [(CLEAN, 1)] * (len(together) - len(rows))
                logits = self.model.decode(Batch(together), _Together(edits))
                for (_, writing), row in zip(todo[part], logits, strict=False):
                    writing.take(row)
            todo = [each for each in todo if not each[1].done]

    def _step(self, jobs: Sequence[_Job], batches: _Batches) -> FloatArray:
        """Logits (n_jobs, n_vocab) after the newest token of each, which is clean."""
        first_step = jobs[0].writing is None
        starts = [
            job.first if first_step else job.newest - job.intervention.writes_generated
            for job in jobs
        ]
        spans = list(zip(jobs, starts, [job.newest + 1 for job in jobs], strict=True))
        kind = jobs[0].intervention
        if kind.attention_off:
            states = [_clean_states(span, span[0].layer) for span in spans]
        else:
            states = [_written_states(span) for span in spans]
            if kind.holds_past:
                past, spans = _split(spans)
                self._hold(past, [each[:-1] for each in states], batches)
                states = [each[-1:] for each in states]
        counts = [end - start for _, start, end in spans]
        parts = [slice(None)] if kind.attention_off else self._alike(counts)
        return np.concatenate([self._enter(spans[p], states[p], batches) for p in parts])

    def _enter(
        self, spans: Sequence[_Span], states: Sequence[FloatArray], batches: _Batches
    ) -> FloatArray:
        """Logits (n_spans, n_vocab) of one decode, each going on from its states at its layer."""
        batches.take(spans)
        rows, lowest = batches.of(spans, "each"), min(job.layer for job, _, _ in spans)
        entry = _for_all(rows, _at(lowest, spans, states))
        later = _written_later(spans, states, self.model.n_layer)

        def part(graph: Graph) -> Part:
            if spans[0][0].intervention.attention_off:
                return graph.without_attention(lowest, entry, later)
            return graph.from_layer(lowest, entry, later)

        return self.model.decode_part(rows, part)[: len(spans)]

    def _hold(self, past: Sequence[_Span], states: Sequence[FloatArray], batches: _Batches) -> None:
        """Keys and values of past tokens that keep these states in all blocks from theirs on."""
        batches.take(past)
        rows, layers = batches.of(past, "one"), [job.layer for job, _, _ in past]

        @cache
        def held(block: int) -> FloatArray:
            return _for_all(rows, _at(block, past, states))

        def part(graph: Graph) -> Part:
            # From the highest of the layers on, all are as they are written.
            return graph.keys_and_values(min(layers), lambda block: held(min(block, max(layers))))

        self.model.decode_part(rows, part, want_logits=False)

    @property
    def _is_plain(self) -> bool:
        """Whether llama.cpp chooses the cells: as few as can be, which is what flash attention
        wants where bits do not matter.
        """
        return self._asked_plain or (not self._keeps_bits and self.model.attention == FLASH)

    @property
    def _is_tiled(self) -> bool:
        """Whether no bit may change, and flash attention takes other steps from some rows on."""
        return self._keeps_bits and self.model.attention == FLASH

    def _alike(self, counts: Sequence[int]) -> Iterable[slice]:
        """Neighbours with so many rows each that may share a decode in which rows attend."""
        return alike(counts) if self._is_tiled else [slice(0, len(counts))]

    def _regions(self, lengths: Sequence[int], shared: int = 0) -> Regions:
        step = 1 if self._is_plain else self._step_of(lengths)
        return Regions(self.model, lengths, shared, step=step, plain=self._is_plain)

    def _step_of(self, lengths: Sequence[int]) -> int:
        return TILE if self._is_tiled and max(lengths) >= TILE - 1 else STEP

    def _room(self, prompt: Sequence[int], max_tokens: int) -> int:
        """How many cells a prompt and its answer take."""
        length = len(prompt) + max_tokens
        return length if self._is_plain else aligned(length, self._step_of([length]))

    def _in_front(self, shared: int, lengths: Sequence[int]) -> int:
        """How many of the tokens that prompts have in common lie in front of all regions."""
        if self._step_of(lengths) == TILE:
            return 0  # in two decodes, a prompt's rows could be too few for tiles
        return shared if self._is_plain else shared - shared % STEP

    def together(self, n_tokens: int, shared: int = 0) -> int:
        shared = self._in_front(shared, [n_tokens])
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

    def _batched(self, lengths: Sequence[int], most_rows: int, shared: int = 0) -> Iterator[range]:
        """Neighbours that share a decode: at most batch_size, and so many rows. shared: how many of
        the rows of each are those of all.

        Those that grow longer than a sliding window are alone: llama.cpp gives the cells of tokens
        that have left it to other sequences, and a rewound answer would need them again.
        """
        window, start = self.model.info.sliding_window, 0
        most = min(self.batch_size, MOST_PROMPTS)
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


class _Together:
    """The edits of several sequences whose rows stand one after another in a decode.

    Where they switch attention off, it is off for all of them.
    """

    def __init__(self, edits: Sequence[tuple[Edit, int]]) -> None:
        self._edits = edits
        self.layers = frozenset(layer for edit, _ in edits for layer in edit.layers)
        self.attention_off_from = edits[0][0].attention_off_from

    def apply(self, layer: int, states: FloatArray) -> FloatArray:
        parts, start = [], 0
        for edit, n_rows in self._edits:
            mine = states[start : start + n_rows]
            new = edit.apply(layer, mine) if layer in edit.layers else None
            parts.append(mine if new is None else new)
            start += n_rows
        return np.concatenate(parts)


def _for_all(rows: Batch, states: FloatArray) -> FloatArray:
    """States for all rows, of which the last one may be a companion."""
    return states if len(states) == len(rows) else np.concatenate([states, states[-1:]])


def _everything(_number: int, _layer: int) -> bool:
    return True


def _always(_number: int) -> int:
    return MOST_LAYERS


def _once(_number: int) -> int:
    return 1


def _split(spans: Sequence[_Span]) -> tuple[list[_Span], list[_Span]]:
    """The past tokens of some spans, and their last ones."""
    past = [(job, start, end - 1) for job, start, end in spans]
    return past, [(job, end - 1, end) for job, _, end in spans]


def _clean_states(span: _Span, layer: int) -> FloatArray:
    """The clean states of a span's rows at a layer."""
    job, start, end = span
    return job.run.states[layer][start:end]


def _written_states(span: _Span) -> FloatArray:
    """What the intervention makes of a span's states at its layer."""
    job, start, end = span
    states = _clean_states(span, job.layer)
    if end - start < 2:
        return states  # the last token alone, which is never written to
    layer = job.layer
    edit = job.intervention.edit(layer, n_layer=layer + 1, example=job.example, start=start)
    new = None
    for at in sorted(edit.layers):
        new = edit.apply(at, _clean_states(span, at))
    return states if new is None else new


def _at(layer: int, spans: Sequence[_Span], states: Sequence[FloatArray]) -> FloatArray:
    """The spans' states at a layer: clean below their own, as written there from it on."""
    return np.concatenate(
        [
            written if span[0].layer <= layer else _clean_states(span, layer)
            for span, written in zip(spans, states, strict=True)
        ]
    )


def _written_later(spans: Sequence[_Span], states: Sequence[FloatArray], n_layer: int) -> Later:
    """What is written above the lowest layer: at its own layer every row of a span, and above that
    those that keep their state in all later blocks.
    """
    lowest, offset = min(job.layer for job, _, _ in spans), 0
    rows: dict[int, list[int]] = {}
    for job, start, end in spans:
        if job.layer > lowest:
            rows.setdefault(job.layer, []).extend(range(offset, offset + end - start))
        # The last token is never written to.
        held = [offset + p - start for p in job.intervention.held() if start <= p < end - 1]
        for layer in range(job.layer + 1, n_layer) if held else ():
            rows.setdefault(layer, []).extend(held)
        offset += end - start
    together = np.concatenate(states)
    return {layer: (these, together[these]) for layer, these in rows.items()}


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


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with in common; at least the last one is left to each."""
    if len(prompts) < 2:
        return 0
    shared = 0
    for tokens in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared
