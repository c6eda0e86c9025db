"""Examples x interventions x layers -> scores.

Examples are taken in the task's order, so that the seed moves nothing but the random draws. Unless
all are wanted, those that the clean model answers wrongly are passed over, so that scores are
relative to what the model knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from localprobe.engine.full import CleanRun, FullEngine
from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.interventions import Freeze, Inject, Random, Shuffle, Skip, by_name
from localprobe.pace import Pace
from localprobe.swap import MODIFIED, ORIGINAL, plan_swap
from localprobe.tally import Tally
from localprobe.tasks.base import Example, Task

SWAP = "swap"
CLEAN = "clean"
PATCHES = (Random.name, Shuffle.name, Freeze.name, Skip.name, SWAP)


@dataclass(frozen=True)
class Column:
    """A column of the table: an intervention, what is scored, and the layers it is defined for."""

    patch: str
    metric: str
    layers: tuple[int, ...]


class Sweep:
    """A sweep and, while `run` goes on, what it has found so far (`tally`).

    patches: of PATCHES. layers: ascending. n: use the first n examples, None for all there are.
    Raises LocalprobeError for unknown or repeated interventions, or ones without a layer.
    """

    def __init__(
        self,
        engine: FullEngine,
        task: Task,
        patches: Sequence[str],
        layers: Sequence[int],
        *,
        n: int | None = None,
        seed: int = 0,
        all_examples: bool = False,
    ) -> None:
        self.task, self.layers, self.seed = task, tuple(layers), seed
        self.tally = Tally()
        self.columns = _columns(patches, self.layers, task.metric)
        self.tried = self.used = 0
        self._engine = engine
        self._patches = tuple(patches)
        self._n, self._all = n, all_examples
        self._examples = task.examples()
        self._n_layer = engine.model.n_layer
        self._pace = Pace()
        self._done: Counter[str] = Counter()
        if n is not None and n < 1:
            raise LocalprobeError(f"-n must be at least 1, not {n}")
        if SWAP in patches and n == 1:
            raise LocalprobeError("a swap sweep needs at least 2 examples to swap between")

    @property
    def expected(self) -> int:
        """How many examples will have been used in the end, judged by those tried so far."""
        left = len(self._examples) - self.tried
        share = 1.0 if self._all else (self.used + 1) / (self.tried + 1)
        likely = self.used + round(left * share)
        return likely if self._n is None else min(self._n, max(likely, self.used))

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take, judged by what was done; None before there is a clue."""
        return self._pace.left(self._work_left())

    @property
    def done(self) -> float:
        """The share of the time that is over, 0 … 1."""
        left, elapsed = self.seconds_left, self._pace.elapsed
        return 0.0 if left is None else elapsed / (elapsed + left)

    def _work_left(self) -> dict[str, float]:
        """Examples still to try, and for each intervention the blocks still to compute."""
        if self.used == self._n:
            left = {CLEAN: 0.0}
        else:
            untried = len(self._examples) - self.tried
            more = (self.expected - self.used) / max(1, self.used) * self.tried
            left = {CLEAN: min(untried, more) if self.used else float(untried)}
        for column in self.columns:
            if column.metric != MODIFIED:
                each = sum(self._work(layer) for layer in column.layers)
                left[column.patch] = max(0, self.expected * each - self._done[column.patch])
        return left

    def _work(self, layer: int) -> int:
        return self._n_layer - layer

    def _did(self, patch: str, layer: int) -> None:
        self._done[patch] += self._work(layer)
        self._pace.did(patch, self._work(layer))

    def run(self) -> Iterator[None]:
        """Compute; comes back after every example tried and every cell, for views to look.

        Raises LocalprobeError (exit code 1) when the clean model gets no example right.
        """
        sizes = _growing(self._engine.batch_size)
        for batch in _batches(_with_next(self._usable()), sizes):
            for patch in self._patches if batch else ():
                if patch == SWAP:
                    yield from self._swap(batch)
                else:
                    yield from self._damage(patch, [candidate for candidate, _ in batch])
            yield
        if self.used == 0:
            raise NothingToProbeError(
                f"the clean model answers none of the {self.tried} examples right, so there is "
                "nothing to lose; try another model or template, or --all-examples"
            )

    def _usable(self) -> Iterator[_Candidate | None]:
        """The examples to use; None for every one that was tried and is passed over."""
        size = self._engine.batch_size
        for start in range(0, len(self._examples), size):
            examples = self._examples[start : start + size]
            runs = self._engine.clean(
                [self._engine.model.tokenize(example.prompt) for example in examples],
                self.layers,
                max_tokens=self.task.max_tokens,
                stops=[self._settled(example) for example in examples],
            )
            self._pace.did(CLEAN, len(examples))
            for example, run in zip(examples, runs, strict=True):
                if self.used == self._n:
                    return
                score = self.task.score(run.answer.text, example)
                used = self._all or score > 0
                self.tally.add_clean(score, used=used)
                self.tried += 1
                self.used += used
                yield _Candidate(example, run) if used else None

    def _damage(self, patch: str, batch: Sequence[_Candidate]) -> Iterator[None]:
        intervention = by_name(patch, self.seed)
        cells = self._engine.run(
            [candidate.run for candidate in batch],
            [intervention] * len(batch),
            [layer for layer in self.layers if layer >= intervention.first_layer],
            max_tokens=self.task.max_tokens,
            examples=[candidate.example.number for candidate in batch],
            stops=[self._settled(candidate.example) for candidate in batch],
        )
        for i, layer, answer in cells:
            score = self.task.score(answer.text, batch[i].example)
            self.tally.add(patch, self.task.metric, layer, score)
            self._did(patch, layer)
            yield

    def _swap(self, batch: Sequence[tuple[_Candidate, _Candidate]]) -> Iterator[None]:
        if any(partner is candidate for candidate, partner in batch):
            raise NothingToProbeError(
                "a swap needs two examples that the clean model answers right"
            )
        pairs = [(candidate.example, partner.example) for candidate, partner in batch]
        cells = self._engine.run(
            [candidate.run for candidate, _ in batch],
            [self._injection(candidate, partner) for candidate, partner in batch],
            self.layers,
            max_tokens=self.task.max_tokens,
            examples=[example.number for example, _ in pairs],
            stops=[self._settled(*pair) for pair in pairs],
        )
        for i, layer, answer in cells:
            for metric, whose in zip((ORIGINAL, MODIFIED), pairs[i], strict=True):
                self.tally.add(SWAP, metric, layer, self.task.score(answer.text, whose))
            self._did(SWAP, layer)
            yield

    def _injection(self, candidate: _Candidate, partner: _Candidate) -> Inject:
        example, other = candidate.example, partner.example
        model = self._engine.model
        plan = plan_swap(model, example.prompt, example.subject, other.subject)
        known = partner.run.states if plan.donor == partner.run.prompt else {}
        states = known if known.keys() >= set(self.layers) else None
        return Inject(
            states or self._engine.states(plan.donor, self.layers), plan.at, plan.donor_at
        )

    def _settled(self, *examples: Example) -> Callable[[str], bool]:
        return lambda text: self.task.is_settled(text, examples)

    def transition(self, patch: str) -> int | None:
        """The layer from which on the intervention no longer matters.

        That is where the score stays ≥ 90 % of the baseline; for a swap, where the original
        answer stays more frequent than the modified one.
        """
        if patch == SWAP:
            return self.tally.overtakes_from(SWAP, ORIGINAL, MODIFIED, self.layers)
        column = next(column for column in self.columns if column.patch == patch)
        return self.tally.survives_from(patch, column.metric, column.layers)


@dataclass(frozen=True)
class _Candidate:
    """An example with its clean run."""

    example: Example
    run: CleanRun


class NothingToProbeError(LocalprobeError):
    """The sweep could be run, but there is nothing to see."""

    exit_code = 1


def _columns(patches: Sequence[str], layers: tuple[int, ...], metric: str) -> list[Column]:
    if not patches:
        raise LocalprobeError(f"no intervention was named; known: {', '.join(PATCHES)}")
    columns = []
    for position, patch in enumerate(patches):
        if patch in patches[:position]:
            raise LocalprobeError(f"the intervention {patch} was named twice")
        if patch == Inject.name:
            raise LocalprobeError(
                "a sweep injects by swapping examples: write --patch swap "
                "(inject with a donor of your own is for localprobe probe)"
            )
        if patch not in PATCHES:
            raise LocalprobeError(f"unknown intervention {patch!r}; {did_you_mean(patch, PATCHES)}")
        if patch == SWAP:
            columns += [Column(SWAP, ORIGINAL, layers), Column(SWAP, MODIFIED, layers)]
            continue
        first = by_name(patch, 0).first_layer
        defined = tuple(layer for layer in layers if layer >= first)
        if not defined:
            raise LocalprobeError(f"{patch} is defined from layer {first} on")
        columns.append(Column(patch, metric, defined))
    return columns


T = TypeVar("T")


def _growing(most: int) -> Iterator[int]:
    """1, 2, 4 … most, most, …: the whole table is there after the first example."""
    size = 1
    while True:
        yield min(size, most)
        size = min(2 * size, most)


def _batches(items: Iterable[T | None], sizes: Iterator[int]) -> Iterator[list[T]]:
    """Lists of so many items, the last one of what is left; an empty list for every None."""
    batch: list[T] = []
    size = next(sizes)
    for item in items:
        if item is None:
            yield []
            continue
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch, size = [], next(sizes)
    if batch:
        yield batch


def _with_next(examples: Iterable[T | None]) -> Iterator[tuple[T, T] | None]:
    """Each example with the one after it; the last with the first. None goes through."""
    first = previous = None
    for example in examples:
        if example is None:
            yield None
            continue
        if previous is None:
            first = example
        else:
            yield previous, example
        previous = example
    if previous is not None and first is not None:
        yield previous, first
