"""How fast is this machine, and how much of that does localprobe reach?

The same work, next tokens of capitals prompts at all layers, is done by whole passes and by
resuming. The floor is the multiplications with weights that the work takes, at the rate at which
the machine multiplies in a clean pass over as many rows; efficiency is floor / measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from localprobe.engine.full import CLEAN, CleanRun, FullEngine
from localprobe.engine.interventions import Intervention, by_name, names
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError
from localprobe.experiments.swap import plan_swap
from localprobe.llama.batch import Batch, Row
from localprobe.llama.graph import Graph, Part
from localprobe.llama.model import Model
from localprobe.prompts.encoder import Encoder
from localprobe.runs.tally import SWAP
from localprobe.tasks.capitals import Capitals

RUNS = 3
PREFILL_ROWS = (1, 4, 16, 64, 256)
FULL_PROMPTS = 2
"""Whole passes take the same time for every prompt; so many are enough to time them."""


@dataclass(frozen=True)
class PatchTimes:
    """Seconds a prompt, all layers, next token.

    ratio: full / resume. efficiency: floor / resume.
    """

    patch: str
    full_s: float
    resume_s: float
    floor_s: float

    @property
    def ratio(self) -> float:
        return self.full_s / self.resume_s

    @property
    def efficiency(self) -> float:
        return self.floor_s / self.resume_s


@dataclass(frozen=True)
class BenchResult:
    """prefill: rows -> seconds a row. clean_s: the clean pass, seconds a prompt.

    together: all interventions but swaps, the clean pass included on both sides.
    peak_memory: bytes, None where the system does not say.
    """

    n_prompts: int
    prefill: dict[int, float]
    patches: list[PatchTimes]
    clean_s: float
    together: PatchTimes
    peak_memory: int | None


class _Meter:
    """Notes the rows, outputs and multiplications of every partial decode, in all contexts."""

    def __init__(self) -> None:
        self.decodes: list[tuple[int, int, int]] = []
        self._decode_part = Model.decode_part

    def __enter__(self) -> _Meter:
        def metered(
            model: Model, rows: Batch, part: Callable[[Graph], Part], *, want_logits: bool = True
        ) -> object:
            def noted(graph: Graph) -> Part:
                found = part(graph)
                outputs = len(rows.output_rows) if want_logits else 0
                self.decodes.append((len(rows), outputs, graph.work(found, len(rows), outputs)))
                return found

            return self._decode_part(model, rows, noted, want_logits=want_logits)

        Model.decode_part = metered  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *_: object) -> None:
        Model.decode_part = self._decode_part  # type: ignore[method-assign]


def bench(model: Model, n_prompts: int, report: Callable[[str], None]) -> BenchResult:
    """Time everything RUNS times, interleaved, and take medians. report: is told what is next."""
    examples = Capitals().examples()[:n_prompts]
    if len(examples) < 2:
        raise LocalprobeError("a benchmark needs at least 2 prompts")
    if model.is_recurrent:
        raise LocalprobeError(
            "a benchmark compares resuming with whole passes, and this model is "
            "recurrent: it cannot resume"
        )
    prompts = [model.tokenize(example.prompt) for example in examples]
    full, resume = FullEngine(model), ResumeEngine(model)
    layers = range(model.n_layer)
    stops = [None] * len(prompts)

    def clean() -> list[CleanRun]:
        return resume.clean(prompts, layers, max_tokens=1, stops=stops)

    runs = clean()
    subjects = [example.subject for example in examples]
    texts = [example.prompt for example in examples]
    full.check_can([SWAP])
    damage = [name for name in names(with_donor=False) if not full.why_not(name)]
    kinds: dict[str, list[Intervention]] = {
        **{name: [by_name(name, 0)] * len(runs) for name in damage},
        SWAP: _swaps(model, texts, subjects, runs),
    }

    def work(engine: FullEngine, kind: str, n: int) -> None:
        interventions = kinds[kind][:n]
        defined = [layer for layer in layers if layer >= interventions[0].first_layer]
        cells = engine.run(
            runs[:n], interventions, defined, max_tokens=1, examples=range(n), stops=stops[:n]
        )
        for _ in cells:
            pass

    n_full = min(FULL_PROMPTS, len(runs))
    timed: dict[tuple[str, str], list[float]] = {}
    decodes: dict[str, list[tuple[int, int, int]]] = {}
    for number in range(RUNS):
        for kind in kinds:
            report(f"run {number + 1} of {RUNS}: {kind}")
            with _Meter() as meter:
                seconds = _seconds(lambda kind=kind: work(resume, kind, len(runs)))  # type: ignore[misc]
            decodes[kind] = meter.decodes
            timed.setdefault((kind, "resume"), []).append(seconds / len(runs))
            seconds = _seconds(lambda kind=kind: work(full, kind, n_full))  # type: ignore[misc]
            timed.setdefault((kind, "full"), []).append(seconds / n_full)
        timed.setdefault(("clean", "resume"), []).append(_seconds(clean) / len(runs))
        report(f"run {number + 1} of {RUNS}: clean passes")
        seconds = _seconds(lambda: [full.answer(p, max_tokens=1) for p in prompts[:n_full]])
        timed.setdefault(("clean", "full"), []).append(seconds / n_full)

    used_rows = {rows for each in decodes.values() for rows, _, _ in each}
    report("prefill rates")
    prefill = {rows: _prefill(model, rows) for rows in sorted(used_rows.union(PREFILL_ROWS))}
    everything = _whole_work(model)
    times = {key: median(values) for key, values in timed.items()}
    patches = []
    for kind in kinds:
        floor = sum(
            work_done * prefill[rows] * rows / everything(rows)
            for rows, _, work_done in decodes[kind]
        )
        patches.append(
            PatchTimes(kind, times[kind, "full"], times[kind, "resume"], floor / len(runs))
        )
    chosen = [each for each in patches if each.patch in damage]
    together = PatchTimes(
        "together",
        times["clean", "full"] + sum(each.full_s for each in chosen),
        times["clean", "resume"] + sum(each.resume_s for each in chosen),
        times["clean", "resume"] + sum(each.floor_s for each in chosen),
    )
    return BenchResult(
        len(runs), prefill, patches, times["clean", "resume"], together, _peak_memory()
    )


def _swaps(
    model: Model, texts: Sequence[str], subjects: Sequence[str], runs: Sequence[CleanRun]
) -> list[Intervention]:
    swaps: list[Intervention] = []
    for i, text in enumerate(texts):
        partner = (i + 1) % len(texts)
        plan = plan_swap(Encoder(model), text, subjects[i], subjects[partner])
        swaps.append(plan.injection(runs[partner].states))
    return swaps


def _prefill(model: Model, rows: int) -> float:
    """Seconds a row of a clean pass over so many rows, logits of one of them."""
    batch = Batch([Row(row % 100, row, (0,), row == rows - 1) for row in range(rows)])
    model.reserve(rows)

    def decode() -> None:
        model.clear()
        model.decode(batch, CLEAN)

    decode()
    return median(_seconds(decode) for _ in range(RUNS)) / rows


def _whole_work(model: Model) -> Callable[[int], int]:
    """Multiplications of a clean pass over so many rows."""
    model.clear()
    model.learn_graph(Batch([Row(0, 0, (0,), True)]))
    graph = model.graph
    assert graph is not None
    return lambda rows: graph.work(graph.everything(), rows, 1)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak_memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
