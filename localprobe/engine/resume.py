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
from localprobe.errors import NotFiniteError
from localprobe.llama.batch import Batch, Row
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.residual import Keep

BATCH_SIZE = 16

FEW_ROWS, MANY_ROWS = {EXACT: 512, FLASH: 1024}, {EXACT: 256, FLASH: 512}
"""Prompts share a decode as long as their tokens fit: attention looks at every cell in use, and
llama.cpp rounds their number up to 256. Where only a few rows of each prompt are computed, more
prompts pay; where all are, they only make each other's attention longer. Flash attention passes
over what it does not see."""
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


_Span = tuple[_Job, int, int]
"""The tokens [start, end) of a job."""


@dataclass
class _Batches:
    """Batches by the rows they hold: those of a prompt are the same at every layer.

    jobs: those that have cells in the cache. One that is left out at a layer keeps its own, so
    that the others find theirs.
    """

    jobs: Mapping[int, _Job]
    made: dict[tuple[object, ...], Batch] = field(default_factory=dict)
    filled: bool = False
    """Whether the cells of the prompts hold clean keys and values below the layer at hand."""

    def of(self, spans: Sequence[_Span], outputs: str) -> Batch:
        """The rows of some spans. outputs: each (job's last row) or one (row)."""
        key = (outputs, *((job.number, start, end) for job, start, end in spans))
        if key not in self.made:
            rows = [
                Row(job.run.tokens[p], p, (job.number,), outputs == "each" and p == end - 1)
                for job, start, end in spans
                for p in range(start, end)
            ]
            if outputs == "one":
                # The graph of a decode without any output is another one.
                rows[-1] = Row(rows[-1].token, rows[-1].position, rows[-1].sequences, True)
            self.made[key] = Batch(rows)
        return self.made[key]


class _Kept:
    """The states of some layers, for each of n sequences, of every row that is decoded."""

    def __init__(self, layers: frozenset[int], n: int) -> None:
        self._layers = layers
        self._states: list[dict[int, list[FloatArray]]] = [
            {k: [] for k in layers} for _ in range(n)
        ]

    def decode(self, model: Model, rows: Sequence[Row]) -> FloatArray:
        keep = Keep(self._layers)
        logits = model.decode(Batch(rows), keep)
        for i, kept in enumerate(self._states):
            mine = [number for number, row in enumerate(rows) if i in row.sequences]
            for layer, states in keep.states.items():
                kept[layer].append(states[mine])
        return logits

    def run(self, i: int, prompt: Sequence[int], writing: Writing) -> CleanRun:
        states = {k: np.concatenate(parts) for k, parts in self._states[i].items()}
        n_known = len(prompt) if not states else len(next(iter(states.values())))
        tokens = tuple(writing.sequence[:n_known])
        return CleanRun(tuple(prompt), writing.answer(), tokens, states)


class ResumeEngine(FullEngine):
    """Goes on from the layer at which an intervention acts."""

    name = "resume"

    def __init__(
        self, model: Model, batch_size: int = BATCH_SIZE, noise: float | None = None
    ) -> None:
        super().__init__(model, noise)
        self.batch_size = batch_size

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
        lengths = [len(prompt) + max_tokens for prompt in prompts]
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
        model.reserve(sum(map(len, prompts)) + n * max_tokens, n)
        model.clear()
        kept = _Kept(layers, n)
        everyone = tuple(range(n))
        shared = _shared_prefix(prompts)
        if shared:
            # Its logits are of no use, but some graphs (Chameleon's) cannot do without any.
            kept.decode(
                model, [Row(prompts[0][p], p, everyone, p == shared - 1) for p in range(shared)]
            )
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
        wanted = wanted or _everything
        all_rows = _changes_all_rows(interventions[0])
        lengths = [len(run.prompt) + max_tokens for run in runs]
        downwards = sorted(layers, reverse=True)
        most_rows = self._most_rows(MANY_ROWS if all_rows else FEW_ROWS)
        for some in self._batched(lengths, most_rows):
            jobs = {
                i: _Job(i - some.start, runs[i], interventions[i], examples[i], stops[i])
                for i in some
            }
            yield from self._run_batch(jobs, downwards, max_tokens, wanted)

    def _run_batch(
        self, jobs: Mapping[int, _Job], layers: Sequence[int], max_tokens: int, wanted: Wanted
    ) -> Iterator[tuple[int, int, Answer]]:
        """The answers of jobs that share decodes, layers going down. jobs: by prompt's number."""
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
                    room = sum(len(job.run.prompt) + max_tokens for job in jobs.values())
                    self.model.reserve(room, len(jobs))
                    self._fill_prefix(list(todo.values()))
                    ready = _Batches(todo)
                for job in todo.values():
                    job.writing = None
                self._layer(list(todo.values()), layer, max_tokens, ready)
                n_decodes = self.model.n_decodes
            except NotFiniteError:
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

    def _layer(self, jobs: list[_Job], layer: int, max_tokens: int, batches: _Batches) -> None:
        """Write the answers of all jobs at a layer."""
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
            self._go_on_together(elsewhere, layer)

    def _fill_prefix(self, jobs: Sequence[_Job]) -> None:
        """What stands before the first row that changes, clean, where that row attends to it."""
        self.model.clear()
        if jobs[0].intervention.attention_off or not any(job.first for job in jobs):
            return
        prompts = [job.run.prompt[: job.first + 1] for job in jobs]
        shared = min(_shared_prefix(prompts), *(job.first for job in jobs))
        everyone = tuple(range(len(jobs)))
        rows = [Row(prompts[0][p], p, everyone) for p in range(shared)]
        rows += [
            Row(job.run.prompt[p], p, (job.number,))
            for job in jobs
            for p in range(shared, job.first)
        ]
        rows[-1] = Row(rows[-1].token, rows[-1].position, rows[-1].sequences, True)
        self.model.decode(Batch(rows), CLEAN)

    def _fill_below(self, jobs: Sequence[_Job], layer: int, batches: _Batches) -> None:
        """Clean keys and values below a layer, in the cells that hold those from it on.

        Only answers that leave the clean one need them. They stay there for all lower layers,
        since every layer finds its rows in the same cells.
        """
        kind = jobs[0].intervention
        if kind.attention_off:
            self.model.clear()
            starts = [0] * len(jobs)
        else:
            starts = [job.first for job in jobs]
            for job, start in zip(jobs, starts, strict=True):
                self.model.forget(job.number, start)
        lengths = [len(job.run.prompt) for job in jobs]
        spans = list(zip(jobs, starts, lengths, strict=True))
        if kind.attention_off or kind.holds_past:
            past, newest = _split(spans)
            rows = [batches.of(past, "one"), batches.of(newest, "each")]
        else:
            rows = [batches.of(spans, "each")]
        for batch in rows:
            self.model.decode_part(batch, lambda graph: graph.below(layer), want_logits=False)

    def _go_on_together(self, jobs: Sequence[_Job], layer: int) -> None:
        """Generate to the end through all blocks, the cache holding the prompts."""
        todo = [(job, job.writing) for job in jobs if job.writing is not None]
        rewrites = jobs[0].intervention.writes_generated
        starts = {job.number: len(job.run.prompt) - rewrites for job in jobs}
        while todo:
            rows: list[Row] = []
            edits: list[tuple[Edit, int]] = []
            for job, writing in todo:
                start, end = starts[job.number], len(writing.sequence)
                self.model.forget(job.number, start)
                rows += [
                    Row(writing.sequence[p], p, (job.number,), p == end - 1)
                    for p in range(start, end)
                ]
                edits.append(
                    (self._change(job.intervention, layer, job.example)(start), end - start)
                )
                starts[job.number] = end - rewrites
            logits = self.model.decode(Batch(rows), _Together(edits))
            for (_, writing), row in zip(todo, logits, strict=True):
                writing.take(row)
            todo = [(job, writing) for job, writing in todo if not writing.done]

    def _step(self, jobs: Sequence[_Job], layer: int, batches: _Batches) -> FloatArray:
        """Logits (n_jobs, n_vocab) after the newest token of each, which is clean."""
        model = self.model
        first_step = jobs[0].writing is None
        starts = [
            job.first if first_step else job.newest - job.intervention.writes_generated
            for job in jobs
        ]
        for job, start in zip(jobs, starts, strict=True):
            model.forget(job.number, start)
        spans = list(zip(jobs, starts, [job.newest + 1 for job in jobs], strict=True))
        kind = jobs[0].intervention
        if kind.attention_off:
            entry = np.concatenate([_clean_states(span, layer) for span in spans])
            rows = batches.of(spans, "each")
            return model.decode_part(rows, lambda graph: graph.without_attention(layer, entry))
        written = [_written_states(span, layer) for span in spans]
        if kind.holds_past:
            past, spans = _split(spans)
            held = np.concatenate([states[:-1] for states in written])
            written = [states[-1:] for states in written]
            rows = batches.of(past, "one")
            model.decode_part(
                rows, lambda graph: graph.keys_and_values(layer, held), want_logits=False
            )
        entry = np.concatenate(written)
        rows, kept = batches.of(spans, "each"), _held_rows(spans)
        if kept:
            return model.decode_part(rows, lambda graph: graph.holding(layer, entry, kept))
        return model.decode_part(rows, lambda graph: graph.from_layer(layer, entry))

    def _most_rows(self, on_cpu: Mapping[str, int]) -> int:
        return on_cpu[self.model.attention] * (1 if self.model.on_cpu else ON_DEVICES)

    def _batched(self, lengths: Sequence[int], most_rows: int) -> Iterator[range]:
        """Neighbours that share a decode: at most batch_size, and so many rows.

        Those that grow longer than a sliding window are alone: llama.cpp gives the cells of tokens
        that have left it to other sequences, and a rewound answer would need them again.
        """
        window, start = self.model.info.sliding_window, 0
        while start < len(lengths):
            end = start + 1
            while (
                end < len(lengths)
                and end - start < self.batch_size
                and (not window or max(lengths[start : end + 1]) <= window)
                and sum(lengths[start : end + 1]) <= max(most_rows, lengths[start])
            ):
                end += 1
            yield range(start, end)
            start = end


class _Together:
    """The edits of several sequences whose rows stand one after another in a decode."""

    def __init__(self, edits: Sequence[tuple[Edit, int]]) -> None:
        self._edits = edits
        self.layers = edits[0][0].layers
        self.attention_off_from = edits[0][0].attention_off_from

    def apply(self, layer: int, states: FloatArray) -> FloatArray:
        parts, start = [], 0
        for edit, n_rows in self._edits:
            mine = states[start : start + n_rows]
            new = edit.apply(layer, mine)
            parts.append(mine if new is None else new)
            start += n_rows
        return np.concatenate(parts)


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
