"""Compute only what an intervention changes; equal to full.py.

An intervention at layer k leaves everything below k as it was. One clean pass keeps the states;
then, for each layer, only blocks k ... L-1 are computed, from the states kept:

    as usual           all rows from the first one that is written to; some may be held to it
    past held          keys and values of the past tokens, then the last row (freeze)
    attention off      the last row (skip)

Which of these it is, an intervention says about itself.

Several prompts share a decode, one sequence each. Generation goes on in the same way as long as
the answer is the clean one, whose states are known; when an answer leaves it, whole blocks are
computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from localprobe.engine.full import (
    CLEAN,
    NO_ANSWER,
    Answer,
    CleanRun,
    FullEngine,
    Stop,
    Wanted,
    Writing,
)
from localprobe.engine.interventions import Edit, FloatArray, Intervention
from localprobe.engine.regions import MOST_PROMPTS, STEP, Regions, aligned
from localprobe.errors import NotFiniteError
from localprobe.llama.batch import Batch, Row
from localprobe.llama.graph import Graph, Part
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.residual import Keep

BATCH_SIZE = 16

FEW_ROWS, MANY_ROWS = {EXACT: 512, FLASH: 1024}, {EXACT: 256, FLASH: 512}
"""Prompts share a decode as long as their tokens fit: attention looks at every cell in use, and
llama.cpp rounds their number up to 256. Where only a few rows of each prompt are computed, more
prompts pay; where all are, they only make each other's attention longer. Flash attention passes
over what it does not see."""
MORE_CELLS, _MEMORY = 3, 1 << 29
"""Times as many, where of most prompts only the newest token is computed, unless that takes so many
bytes."""
ON_DEVICES = 2
"""Times as many, where a decode's costs are more its start and its transfers than its rows."""


@dataclass
class _Job:
    """One prompt in a batch. number: its sequence. first: the prompt's first row that changes."""

    number: int
    run: CleanRun
    intervention: Intervention
    example: int
    stop: Stop | None
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


@dataclass
class _Left:
    """A job whose answer has left the clean one at a layer, and what the cache held of it."""

    layer: int
    job: _Job
    writing: Writing
    saved: bytes


_Span = tuple[_Job, int, int]
"""The tokens [start, end) of a job."""


@dataclass
class _Batches:
    """Batches by the rows they hold: those of a prompt are the same at every layer.

    jobs: those that have cells in the cache. One that is left out at a layer keeps its own, so
    that the others find theirs. regions: where those are.
    """

    jobs: Mapping[int, _Job]
    regions: Regions
    made: dict[tuple[object, ...], Batch] = field(default_factory=dict)
    filled: bool = False
    """Whether the cells of the prompts hold clean keys and values below the layer at hand."""

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
        """batch_size: how many prompts share a decode. keeps_bits: whether that was seen to change
        no bit of any. plain: let llama.cpp choose their cells.
        """
        super().__init__(model, noise)
        self.batch_size, self._is_plain = batch_size, plain
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
        for some in self._batched(lengths, self._most_rows(FEW_ROWS)):
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
        shared = self._in_front(_shared_prefix(prompts))
        lengths = [len(prompt) + max_tokens for prompt in prompts]
        regions = Regions(model, lengths, shared, plain=self._is_plain)
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
        for i, prompt in enumerate(prompts):
            regions.take(i, shared, len(prompt))
        rows = [
            Row(prompt[p], p, (i,), p == len(prompt) - 1)
            for i, prompt in enumerate(prompts)
            for p in range(shared, len(prompt))
        ]
        writings = [
            Writing(model, prompt, max_tokens, stop, row, self.noise)
            for prompt, stop, row in zip(prompts, stops, kept.decode(model, rows), strict=True)
        ]
        while active := [i for i in everyone if not writings[i].done]:
            newest = [writings[i].sequence for i in active]
            rows = [
                Row(sequence[-1], len(sequence) - 1, (i,), True)
                for i, sequence in zip(active, newest, strict=True)
            ]
            for i, sequence in zip(active, newest, strict=True):
                regions.take(i, len(sequence) - 1, len(sequence))
            for i, row in zip(active, kept.decode(model, rows), strict=True):
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
    ) -> Iterator[tuple[int, int, Answer]]:
        if not runs:
            return
        if len(runs) == 1 and wanted is None and self._keeps_bits:
            job = _Job(0, runs[0], interventions[0], examples[0], stops[0])
            yield from self._run_alone(job, sorted(layers, reverse=True), max_tokens)
            return
        wanted = wanted or _everything
        all_rows = _changes_all_rows(interventions[0])
        lengths = [self._room(run.prompt, max_tokens) for run in runs]
        downwards = sorted(layers, reverse=True)
        most_rows = self._most_rows(MANY_ROWS) if all_rows else self._most_cells()
        for some in self._batched(lengths, most_rows):
            jobs = {
                i: _Job(i - some.start, runs[i], interventions[i], examples[i], stops[i])
                for i in some
            }
            yield from self._run_batch(jobs, downwards, max_tokens, wanted)

    def _run_alone(
        self, job: _Job, layers: Sequence[int], max_tokens: int
    ) -> Iterator[tuple[int, int, Answer]]:
        """The answers of one prompt: those that leave the clean one are written side by side.

        A layer is a graph of its own, but from the second token on all are whole passes.
        """
        lengths = [self._room(job.run.prompt, max_tokens)] * len(layers)
        for part in self._batched(lengths, self._most_cells(), MOST_PROMPTS):
            some = layers[part.start : part.stop]
            left: list[_Left] = []
            try:
                # Attention is switched off for all rows of a decode, or for none.
                aside = None if job.intervention.attention_off else left
                found = list(self._run_batch({0: job}, some, max_tokens, _everything, aside))
                self._go_on_side_by_side(left, max_tokens)
            except NotFiniteError:
                # One that is not finite spoils all that share its cache: each by itself.
                found, left = list(self._run_batch({0: job}, some, max_tokens, _everything)), []
            written = {one.layer: one.writing.answer() for one in left}
            for number, layer, answer in found:
                yield number, layer, written.get(layer, answer)

    def _go_on_side_by_side(self, left: Sequence[_Left], max_tokens: int) -> None:
        """Generate to the end, each in a sequence of its own."""
        lengths = [len(one.job.run.prompt) + max_tokens for one in left]
        if not left:
            return
        regions = Regions(self.model, lengths, plain=self._is_plain)
        regions.reserve()
        self.model.clear()
        regions.lay()
        jobs = []
        for number, one in enumerate(left):
            regions.take(number, 0, len(one.job.run.prompt))
            self.model.restore(one.saved, number)
            jobs.append(replace(one.job, number=number, writing=one.writing))
        self._go_on_together(jobs, [one.layer for one in left], regions)

    def _run_batch(
        self,
        jobs: Mapping[int, _Job],
        layers: Sequence[int],
        max_tokens: int,
        wanted: Wanted,
        left: list[_Left] | None = None,
    ) -> Iterator[tuple[int, int, Answer]]:
        """The answers of jobs that share decodes, layers going down. jobs: by prompt's number.

        left: where given, it gets those that leave the clean answer, to be gone on with.
        """
        ready: _Batches | None = None
        n_decodes = 0
        for below, layer in enumerate(layers):
            todo = {i: job for i, job in jobs.items() if wanted(i, layer)}
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
                    lengths = [len(job.run.prompt) + max_tokens for job in jobs.values()]
                    ready = _Batches(todo, self._fill_prefix(list(todo.values()), lengths))
                for job in todo.values():
                    job.writing = None
                self._layer(list(todo.values()), layer, max_tokens, ready, left)
                n_decodes = self.model.n_decodes
            except NotFiniteError:
                if left is not None:
                    raise
                if len(todo) > 1:
                    # One that is not finite spoils all that share its cache: each by itself.
                    for i, job in jobs.items():
                        alone = {i: replace(job, number=0)}
                        yield from self._run_batch(alone, layers[below:], max_tokens, wanted)
                    return
                yield next(iter(todo)), layer, NO_ANSWER
                ready = None
                continue
            for i, job in todo.items():
                assert job.writing is not None
                yield i, layer, job.writing.answer()

    def _layer(
        self,
        jobs: list[_Job],
        layer: int,
        max_tokens: int,
        batches: _Batches,
        left: list[_Left] | None,
    ) -> None:
        """Write the answers of all jobs at a layer; of those that leave the clean one, the rest is
        left to whoever asked for it.
        """
        active, elsewhere = jobs, list[_Job]()
        while active:
            logits = self._step(active, layer, batches)
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
        if elsewhere:
            if not batches.filled:
                self._fill_below(list(batches.jobs.values()), layer, batches)
                batches.filled = True
            if left is None:
                self._go_on_together(elsewhere, [layer] * len(elsewhere), batches.regions)
            else:
                left += [self._leave(job, layer) for job in elsewhere]

    def _leave(self, job: _Job, layer: int) -> _Left:
        assert job.writing is not None
        self.model.forget(job.number, len(job.run.prompt))
        return _Left(layer, job, job.writing, self.model.saved(job.number))

    def _fill_prefix(self, jobs: Sequence[_Job], lengths: Sequence[int]) -> Regions:
        """What stands before the first row that changes, clean, where that row attends to it.

        lengths: of all prompts that have a number, with their answers. Returns where they lie.
        """
        prompts = [job.run.prompt[: job.first + 1] for job in jobs]
        is_needed = not jobs[0].intervention.attention_off and any(job.first for job in jobs)
        shared = 0
        if is_needed:
            shared = self._in_front(min(_shared_prefix(prompts), *(job.first for job in jobs)))
        regions = Regions(self.model, lengths, shared, plain=self._is_plain)
        regions.reserve()
        self.model.clear()
        if shared:
            everyone = tuple(job.number for job in jobs)
            self._fill(regions, [Row(prompts[0][p], p, everyone) for p in range(shared)])
        regions.lay()
        if is_needed:
            for job in jobs:
                regions.take(job.number, shared, job.first)
            rows = [
                Row(job.run.prompt[p], p, (job.number,))
                for job in jobs
                for p in range(shared, job.first)
            ]
            self._fill(regions, rows)
        return regions

    def _fill(self, regions: Regions, rows: list[Row]) -> None:
        if rows:
            rows = regions.in_company(rows, want_logits=False)
            self.model.decode(Batch([*rows[:-1], replace(rows[-1], output=True)]), CLEAN)

    def _fill_below(self, jobs: Sequence[_Job], layer: int, batches: _Batches) -> None:
        """Clean keys and values below a layer, in the cells that hold those from it on.

        Only answers that leave the clean one need them. They stay there for all lower layers,
        since every layer finds its rows in the same cells.
        """
        kind = jobs[0].intervention
        if kind.attention_off:
            self.model.clear()
            batches.regions.lay()
            starts = [0] * len(jobs)
        else:
            starts = [job.first for job in jobs]
        lengths = [len(job.run.prompt) for job in jobs]
        spans = list(zip(jobs, starts, lengths, strict=True))
        past, newest = _split(spans)
        is_split = kind.attention_off or kind.holds_past
        parts = [(past, "one"), (newest, "each")] if is_split else [(spans, "each")]
        for part, outputs in parts:
            batches.take(part)
            rows = batches.of(part, outputs)
            self.model.decode_part(rows, lambda graph: graph.below(layer), want_logits=False)

    def _go_on_together(
        self, jobs: Sequence[_Job], layers: Sequence[int], regions: Regions
    ) -> None:
        """Generate to the end through all blocks, the cache holding the prompts.

        layers: of each job, that at which it is changed.
        """
        in_order = sorted(zip(jobs, layers, strict=True), key=lambda pair: pair[0].number)
        todo = [(job, job.writing, layer) for job, layer in in_order if job.writing is not None]
        rewrites = jobs[0].intervention.writes_generated
        starts = {job.number: len(job.run.prompt) - rewrites for job in jobs}
        while todo:
            rows: list[Row] = []
            edits: list[tuple[Edit, int]] = []
            for job, writing, layer in todo:
                start, end = starts[job.number], len(writing.sequence)
                regions.take(job.number, start, end)
                rows += [
                    Row(writing.sequence[p], p, (job.number,), p == end - 1)
                    for p in range(start, end)
                ]
                edits.append(
                    (self._change(job.intervention, layer, job.example)(start), end - start)
                )
                starts[job.number] = end - rewrites
            together = regions.in_company(rows)
            edits += [(CLEAN, 1)] * (len(together) - len(rows))
            logits = self.model.decode(Batch(together), _Together(edits))
            for (_, writing, _), row in zip(todo, logits, strict=False):
                writing.take(row)
            todo = [each for each in todo if not each[1].done]

    def _step(self, jobs: Sequence[_Job], layer: int, batches: _Batches) -> FloatArray:
        """Logits (n_jobs, n_vocab) after the newest token of each, which is clean."""
        model = self.model
        first_step = jobs[0].writing is None
        starts = [
            job.first if first_step else job.newest - job.intervention.writes_generated
            for job in jobs
        ]
        spans = list(zip(jobs, starts, [job.newest + 1 for job in jobs], strict=True))
        kind = jobs[0].intervention
        if kind.attention_off:
            entry = np.concatenate([_clean_states(span, layer) for span in spans])
        else:
            written = [_written_states(span, layer) for span in spans]
            if kind.holds_past:
                past, spans = _split(spans)
                self._hold(past, [states[:-1] for states in written], layer, batches)
                written = [states[-1:] for states in written]
            entry = np.concatenate(written)
        batches.take(spans)
        rows, kept = batches.of(spans, "each"), _held_rows(spans)
        entry = _for_all(rows, entry)

        def part(graph: Graph) -> Part:
            if kind.attention_off:
                return graph.without_attention(layer, entry)
            if kept:
                return graph.holding(layer, entry, kept)
            return graph.from_layer(layer, entry)

        return model.decode_part(rows, part)[: len(jobs)]

    def _hold(
        self, past: Sequence[_Span], states: Sequence[FloatArray], layer: int, batches: _Batches
    ) -> None:
        """Keys and values of past tokens that keep these states in all blocks from a layer on."""
        batches.take(past)
        rows = batches.of(past, "one")
        held = _for_all(rows, np.concatenate(states))
        self.model.decode_part(
            rows, lambda graph: graph.keys_and_values(layer, held), want_logits=False
        )

    def _room(self, prompt: Sequence[int], max_tokens: int) -> int:
        """How many cells a prompt and its answer take."""
        length = len(prompt) + max_tokens
        return length if self._is_plain else aligned(length)

    def _in_front(self, shared: int) -> int:
        """How many of the tokens that prompts have in common lie in front of all regions."""
        return shared if self._is_plain else shared - shared % STEP

    def together(self, n_tokens: int) -> int:
        return max(1, min(self.batch_size, self._most_rows(FEW_ROWS) // aligned(n_tokens)))

    def _most_cells(self) -> int:
        cells = self._most_rows(FEW_ROWS)
        is_small = self.model.context_bytes(MORE_CELLS * cells) <= _MEMORY
        return MORE_CELLS * cells if is_small else cells

    def _most_rows(self, on_cpu: Mapping[str, int]) -> int:
        return on_cpu[self.model.attention] * (1 if self.model.on_cpu else ON_DEVICES)

    def _batched(
        self, lengths: Sequence[int], most_rows: int, most: int | None = None
    ) -> Iterator[range]:
        """Neighbours that share a decode: at most so many (batch_size if None), and so many rows.

        Those that grow longer than a sliding window are alone: llama.cpp gives the cells of tokens
        that have left it to other sequences, and a rewound answer would need them again.
        """
        window, start = self.model.info.sliding_window, 0
        most = min(most or self.batch_size, MOST_PROMPTS)
        while start < len(lengths):
            end = start + 1
            while (
                end < len(lengths)
                and end - start < most
                and (not window or max(lengths[start : end + 1]) <= window)
                and sum(lengths[start : end + 1]) <= max(most_rows, lengths[start])
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


def _split(spans: Sequence[_Span]) -> tuple[list[_Span], list[_Span]]:
    """The past tokens of some spans, and their last ones."""
    past = [(job, start, end - 1) for job, start, end in spans]
    return past, [(job, end - 1, end) for job, _, end in spans]


def _clean_states(span: _Span, layer: int) -> FloatArray:
    """The clean states of a span's rows at a layer."""
    job, start, end = span
    return job.run.states[layer][start:end]


def _written_states(span: _Span, layer: int) -> FloatArray:
    """What the intervention at a layer makes of a span's states there."""
    job, start, end = span
    states = _clean_states(span, layer)
    if end - start < 2:
        return states  # the last token alone, which is never written to
    edit = job.intervention.edit(layer, n_layer=layer + 1, example=job.example, start=start)
    new = None
    for at in sorted(edit.layers):
        new = edit.apply(at, _clean_states(span, at))
    return states if new is None else new


def _held_rows(spans: Sequence[_Span]) -> list[int]:
    """Which of the spans' rows, one span after another, keep their state in all later blocks."""
    held, offset = list[int](), 0
    for job, start, end in spans:
        # The last token is never written to.
        held += [offset + p - start for p in job.intervention.held() if start <= p < end - 1]
        offset += end - start
    return held


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
