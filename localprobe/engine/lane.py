"""Prompts and layers that share the cache of one context of a model, and what is computed of them.

The cells of a job, which is one prompt at one layer after another, stay its own from layer to
layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from threading import Lock

import numpy as np

from localprobe.engine.full import CLEAN, CleanRun, Stop, Writing, changing
from localprobe.engine.interventions import Edit, FloatArray, Intervention
from localprobe.engine.regions import Placing, Regions, shared_prefix
from localprobe.llama.batch import Batch, Row
from localprobe.llama.graph import Graph, Later, Part
from localprobe.llama.model import Model

Key = tuple[int, int]
"""A prompt's number, and the place of a layer among those that share decodes."""


_DRAWING = Lock()


@dataclass
class Job:
    """One prompt at one layer in a batch, and then at another.

    prompt: which one. number: the job's sequence. first: the prompt's first row that changes.
    """

    prompt: int
    run: CleanRun
    intervention: Intervention
    example: int
    stop: Stop | None
    number: int = 0
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


_Span = tuple[Job, int, int]
"""The tokens [start, end) of a job."""


@dataclass
class _Batches:
    """Batches by the rows they hold: those of a prompt are the same at every layer.

    jobs: those that have cells in the cache, by prompt and by place among the layers that share a
    decode. One that is left out at a layer keeps its own, so that the others find theirs. regions:
    where those are.
    """

    jobs: Mapping[Key, Job]
    regions: Regions
    made: dict[tuple[object, ...], Batch] = field(default_factory=dict)
    filled: set[int] = field(default_factory=set)
    """The prompts whose cells hold clean keys and values below their layers."""

    @property
    def shares_layers(self) -> bool:
        """Whether a prompt has several jobs, for layers that share decodes."""
        return len({prompt for prompt, _ in self.jobs}) < len(self.jobs)

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


class Lane:
    """Jobs in one context of a model.

    jobs: of every prompt as many as there are layers that share decodes. placing: how they lie in
    the cache. noise: as of the engine.
    """

    def __init__(
        self,
        model: Model,
        placing: Placing,
        noise: float | None,
        jobs: Mapping[Key, Job],
        max_tokens: int,
    ) -> None:
        self._model, self._placing, self._noise = model, placing, noise
        self._jobs = {key: replace(job, number=n) for n, (key, job) in enumerate(jobs.items())}
        self._lengths = [len(job.run.prompt) + max_tokens for job in jobs.values()]
        self._max_tokens = max_tokens
        self._ready: _Batches | None = None
        self._n_decodes = 0

    def write(self, layers: Mapping[Key, int]) -> dict[Key, Writing]:
        """The answers of some of the jobs, each at its layer.

        Raises NotFiniteError where logits of one of them are not finite numbers.
        """
        if not layers:
            return {}
        # Whoever is given an answer may use the model before asking for the next one. And one that
        # has no cells yet would take those of others.
        if (
            self._ready is None
            or self._model.n_decodes != self._n_decodes
            or not layers.keys() <= self._ready.jobs.keys()
        ):
            self._ready = None
            prompts = {i for i, _ in layers}
            having = {key: job for key, job in self._jobs.items() if key[0] in prompts}
            self._ready = _Batches(having, self._fill_prefix(list(having.values())))
        todo = {key: self._jobs[key] for key in layers}
        for key, job in todo.items():
            job.layer, job.writing = layers[key], None
        self._write(list(todo.values()), self._ready)
        self._n_decodes = self._model.n_decodes
        return {key: job.writing for key, job in todo.items() if job.writing is not None}

    def _write(self, jobs: list[Job], batches: _Batches) -> None:
        """Write the answers of all jobs, each at its layer."""
        active, elsewhere = jobs, list[Job]()
        while active:
            logits = self._step(active, batches)
            for job, row in zip(active, logits, strict=True):
                if job.writing is None:
                    job.writing = Writing(
                        self._model, job.run.prompt, self._max_tokens, job.stop, row, self._noise
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
        if off and self._placing.is_plain:
            # What lies below a layer stays only where every layer finds its rows in the same cells.
            # Here the newest tokens came first, and llama.cpp gives them other cells each time.
            self._model.clear()
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

    def _fill_prefix(self, jobs: Sequence[Job]) -> Regions:
        """What stands before the first row that changes, clean, where that row attends to it.

        Returns where all jobs of the lane lie.
        """
        lengths = self._lengths
        prompts = [job.run.prompt[: job.first + 1] for job in jobs]
        is_needed = not jobs[0].intervention.attention_off and any(job.first for job in jobs)
        shared = 0
        if is_needed:
            shared = min(shared_prefix(prompts), *(job.first for job in jobs))
            shared = self._placing.in_front(shared, lengths)
        regions = self._placing.regions(self._model, lengths, shared)
        regions.reserve()
        self._model.clear()
        if shared:
            everyone = tuple(job.number for job in jobs)
            self._fill(regions, [Row(prompts[0][p], p, everyone) for p in range(shared)])
        regions.lay()
        if is_needed:
            for part in self._placing.alike([job.first - shared for job in jobs]):
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
            self._model.decode(Batch([*rows[:-1], replace(rows[-1], output=True)]), CLEAN)

    def _fill_below(self, layer: int, prompts: Collection[int], batches: _Batches) -> None:
        """Clean keys and values below a layer, in the cells of some prompts.

        Only answers that leave the clean one need them. Below their layers they stay there, since
        every layer finds its rows in the same cells.
        """
        batches.filled.update(prompts)
        by_prompt: dict[int, list[Job]] = {}
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
            for part in self._placing.alike([end - start for _, start, end in every]):
                batches.take(every[part])
                rows = batches.of(every[part], outputs)
                self._model.decode_part(rows, lambda graph: graph.below(layer), want_logits=False)
        for one, *others in by_prompt.values():
            length = len(one.run.prompt)
            batches.regions.copy(one.number, [other.number for other in others], length)

    def _go_on_together(self, jobs: Sequence[Job], regions: Regions) -> None:
        """Generate to the end through all blocks, the cache holding the prompts.

        jobs: in the order of their numbers.
        """
        todo = [(job, job.writing) for job in jobs if job.writing is not None]
        rewrites = jobs[0].intervention.writes_generated
        starts = {job.number: len(job.run.prompt) - rewrites for job in jobs}
        while todo:
            counts = [len(writing.sequence) - starts[job.number] for job, writing in todo]
            for part in self._placing.alike(counts):
                rows: list[Row] = []
                edits: list[tuple[Edit, int]] = []
                for job, writing in todo[part]:
                    start, end = starts[job.number], len(writing.sequence)
                    regions.take(job.number, start, end)
                    rows += [
                        Row(writing.sequence[p], p, (job.number,), p == end - 1)
                        for p in range(start, end)
                    ]
                    change = changing(self._model.n_layer, job.intervention, job.layer, job.example)
                    edits.append((change(start), end - start))
                    starts[job.number] = end - rewrites
                together = regions.in_company(rows)
                edits += [(CLEAN, 1)] * (len(together) - len(rows))
                logits = self._model.decode(Batch(together), _Together(edits))
                for (_, writing), row in zip(todo[part], logits, strict=False):
                    writing.take(row)
            todo = [each for each in todo if not each[1].done]

    def _step(self, jobs: Sequence[Job], batches: _Batches) -> FloatArray:
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
            states = _written_states(spans)
            if kind.holds_past:
                past, spans = _split(spans)
                self._hold(past, [each[:-1] for each in states], batches)
                states = [each[-1:] for each in states]
        counts = [end - start for _, start, end in spans]
        parts = [slice(None)] if kind.attention_off else self._placing.alike(counts)
        return np.concatenate([self._enter(spans[p], states[p], batches) for p in parts])

    def _enter(
        self, spans: Sequence[_Span], states: Sequence[FloatArray], batches: _Batches
    ) -> FloatArray:
        """Logits (n_spans, n_vocab) of one decode, each going on from its states at its layer."""
        batches.take(spans)
        rows, lowest = batches.of(spans, "each"), min(job.layer for job, _, _ in spans)
        entry = _for_all(rows, _at(lowest, spans, states))
        later = _written_later(spans, states, self._model.n_layer)

        def part(graph: Graph) -> Part:
            if spans[0][0].intervention.attention_off:
                return graph.without_attention(lowest, entry, later)
            return graph.from_layer(lowest, entry, later)

        return self._model.decode_part(rows, part)[: len(spans)]

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

        self._model.decode_part(rows, part, want_logits=False)


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


def _split(spans: Sequence[_Span]) -> tuple[list[_Span], list[_Span]]:
    """The past tokens of some spans, and their last ones."""
    past = [(job, start, end - 1) for job, start, end in spans]
    return past, [(job, end - 1, end) for job, _, end in spans]


def _clean_states(span: _Span, layer: int) -> FloatArray:
    """The clean states of a span's rows at a layer."""
    job, start, end = span
    return job.run.states[layer][start:end]


def _written_states(spans: Sequence[_Span]) -> list[FloatArray]:
    """What the intervention makes of the states of some spans, each at its layer."""
    # Many short calls, between which Python goes from one lane to the other if both draw.
    with _DRAWING:
        return [_written(span) for span in spans]


def _written(span: _Span) -> FloatArray:
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
