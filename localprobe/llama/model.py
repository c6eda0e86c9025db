"""A GGUF model in llama.cpp: its context, and forward passes that can be edited."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp.llama_cpp as llama
import numpy as np

from localprobe.errors import LocalprobeError, ModelError, NotFiniteError
from localprobe.llama import backend, computing, ggml, rearranged
from localprobe.llama.aside import AtNode, find_aside
from localprobe.llama.batch import Batch, Row, sequence_rows
from localprobe.llama.computing import Computing
from localprobe.llama.devices import Placement
from localprobe.llama.graph import (
    Computed,
    Graph,
    Idle,
    InGraph,
    Part,
    Recorder,
    Rerun,
    StaleGraphError,
)
from localprobe.llama.hooks import EvalHook, NodeVisitor, NoVisitor
from localprobe.llama.interrupts import held_back
from localprobe.llama.memory import check_fits, check_fits_on
from localprobe.llama.residual import Edit, FloatArray, ForwardPass, Places
from localprobe.llama.rpc import Workers
from localprobe.llama.states import Links, find_states, is_apart
from localprobe.llama.text import Vocabulary
from localprobe.llama.threads import checked
from localprobe.llama.tiles import Tiles
from localprobe.llama.verdict import Verdict
from localprobe.llama.weights import CONTEXT_STEP, INDEXER

if TYPE_CHECKING:
    from localprobe.llama.abreast import Contexts

EXACT, FLASH = "exact", "flash"
"""Ways to compute attention. exact: in float32, every row looking at every cell in use. flash:
llama.cpp's flash attention, which rounds keys and values to float16 and passes over the cells of
other sequences."""


_LINE = 16
"""Numbers of 4 bytes in a cache line."""


class Model(Vocabulary):
    """A loaded GGUF and its KV cache.

    The KV cache is float32, of flash attention float16. attention: EXACT or FLASH; may be changed,
    which empties the cache.

    threads: CPU threads, 0 for all cores. placement: which blocks are not on the CPU, if any.
    workers: of whom some of its devices are; to be closed after the model.
    ctx: the longest sequence in tokens, 0 for as long as needed up to the training context.
    tiles: whether weights may lie as AMX wants them; see `rearranged.fit_tiles`.

    Raises ModelError when the file is not a GGUF that llama.cpp can read.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 0,
        placement: Placement | None = None,
        workers: Workers | None = None,
        ctx: int = 0,
        attention: str = EXACT,
        tiles: bool = False,
    ) -> None:
        self._attention = attention
        self._open_context: int | None = None
        self._n_ctx = 0
        self._n_sequences = 1
        self.n_decodes = 0
        """How many there were: whether somebody else has used the cache meanwhile."""
        self._hook = EvalHook(workers.tick if workers else None)
        self._places: Places | None = None
        self._side_channels: tuple[int, ...] = ()
        self.first_shared = self.unread = 0
        self._chooses = False
        self.verdict = Verdict()
        """What can be done with it, once that was found out."""
        self._graph: Graph | None = None
        self.threads = checked(threads)
        self.contexts: Contexts | None = None
        """For `abreast`."""
        self._others: list[Model] = []
        self._tiles: Tiles | None = None
        super().__init__(path, placement, workers, tiles=tiles)
        # llama.cpp turns positions by other factors once the context is longer than that of the
        # first training. Within a model it must be always the ones, or always the others.
        before_longrope = self.context_before_longrope()
        self.ctx = ctx or min(self.info.n_ctx_train, before_longrope or self.info.n_ctx_train)
        self._least_ctx = before_longrope + 1 if 0 < before_longrope < self.ctx else 0
        if self.ctx > self.info.n_ctx_train:
            raise LocalprobeError(
                f"a context of {ctx} tokens is more than the {self.info.n_ctx_train} that the "
                "model was trained with"
            )

    @property
    def attention(self) -> str:
        return self._attention

    @attention.setter
    def attention(self, way: str) -> None:
        if way != self._attention:
            if self.contexts is not None:
                self.contexts.rest()
            for model in (self, *self._others):
                model._attention = way
                model._free_context()
                model._graph = model._places = None

    @property
    def _ways(self) -> list[str]:
        flash = [f"{FLASH} attention"] if self._attention == FLASH else []
        long = ["long-rope positions"] if self._least_ctx else []
        return [*super()._ways, *flash, *long]

    @property
    def most_ctx(self) -> int:
        """The longest context in which positions are turned as they are in this one."""
        return min(self.info.n_ctx_train, self.most_cells or self.info.n_ctx_train)

    @property
    def most_cells(self) -> int:
        """How many tokens a context may hold, of all sequences together; 0 for any number.

        In one that holds more, positions would be turned otherwise.
        """
        return 0 if self._least_ctx else self.context_before_longrope()

    def limits(self) -> dict[str, int]:
        """As of its weights; and the context beyond which positions are turned otherwise."""
        long = {"first context of training": self._least_ctx - 1} if self._least_ctx else {}
        return super().limits() | long

    def close(self) -> None:
        """Give the memory back. The model cannot be used afterwards."""
        if self.contexts is not None:
            self.contexts.end()
        while self._others:
            other = self._others.pop()
            other._free_context()
            other._open_model = None
        self._free_context()
        super().close()

    def another(self, threads: int) -> Model:
        """Another context of the same weights, with a cache and so many threads of its own.

        Gone when this one is closed; not to be closed by itself.
        """
        other = copy.copy(self)
        other._open_context, other._n_ctx, other._n_sequences = None, 0, 1
        other._hook, other._graph, other.threads = EvalHook(), None, threads
        other._others, other.contexts, other._tiles = [], None, None
        self._others.append(other)
        return other

    def stop(self) -> None:
        """End the decode at hand, from another thread, and begin no other one until `go_on`."""
        self._hook.is_stopped = True
        self._hook.stop()

    def go_on(self) -> None:
        self._hook.is_stopped = False

    def _free_context(self) -> None:
        if self._open_context is not None:
            with self._workers.watched():
                llama.llama_free(self._open_context)
            self._open_context = None
            self.n_decodes += 1  # what the cache held is gone

    @property
    def _context(self) -> int:
        if self._open_context is None:
            self._make_room(1, keep=False)
        assert self._open_context is not None
        return self._open_context

    def evaluate(
        self,
        tokens: Sequence[int],
        start: int,
        edit: Edit,
        around: Callable[[NodeVisitor], NodeVisitor] = lambda visitor: visitor,
    ) -> FloatArray:
        """Decode `tokens` at positions start, start+1, …; logits (n_vocab,) of the last one.

        What the KV cache held at `start` and after is forgotten first.
        Raises ModelError when the graph lacks what the edit needs, and LocalprobeError when the
        sequence is longer than the context.
        """
        self.check_length(start + len(tokens))
        self._make_room(start + len(tokens), keep=start > 0)
        if start == 0:
            self.clear()
        else:
            self.forget(0, start)
        last: FloatArray = self.decode(Batch(sequence_rows(tokens, start)), edit, around)[0]
        return last

    def plain_logits(self, tokens: Sequence[int]) -> FloatArray:
        """Logits (n_vocab,) of the last token, without a look at any state."""
        self.check_length(len(tokens))
        self._make_room(len(tokens), keep=False)
        self.clear()
        last: FloatArray = self._decode(Batch(sequence_rows(tokens, 0)), NoVisitor())[0]
        return last

    def next_logits(self, tokens: Sequence[int], rows: int) -> Iterator[FloatArray]:
        """Logits (up to `rows`, n_vocab) after each token of a text, `rows` of them a decode.

        Raises LocalprobeError when the text is longer than the context.
        """
        self.check_length(len(tokens))
        self._make_room(len(tokens), keep=False, n_sequences=rows)
        self.clear()
        for start in range(0, len(tokens), rows):
            part = enumerate(tokens[start : start + rows], start)
            yield self._decode(Batch([Row(t, at, output=True) for at, t in part]), NoVisitor())

    def decode(
        self,
        rows: Batch,
        edit: Edit,
        around: Callable[[NodeVisitor], NodeVisitor] = lambda visitor: visitor,
    ) -> FloatArray:
        """Decode rows with an edit; logits (n_outputs, n_vocab) of those that ask for them.

        around: puts a visitor of its own around the one that carries out the edit.
        Raises ModelError when the graph lacks what the edit needs.
        """
        off = edit.attention_off_from

        def visitor(contributions: Mapping[int, int]) -> ForwardPass:
            return ForwardPass(self._state_places(), self.n_embd, rows, edit, contributions)

        if off is not None:
            return self._decode_in_graph(
                rows, lambda graph: InGraph(graph, visitor(graph.contributions_from(off)))
            )
        whole = visitor({})
        logits = self._decode(rows, around(whole))
        whole.finish()
        return logits

    def decode_part(
        self,
        rows: Batch,
        part: Callable[[Graph], Part],
        *,
        want_logits: bool = True,
    ) -> FloatArray:
        """A decode of which only a part is computed; logits as `decode`, or none of them.

        part: given the graph, which nodes are left out, and what is written in their places.
        Raises ModelError when the graph cannot be taken apart.
        """
        computes = len(rows) >= computing.MANY_ROWS and self.on_cpu and computing.is_possible()

        def rerun(graph: Graph) -> Rerun:
            if not computes:
                return Rerun(graph, rows.tokens, part(graph))
            if self._tiles is None:
                self._tiles = Tiles(Computing(self.threads))
            tiled = self._tiles.of(len(rows), rows.output_rows.tolist())
            in_tiles = graph.in_tiles(part(graph), tiled)
            return Computed(graph, rows.tokens, in_tiles, self._tiles.computing)

        return self._decode_in_graph(rows, rerun, want_logits)

    def _decode_in_graph(
        self, rows: Batch, visitor_of: Callable[[Graph], Rerun | InGraph], want_logits: bool = True
    ) -> FloatArray:
        """A decode by a visitor that knows the graph, which is learned anew where it is another."""
        for _ in range(2):
            if self._graph is not None:
                visitor = visitor_of(self._graph)
                try:
                    with self._restored(visitor):
                        logits = self._decode(rows, visitor, want_logits)
                        visitor.finish()
                    return logits
                except StaleGraphError:
                    self._forget_rows(rows)
            self.learn_graph(rows)
            self._forget_rows(rows)
        raise ModelError("llama.cpp builds another graph at every decode")

    @contextmanager
    def _restored(self, visitor: Rerun | InGraph | Recorder) -> Iterator[None]:
        """What it switched off is on again afterwards; or else the graph is gone, with its context:
        llama.cpp would take it for the next decode as it is.
        """
        try:
            yield
        finally:
            try:
                visitor.restore()
            except BaseException:  # Ctrl-C
                self._free_context()
                self._graph = None
                raise

    @property
    def can_leave_out(self) -> bool:
        """Whether parts of the graph can be switched off in this build of llama.cpp."""
        return ggml.FLAGS_PROVED

    @property
    def graph(self) -> Graph | None:
        """The graph that was learned last, if any."""
        return self._graph

    def learn_graph(self, rows: Batch) -> None:
        """Learn the graph of some rows, of which nothing is computed where that can be had."""
        recorder = Idle() if self.can_leave_out else Recorder()
        with self._restored(recorder):
            self._decode(rows, recorder, want_logits=False)
        apart = self._state_places().apart
        self._graph = Graph(recorder.addresses, self.n_layer, self.n_embd, apart)

    def clear(self, *, wipe: bool = False) -> None:
        """Forget every sequence. Unless it is wiped, the cache keeps its data in the same cells."""
        llama.llama_memory_clear(llama.llama_get_memory(self._context), wipe)

    def forget(self, sequence: int, start: int, end: int = -1) -> None:
        """Forget a sequence's tokens at positions `start` and after, up to `end` if it is given."""
        memory = llama.llama_get_memory(self._context)
        if not llama.llama_memory_seq_rm(memory, sequence, start, end):
            raise ModelError("this model's memory cannot forget its latest tokens")

    def hand_over(self, sequence: int, other: int, start: int) -> None:
        """Let another sequence have the cells of one at positions `start` and after."""
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_seq_cp(memory, sequence, other, start, -1)
        self.forget(sequence, start)

    def also(self, sequence: int, other: int, end: int) -> None:
        """Let another sequence have the cells of one at positions below `end`, too."""
        memory = llama.llama_get_memory(self._context)
        llama.llama_memory_seq_cp(memory, sequence, other, 0, end)

    def saved(self, sequence: int) -> bytes:
        """What the cache holds of a sequence."""
        size = llama.llama_state_seq_get_size(self._context, sequence)
        buffer = (ctypes.c_uint8 * size)()
        n = llama.llama_state_seq_get_data(self._context, buffer, size, sequence)
        return bytes(memoryview(buffer)[:n])

    def restore(self, saved: bytes, sequence: int) -> None:
        """Give a sequence, in the first free cells, what was saved of another one."""
        buffer = (ctypes.c_uint8 * len(saved)).from_buffer_copy(saved)
        if not llama.llama_state_seq_set_data(self._context, buffer, len(saved), sequence):
            raise ModelError(f"llama.cpp could not copy what its cache holds of {self.path}")

    def occupy(self, rows: Sequence[Row]) -> None:
        """Give rows their cells, and compute nothing."""
        self._state_places()  # the first time, finding them empties the cache
        if self._graph is None:
            first = rows[0]
            few = Batch([Row(first.token, first.position, first.sequences, True)])
            self.learn_graph(few)
            self._forget_rows(few)
        batch = Batch([*rows[:-1], replace(rows[-1], output=True)])
        self.decode_part(batch, lambda graph: graph.nothing(), want_logits=False)

    def share(self, sequence: int, others: Iterable[int], end: int) -> None:
        """Let other sequences have the tokens of one at positions below `end`, and no others.

        No data is copied: they attend to the same cells.
        """
        for other in others:
            self.forget(other, 0)
            self.also(sequence, other, end)

    def _forget_rows(self, rows: Batch) -> None:
        for sequence, start in rows.starts.items():
            self.forget(sequence, start)

    def check_length(self, n_tokens: int) -> None:
        """Raise LocalprobeError when a sequence of so many tokens does not fit the context."""
        if self.verdict.longest and n_tokens > self.verdict.longest:
            raise ModelError(
                f"the prompt and its answer need {n_tokens} tokens, which is too long for this "
                f"model: {self.verdict.longest_since}"
            )
        if n_tokens > self.ctx:
            raise LocalprobeError(
                f"the prompt and its answer need {n_tokens} tokens, the context holds {self.ctx}; "
                "shorten the prompt or the answer, or raise --ctx "
                f"(the model was trained with {self.info.n_ctx_train})"
            )

    def _decode(self, rows: Batch, visitor: NodeVisitor, want_logits: bool = True) -> FloatArray:
        with self._workers.watched():
            return self._decode_watched(rows, visitor, want_logits)

    def _decode_watched(self, rows: Batch, visitor: NodeVisitor, want_logits: bool) -> FloatArray:
        if len(rows.output_rows) > self._n_sequences:
            raise ValueError("more logits are asked for than was reserved")  # llama.cpp aborts
        if self.in_tiles:
            rearranged.check_undisturbed()
        backend.forget_errors()
        self.n_decodes += 1
        with self._hook.armed(visitor):
            status = llama.llama_decode(self._context, rows.llama)
        if status != 0:
            raise ModelError(
                f"llama.cpp could not decode {len(rows)} tokens ({backend.last_error()})"
            )
        n_outputs = len(rows.output_rows)
        if n_outputs == 0 or not want_logits:
            return np.empty((0, self.info.n_vocab), np.float32)
        logits: FloatArray = np.ctypeslib.as_array(
            llama.llama_get_logits(self._context), (n_outputs, self.info.n_vocab)
        ).copy()
        if not np.isfinite(logits).all():
            # A masked cell of the cache counts 0 x its value, which is not 0 for inf and nan:
            # what lies there would spoil every later pass.
            llama.llama_memory_clear(llama.llama_get_memory(self._context), True)
            raise NotFiniteError("the model's logits are not finite numbers, so there is no answer")
        return logits

    def _make_room(self, n_tokens: int, *, keep: bool, n_sequences: int = 1) -> None:
        """A context that holds so many tokens; a growing one starts empty."""
        if (
            self._open_context is not None
            and n_tokens <= self._n_ctx
            and n_sequences <= self._n_sequences
        ):
            return
        if 0 < self.most_cells < n_tokens:
            raise LocalprobeError(
                f"the prompt and its answer come too near to the {self.most_cells} tokens beyond "
                "which this model turns positions otherwise; shorten the prompt or the answer, or "
                "raise --ctx"
            )
        if keep:
            raise RuntimeError("the context cannot grow without losing its KV cache: reserve first")
        self._free_context()
        self._graph = None
        self._n_sequences = max(n_sequences, self._n_sequences)
        n_tokens = max(n_tokens, self._n_ctx, self._least_ctx)
        self._n_ctx = -(-n_tokens // CONTEXT_STEP) * CONTEXT_STEP
        self._check_room()
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self._n_ctx
        params.n_threads = params.n_threads_batch = self.threads
        params.n_seq_max = self._n_sequences
        # What is computed lies behind their numbers in memory, and should not begin in the middle
        # of a cache line: threads that write to the same one wait for one another.
        params.n_outputs_max = _whole_lines(self._n_sequences)
        params.flash_attn_type = int(self._attention == FLASH)
        # Flash attention rounds keys and values to float16 whatever the cache holds.
        params.type_k = params.type_v = int(self._attention == FLASH)
        params.kv_unified = True
        params.swa_full = True
        # Else a build for GPUs takes large multiplications away from the CPU, and copies what they
        # need before all of it was written.
        params.op_offload = False
        params.no_perf = True
        params.cb_eval = ctypes.cast(self._hook.callback, type(params.cb_eval))
        backend.forget_errors()
        with self._workers.watched(), held_back():
            self._open_context = llama.llama_init_from_model(self._model, params) or None
        if self._open_context is None:
            raise ModelError(
                f"llama.cpp could not make a context for {self.path} ({backend.last_error()})"
            )

    def _check_room(self) -> None:
        what = f"a context of {self._n_ctx} tokens"
        remedy = "shorten the prompt, lower --batch, or take a smaller model"
        placement = self.placement or Placement(self.n_layer, ())
        for device, _ in placement.blocks():
            share = placement.share_of(device)
            needed = self.context_bytes(self._n_ctx, self._n_sequences, share)
            if device is None:
                check_fits(needed, what, remedy)
            else:
                with self._workers.watched():
                    check_fits_on(device.name, device.memory(), needed, what, remedy)

    def context_bytes(self, n_tokens: int, n_sequences: int = 1, share: float = 1.0) -> float:
        """About what a context of so many tokens takes: cache, attention scores, activations.

        share: of the blocks, of which the cache is wanted.
        """
        info = self.info
        is_flash = self._attention == FLASH
        cache = 2 * info.n_layer * info.n_embd * info.n_head_kv / max(1, info.n_head)
        cache /= 1 + is_flash
        scores = 0 if is_flash else 2 * info.n_head * n_tokens
        activations = 16 * info.n_embd
        outputs = _whole_lines(n_sequences) * info.n_vocab
        return 4.0 * (n_tokens * (share * cache + scores + activations) + outputs)

    def reserve(self, n_tokens: int, n_sequences: int = 1) -> None:
        """Room for so many tokens in so many sequences, of which each may ask for logits.

        A context that has to grow loses its KV cache.
        """
        self._make_room(n_tokens, keep=False, n_sequences=n_sequences)

    def _state_places(self) -> Places:
        """Where the states at layers 0 ... L-1 are, and what is beside them."""
        if self._places is None:
            recorder = Recorder()
            self.clear()
            self._decode(Batch(sequence_rows([0, 0], 0)), recorder)
            links = Links(recorder.addresses)
            states = find_states(links, self.n_layer, self.n_embd)
            aside = find_aside(links, states.nodes)
            self.clear()
            self._chooses = any(b".indexer" in name for each in links.leaf_names for name in each)
            self._side_channels = tuple(k for k in states.besides if k < self.n_layer)
            self.first_shared, self.unread = aside.shared, aside.unread
            self._places = Places(
                tuple(links.place(node) for node in states.nodes[: self.n_layer]),
                None if aside.inputs is None else links.place(aside.inputs),
                tuple((links.place(look - 1), links.place(look)) for look in aside.looks),
                is_apart(links.nodes[states.nodes[0]], 2),
            )
        return self._places

    @property
    def has_inputs(self) -> bool:
        """Whether each block is given an input of its own, beside the state."""
        return self._state_places().inputs is not None

    def at_inputs(self, act: Callable[[int], None]) -> Callable[[NodeVisitor], NodeVisitor]:
        """For `decode`: something is done with the inputs of the blocks once they are computed."""
        place = self._state_places().inputs
        return lambda visitor: visitor if place is None else AtNode(visitor, place, act)

    def side_channels(self) -> tuple[int, ...]:
        """Layers at which later blocks look at more than the state, if only by how they are built.

        Raises ModelError where there is no state.
        """
        self._state_places()
        return self._side_channels

    def choices(self) -> int:
        """How many tokens its blocks choose to attend to, where some do so for others; else 0."""
        return self.limits().get(INDEXER, 0) if self.side_channels() and self._chooses else 0


def _whole_lines(n: int) -> int:
    """So many numbers of 4 bytes, or more, that they fill cache lines."""
    return -(-n // _LINE) * _LINE
