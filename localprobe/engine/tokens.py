"""One token at a time: what the last token of a prompt says when some of its tokens are touched.

    prompt = Resumed(model, tokens)            # or WholePasses: the slow obvious way
    for layer, numbers, logits in prompt.cells([Act((3,)), Act((4, 5))], layers): ...

An act hides tokens from the last one (attention knockout, Geva et al. 2023: from block k on the
last token does not attend to them), or writes to them as an intervention does.

Resuming computes the rows that an act changes, from the layer on: of a hidden token that is the
last row alone. Rows of many acts share a decode, each in a sequence of its own that has the clean
tokens before it in common with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from localprobe.engine.full import CLEAN
from localprobe.engine.interventions import Edit, FloatArray, Intervention
from localprobe.errors import NotFiniteError
from localprobe.llama.attention import FindCells, HideFromLast, hidden
from localprobe.llama.batch import Batch, Row, sequence_rows
from localprobe.llama.graph import Graph, Part
from localprobe.llama.hooks import NodeVisitor
from localprobe.llama.memory import check_fits
from localprobe.llama.model import Model
from localprobe.llama.residual import Keep

MOST_ROWS = 256
"""Of a decode; attention looks at every cell in use."""
_MOST_SEQUENCES = 96
_MOST_LOGITS = 1 << 24
_KEEPERS = (0, 1)
"""Two sequences that hold the clean prompt: llama.cpp gives a cell of one sequence alone to others
once its token has left the sliding window."""

Found = Iterator[tuple[int, list[int], FloatArray]]


@dataclass(frozen=True)
class Act:
    """What is done to some tokens of a prompt from a layer on.

    at: their positions, ascending; never the last one. intervention: what is written to them; None
    where they are hidden from the last token. window: for how many layers; None for as many as
    the intervention has, and up to the last one where they are hidden. example: what random draws
    depend on, as in a sweep.
    """

    at: tuple[int, ...]
    intervention: Intervention | None = None
    window: int | None = None
    example: int = 0

    @property
    def first_layer(self) -> int:
        return 0 if self.intervention is None else self.intervention.first_layer

    def first_row(self, n_tokens: int) -> int:
        """The first row that it changes."""
        return n_tokens - 1 if self.intervention is None else self.at[0]

    def hides(self, layer: int, n_layer: int) -> range:
        """The blocks in which it hides tokens."""
        if self.intervention is not None:
            return range(0)
        return range(layer, n_layer if self.window is None else min(layer + self.window, n_layer))

    def edit(self, layer: int, n_layer: int, start: int) -> Edit:
        """What it writes, where the first row at hand stands at position `start`."""
        if self.intervention is None:
            return CLEAN

        def edit_at(each: int) -> Edit:
            assert self.intervention is not None
            return self.intervention.edit(each, n_layer=n_layer, example=self.example, start=start)

        edit = edit_at(layer)
        if self.window is None:
            return edit
        end = min(layer + self.window, n_layer)
        if edit.layers != {layer}:
            return Edit(frozenset(each for each in edit.layers if each < end), edit.past)
        edits = {each: edit_at(each) for each in range(layer, end)}
        return Edit(frozenset(edits), lambda each, past: edits[each].past(each, past))


class WholePasses:
    """A prompt of which every cell (layer, act) is a whole pass. clean: logits (n_vocab,)."""

    def __init__(self, model: Model, tokens: Sequence[int]) -> None:
        self.model, self.tokens = model, tuple(tokens)
        model.check_length(len(tokens))
        self.clean = self._start()

    def _start(self) -> FloatArray:
        self.model.reserve(len(self.tokens))
        return self._pass(CLEAN)

    def states(self) -> FloatArray:
        """The clean states, (n_layer, n_tokens, n_embd)."""
        keep = Keep(range(self.model.n_layer))
        self._pass(keep)
        return np.stack([keep.states[layer] for layer in range(self.model.n_layer)])

    def cells(self, acts: Sequence[Act], layers: Sequence[int]) -> Found:
        """Every act at every layer at which it is defined, in an order of its own.

        Yields (layer, numbers of acts, logits (n_acts, n_vocab)); where logits are not finite
        numbers they are all nan.
        """
        for layer in layers:
            for number, act in enumerate(acts):
                if layer >= act.first_layer:
                    yield layer, [number], self._cell(act, layer)[None]

    def _cell(self, act: Act, layer: int) -> FloatArray:
        hides = act.hides(layer, self.model.n_layer)
        visitors: list[HideFromLast] = []

        def around(visitor: NodeVisitor) -> NodeVisitor:
            if not hides:
                return visitor
            visitors.append(HideFromLast(visitor, act.at, hides.start, hides.stop))
            return visitors[0]

        try:
            logits = self._pass(act.edit(layer, self.model.n_layer, 0), around)
        except NotFiniteError:
            return np.full(self.model.info.n_vocab, np.nan, np.float32)
        for each in visitors:
            each.finish()
        return logits

    def _pass(
        self, edit: Edit | Keep, around: Callable[[NodeVisitor], NodeVisitor] = lambda each: each
    ) -> FloatArray:
        self.model.clear()
        rows = Batch(sequence_rows(self.tokens, 0))
        logits: FloatArray = self.model.decode(rows, edit, around)[0]
        return logits


@dataclass
class _Job:
    """An act in a decode. number: among all acts. sequence: its own. first: its first row."""

    number: int
    act: Act
    sequence: int
    first: int


class Resumed(WholePasses):
    """A prompt of which every cell computes only what its act changes; equal to WholePasses.

    first: the first row that any act will change; the last one if None, as where tokens are hidden.
    """

    def __init__(self, model: Model, tokens: Sequence[int], first: int | None = None) -> None:
        self._first = len(tokens) - 1 if first is None else first
        self._most_jobs, self._most_rows = _at_once(model, len(tokens), self._first)
        memory = self.memory(model, len(tokens), first)
        check_fits(memory, f"a map of {len(tokens)} tokens", "shorten the prompt")
        self._states = np.empty(0, np.float32)
        self._finder: FindCells | None = None
        self._uses = -1
        super().__init__(model, tokens)

    @staticmethod
    def memory(model: Model, n_tokens: int, first: int | None = None) -> float:
        """About how many bytes it takes beside the model, of a prompt of so many tokens."""
        first = n_tokens - 1 if first is None else first
        jobs, rows = _at_once(model, n_tokens, first)
        states = 4.0 * model.n_layer * (n_tokens - first) * model.n_embd
        return model.context_bytes(n_tokens + rows, len(_KEEPERS) + jobs) + states

    def _start(self) -> FloatArray:
        """The clean prompt in the cache, its states, and in which cells it lies."""
        model, n_tokens = self.model, len(self.tokens)
        model.reserve(n_tokens + self._most_rows, len(_KEEPERS) + self._most_jobs)
        keep = _KeepFrom(model.n_layer, self._first)

        def around(visitor: NodeVisitor) -> NodeVisitor:
            self._finder = FindCells(visitor, model.n_layer)
            return self._finder

        logits = self._pass(keep, around)
        self._states = keep.all()
        model.forget(_KEEPERS[0], n_tokens - 1)
        model.share(_KEEPERS[0], _KEEPERS[1:], n_tokens - 1)
        self._uses = model.n_decodes
        return logits

    def cells(self, acts: Sequence[Act], layers: Sequence[int]) -> Found:
        """As of WholePasses; the acts are of one kind."""
        for part in self._parts(acts):
            is_ready = False
            for layer in layers:
                jobs = [job for job in part if layer >= job.act.first_layer]
                if not jobs:
                    continue
                if not is_ready or self.model.n_decodes != self._uses:
                    self._prepare(part)
                    is_ready = True
                try:
                    logits = self._decode(jobs, layer)
                except NotFiniteError:
                    # One that is not finite spoils all that share its cache: each by itself.
                    logits = np.stack([self._alone(job, layer) for job in jobs])
                self._uses = self.model.n_decodes
                yield layer, [job.number for job in jobs], logits

    def _prepare(self, jobs: Sequence[_Job]) -> None:
        """Each job's sequence has what stands before its first row."""
        if self.model.n_decodes != self._uses:
            self._start()
        for job in jobs:
            self.model.share(_KEEPERS[0], [job.sequence], job.first)

    def _alone(self, job: _Job, layer: int) -> FloatArray:
        self._prepare([job])
        try:
            logits: FloatArray = self._decode([job], layer)[0]
        except NotFiniteError:
            return np.full(self.model.info.n_vocab, np.nan, np.float32)
        self._uses = self.model.n_decodes
        return logits

    def _parts(self, acts: Sequence[Act]) -> Iterator[list[_Job]]:
        """Acts that share a decode: as many as there are sequences, and so many rows."""
        part: list[_Job] = []
        n_rows, n_tokens = 0, len(self.tokens)
        for number, act in enumerate(acts):
            first = act.first_row(n_tokens)
            full = n_rows + n_tokens - first > self._most_rows or len(part) == self._most_jobs
            if part and full:
                yield part
                part, n_rows = [], 0
            part.append(_Job(number, act, len(_KEEPERS) + len(part), first))
            n_rows += n_tokens - first
        if part:
            yield part

    def _decode(self, jobs: Sequence[_Job], layer: int) -> FloatArray:
        """Logits (n_jobs, n_vocab) of the last token."""
        model, n_tokens = self.model, len(self.tokens)
        rows, entries = list[Row](), list[FloatArray]()
        later: list[tuple[Edit, slice]] = []
        for job in jobs:
            model.forget(job.sequence, job.first)
            edit = job.act.edit(layer, model.n_layer, job.first)
            entries.append(self._entry(job, edit, layer))
            later.append((edit, slice(len(rows), len(rows) + n_tokens - job.first)))
            rows += [
                Row(self.tokens[p], p, (job.sequence,), p == n_tokens - 1)
                for p in range(job.first, n_tokens)
            ]
        entry = np.concatenate(entries)

        def part(graph: Graph) -> Part:
            found = graph.from_layer(layer, entry)
            written = {**found.written, **_write_later(graph, later, layer)}
            hides = jobs[0].act.hides(layer, model.n_layer)
            if hides:
                assert self._finder is not None
                at = [job.act.at for job in jobs]
                written |= hidden(graph, self._finder.cells(), at, hides.start, hides.stop)
            return Part(found.off, written)

        return model.decode_part(Batch(rows), part)

    def _entry(self, job: _Job, edit: Edit, layer: int) -> FloatArray:
        """The states of a job's rows at the layer at which it acts."""
        rows = self._states[:, job.first - self._first :]
        new: FloatArray | None = None
        for at in sorted(each for each in edit.layers if each <= layer):
            new = edit.apply(at, rows[at])
        return rows[layer] if new is None else new


def _at_once(model: Model, n_tokens: int, first: int) -> tuple[int, int]:
    """How many acts share a decode at most, and how many rows those of a prompt have together."""
    jobs = min(_MOST_SEQUENCES, n_tokens, max(8, _MOST_LOGITS // model.info.n_vocab))
    rows = jobs if first == n_tokens - 1 else max(MOST_ROWS, n_tokens)
    room = model.most_cells - n_tokens if model.most_cells else rows
    return jobs, max(n_tokens - first, min(rows, room))


def _write_later(
    graph: Graph, edits: Sequence[tuple[Edit, slice]], layer: int
) -> dict[int, Callable[[int], None]]:
    """What is written behind the layer at which the acts begin: node -> what is done there."""

    def act(at: int) -> Callable[[int], None]:
        def write(address: int) -> None:
            states = graph.read_states(address)
            for edit, rows in edits:
                new = edit.apply(at, states[rows]) if at in edit.layers else None
                if new is not None:
                    states[rows] = new
            graph.write_states(address, states)

        return write

    layers = {at for edit, _ in edits for at in edit.layers if at > layer}
    return {graph.state[at]: act(at) for at in layers}


class _KeepFrom(Keep):
    """Keeps the states of all layers from a row on."""

    def __init__(self, n_layer: int, first: int) -> None:
        super().__init__(range(n_layer))
        self._first = first

    def apply(self, layer: int, states: FloatArray) -> None:
        self.states[layer] = states[self._first :].copy()

    def all(self) -> FloatArray:
        """(n_layer, n_rows, n_embd)"""
        return np.stack([self.states[layer] for layer in sorted(self.states)])
