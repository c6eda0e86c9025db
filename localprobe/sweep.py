"""Examples x interventions x layers -> scores.

Examples are taken in the task's order, so that the seed moves nothing but the random draws. Unless
all are wanted, those that the clean model answers wrongly are passed over, so that scores are
relative to what the model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from localprobe.engine.full import FullEngine
from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.interventions import Freeze, Inject, Random, Shuffle, Skip, by_name
from localprobe.swap import MODIFIED, ORIGINAL, plan_swap
from localprobe.tally import Tally
from localprobe.tasks.base import Example, Task

SWAP = "swap"
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
        self._cells_done = 0
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
    def done(self) -> float:
        """The share of the work that is done, 0 … 1."""
        if self.used == 0:
            return self.tried / len(self._examples)
        total = self.expected * self._cells_per_example
        return min(1.0, self._cells_done / total) if total else 0.0

    @property
    def _cells_per_example(self) -> int:
        return sum(len(column.layers) for column in self.columns if column.metric != MODIFIED)

    def run(self) -> Iterator[None]:
        """Compute; comes back after every example tried and every cell, for views to look.

        Raises LocalprobeError (exit code 1) when the clean model gets no example right.
        """
        for pair in _with_next(self._usable()):
            if pair is None:
                yield
                continue
            example, partner = pair
            for patch in self._patches:
                if patch == SWAP:
                    yield from self._swap(example, partner)
                else:
                    yield from self._damage(patch, example)
            yield
        if self.used == 0:
            raise NothingToProbeError(
                f"the clean model answers none of the {self.tried} examples right, so there is "
                "nothing to lose; try another model or template, or --all-examples"
            )

    def _usable(self) -> Iterator[Example | None]:
        """The examples to use; None for every one that was tried and is passed over."""
        for example in self._examples:
            if self.used == self._n:
                return
            tokens = self._engine.model.tokenize(example.prompt)
            answer = self._engine.answer(
                tokens, max_tokens=self.task.max_tokens, stop=self._settled(example)
            )
            score = self.task.score(answer.text, example)
            used = self._all or score > 0
            self.tally.add_clean(score, used=used)
            self.tried += 1
            self.used += used
            yield example if used else None

    def _damage(self, patch: str, example: Example) -> Iterator[None]:
        intervention = by_name(patch, self.seed)
        tokens = self._engine.model.tokenize(example.prompt)
        for layer in self.layers:
            if layer < intervention.first_layer:
                continue
            answer = self._engine.answer(
                tokens,
                max_tokens=self.task.max_tokens,
                intervention=intervention,
                layer=layer,
                example=example.number,
                stop=self._settled(example),
            )
            self.tally.add(patch, self.task.metric, layer, self.task.score(answer.text, example))
            self._cells_done += 1
            yield

    def _swap(self, example: Example, partner: Example) -> Iterator[None]:
        if partner is example:
            raise NothingToProbeError(
                "a swap needs two examples that the clean model answers right"
            )
        model = self._engine.model
        plan = plan_swap(model, example.prompt, example.subject, partner.subject)
        donor = self._engine.states(plan.donor, self.layers)
        for layer in self.layers:
            answer = self._engine.answer(
                plan.prompt,
                max_tokens=self.task.max_tokens,
                intervention=Inject(donor, plan.at, plan.donor_at),
                layer=layer,
                stop=self._settled(example, partner),
            )
            for metric, whose in ((ORIGINAL, example), (MODIFIED, partner)):
                self.tally.add(SWAP, metric, layer, self.task.score(answer.text, whose))
            self._cells_done += 1
            yield

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


def _with_next(examples: Iterable[Example | None]) -> Iterator[tuple[Example, Example] | None]:
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
