"""What goes to and fro between Python and a device: counted, since it is what a GPU waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from localprobe.engine.interventions import by_name
from localprobe.engine.resume import ResumeEngine
from localprobe.llama import ggml, hooks
from localprobe.llama.model import Model

PROMPTS = [
    [11, 42, 7, 99, 3, 14, 15, 92],
    [11, 42, 7, 65, 35, 89, 79, 32],
    [8, 1, 7, 65, 3, 9, 1, 2],
]
N_EMBD, N_ROWS = 32, 24


@dataclass
class Counts:
    reads: int = 0
    bytes_read: int = 0
    writes: int = 0
    bytes_written: int = 0
    calls: int = 0
    wanted: int = 0


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    found = Counts()
    get, put, call = ggml._get, ggml._set, hooks.EvalHook._call

    def counted_get(address: int, data: int, start: int, size: int) -> None:
        if ggml.at(address).type == ggml.GGML_TYPE_F32:  # token ids are looked at, too
            found.reads += 1
            found.bytes_read += size
        get(address, data, start, size)

    def counted_set(address: int, data: object, start: int, size: int) -> None:
        found.writes += 1
        found.bytes_written += size
        put(address, data, start, size)

    def counted_call(self: hooks.EvalHook, address: int, ask: bool, data: object) -> bool:
        found.calls += 1
        found.wanted += not ask
        return call(self, address, ask, data)

    monkeypatch.setattr(ggml, "_get", counted_get)
    monkeypatch.setattr(ggml, "_set", counted_set)
    monkeypatch.setattr(hooks.EvalHook, "_call", counted_call)
    return found


@pytest.fixture
def engine(tiny_file: Callable[[str], Path], counts: Counts) -> Iterator[ResumeEngine]:
    with Model(tiny_file("llama"), threads=1) as model:
        resume = ResumeEngine(model)
        # The graph is learned once, which is counted with nobody.
        resume.model.reserve(64, 3)
        resume.clean(PROMPTS, [0], max_tokens=1, stops=[None] * 3)
        yield resume


def test_a_clean_pass_reads_every_state_once(engine: ResumeEngine, counts: Counts) -> None:
    counts.__init__()  # type: ignore[misc]
    engine.clean(PROMPTS, range(4), max_tokens=1, stops=[None] * 3)
    assert (counts.reads, counts.bytes_read) == (4, 4 * N_ROWS * N_EMBD * 4)
    assert counts.writes == 0


@pytest.mark.parametrize(
    ("name", "writes", "rows"),
    [
        # Once, all rows.
        ("random", 1, N_ROWS),
        ("shuffle", 1, N_ROWS),
        # Past rows in every block from layer 1 on, then the last rows once.
        ("freeze", 3 + 1, 3 * (N_ROWS - 3) + 3),
        # The last rows, and zeros for every attention from layer 1 on.
        ("skip", 1 + 3, 3 + 3 * 3),
    ],
)
def test_a_cell_writes_what_changes_and_reads_nothing(
    name: str, writes: int, rows: int, engine: ResumeEngine, counts: Counts
) -> None:
    """Three prompts at layer 1 of 4: one decode for all of them, two for freeze."""
    runs = engine.clean(PROMPTS, [0, 1], max_tokens=1, stops=[None] * 3)
    kind = by_name(name, 0)

    def run() -> None:
        list(engine.run(runs, [kind] * 3, [1], max_tokens=1, examples=range(3), stops=[None] * 3))

    run()  # learns the graph of this shape
    counts.__init__()  # type: ignore[misc]
    run()
    graph = engine.model.graph
    assert graph is not None
    # One that computes nothing gives each prompt its cells, for all layers.
    n_decodes = 1 + (2 if name == "freeze" else 1)
    assert (counts.reads, counts.bytes_read) == (0, 0)
    assert (counts.writes, counts.bytes_written) == (writes, rows * N_EMBD * 4)
    # Every node is asked about once, and no more are waited for than are written.
    assert counts.calls == n_decodes * len(graph.addresses) + counts.wanted
    assert counts.wanted == writes
