"""Examples x interventions x layers -> rows.

Examples are taken in the task's order, so that the seed moves nothing but the random draws. Unless
all are wanted, those that the clean model answers wrongly are passed over, so that scores are
relative to what the model knows.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TypeVar

from localprobe.engine.answers import top_tokens
from localprobe.engine.full import NO_ANSWER, Answer, CleanRun, FullEngine
from localprobe.engine.interventions import Intervention, by_name, defined_layers, names
from localprobe.errors import LocalprobeError, NotFiniteError, did_you_mean
from localprobe.experiments.pace import Pace
from localprobe.experiments.swap import SwapPlan, plan_swap
from localprobe.experiments.work import Work
from localprobe.prompts.encoder import Encoder
from localprobe.runs.adaptive import Adaptive, Spending
from localprobe.runs.descent import Descent, Walk, held
from localprobe.runs.growth import growing
from localprobe.runs.rows import CLEAN, Row
from localprobe.runs.shard import WHOLE, Shard
from localprobe.runs.tally import KEPT, MODIFIED, ORIGINAL, SWAP, Column, Tally
from localprobe.runs.tally import patches as sweepable
from localprobe.tasks.base import FIRST_TOKEN, RIGHT_OR_WRONG, Example, Task, chance, cut


class Sweep:
    """A sweep and, while `run` goes on, what it has found so far (`tally`).

    patches: of tally.patches(). layers: ascending. n: use the first n examples, None for all.
    metric: of the task's, its first one if None. max_tokens, max_prompt_tokens: the task's if None.
    shard: which of the examples to do; which ones are used does not depend on it.
    descent: by which rule layers are left out that are below each example's own transition; all
    layers if None. keep: from which share of the baseline on an answer survives. until_width: of a
    descent, end once each intervention's interval is at most so many layers wide. adaptive: by
    which rule layers get examples, if not all get all of them.
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
        metric: str | None = None,
        max_tokens: int | None = None,
        max_prompt_tokens: int | None = None,
        encoder: Encoder | None = None,
        shard: Shard = WHOLE,
        descent: Descent | None = None,
        keep: float = KEPT,
        until_width: int | None = None,
        adaptive: Adaptive | None = None,
    ) -> None:
        self.task, self.seed = task, seed
        self.metric = task.metrics[0] if metric is None else metric
        if self.metric not in task.metrics:
            raise LocalprobeError(
                f"the task {task.name} has no metric {metric!r}; "
                f"{did_you_mean(self.metric, task.metrics)}"
            )
        if n is not None and n < 1:
            raise LocalprobeError(f"-n must be at least 1, not {n}")
        self._descent, self._until_width = descent, until_width
        metrics = task.metrics
        if descent is not None:
            self._check_descent(patches, all_examples=all_examples, shard=shard)
            metrics = (self.metric,)
        if adaptive is not None:
            self._check_adaptive(patches, shard=shard)
        columns = _columns(patches, tuple(layers), metrics)
        engine.check_can(patches)
        self.layers = tuple(layers)
        self.max_tokens = task.max_tokens if max_tokens is None else max_tokens
        self.shard = shard
        self.tried = self.used = 0
        self._is_enough = False
        self._engine = engine
        self._encoder = encoder or Encoder(engine.model)
        self._patches = tuple(patches)
        self._n, self._all = n, all_examples or not task.has_right_answers
        self._most = task.max_prompt_tokens if max_prompt_tokens is None else max_prompt_tokens
        self._examples = task.examples()
        if max_prompt_tokens is not None and not any(each.body for each in self._examples):
            raise LocalprobeError(f"--max-prompt-tokens is not for the task {task.name}")
        if SWAP in patches:
            self._check_swap()
        self._n_layer = engine.model.n_layer
        self._work = self._check_examples()
        # More at once would be computed, and perhaps not be wanted.
        self._together = engine.together(
            int(self._work.n_tokens) + self.max_tokens, int(self._work.n_shared)
        )
        self.tally = Tally(
            columns,
            self.metric,
            # What guessing gives would need the first tokens of all answers.
            {} if self.metric == FIRST_TOKEN else chance(task),
            knows_near_ties=engine.noise is not None,
            descent=descent,
            kept=keep,
            adaptive=adaptive,
            until_width=until_width,
        )
        self._spending = None
        if adaptive is not None:
            cells = dict.fromkeys((c.patch, layer) for c in columns for layer in c.layers)
            self._spending = Spending(adaptive, list(cells), self.metric)
        self._known: dict[int, list[Row]] = defaultdict(list)
        self._pace = Pace()
        self._done: Counter[tuple[str, int | None]] = Counter()
        self._waiting: deque[Row] = deque()
        self._block: tuple[int, list[CleanRun]] | None = None

    def go_on_from(self, known: Iterable[Row]) -> None:
        """Before `run`: rows of whole examples, which need not be computed again."""
        for row in known:
            if row.patch == CLEAN and row.used != (
                not row.not_finite and self._is_used(row.scores)
            ):
                raise LocalprobeError(
                    f"the rows that are there are not of this run: example {row.example} "
                    f"{'is' if row.used else 'is not'} used there; choose another --out"
                )
            self._known[row.example].append(row)

    def _is_used(self, scores: Mapping[str, float]) -> bool:
        return self._all or scores[self.metric] > 0

    def _check_descent(self, patches: Sequence[str], *, all_examples: bool, shard: Shard) -> None:
        """Raise LocalprobeError where an answer is not either right or lost."""
        binary = [metric for metric in self.task.metrics if metric in RIGHT_OR_WRONG]
        if self.metric not in binary:
            instead = f"--metric {binary[0]}" if binary else "localprobe sweep"
            raise LocalprobeError(
                f"a transition needs answers that are right or lost, and {self.metric} has "
                f"degrees; take {instead}"
            )
        if SWAP in patches:
            raise LocalprobeError(
                "an answer is lost or not under one intervention; for where a swap turns, take "
                "localprobe sweep --patch swap"
            )
        if all_examples:
            raise LocalprobeError("examples that the clean model gets wrong have nothing to lose")
        if self._until_width is not None and shard != WHOLE:
            raise LocalprobeError(
                "--until-width looks at all examples, and a shard does not have them"
            )

    def _check_adaptive(self, patches: Sequence[str], *, shard: Shard) -> None:
        if SWAP in patches:
            raise LocalprobeError(
                "an adaptive sweep goes by one score a layer, and a swap has two; sweep swap alone"
            )
        if shard != WHOLE:
            raise LocalprobeError(
                "--adaptive looks at all examples, and a shard does not have them"
            )

    def _is_narrow(self) -> bool:
        """Whether all intervals are as narrow as is asked for."""
        if self._spending is not None:
            return not self._spending.cells
        if self._until_width is None or not self.tally.baseline.n:
            return False
        return not self.tally.wider_than_asked()

    def _check_swap(self) -> None:
        if not all(example.subject for example in self._examples):
            raise LocalprobeError(
                f"a swap needs words to swap, which examples of the task {self.task.name} lack; "
                "take capitals, or a jsonl file with old, new and new_answers in every line"
            )
        if self._n == 1 and not all(each.partner for each in self._examples):
            raise LocalprobeError("a swap sweep needs at least 2 examples to swap between")

    def _check_examples(self) -> Work:
        """Raise LocalprobeError for an example that could not be done, before any is begun.

        Returns how much work they are.
        """
        prompts, n_tokens, n_swapped = list[list[int]](), list[int](), list[int]()
        for number, example in enumerate(self._examples):
            try:
                if example.body is None:
                    tokens = self._encoder.tokens(example.prompt)
                    self._engine.model.check_length(len(tokens) + self.max_tokens)
                    prompts = [*prompts[-1:], tokens]
                    n_tokens.append(len(tokens))
                elif self._most is not None:
                    n_tokens.append(self._most)
                if SWAP in self._patches:
                    other = self._examples[(number + 1) % len(self._examples)]
                    new = (example.partner or other).subject
                    plan = plan_swap(self._encoder, example.prompt, example.subject, new)
                    n_swapped.append(len(plan.prompt) - min(plan.at))
            except LocalprobeError as error:
                raise LocalprobeError(f"example {example.number}: {error}") from None
        return Work(
            self._n_layer,
            sum(n_tokens) / max(1, len(n_tokens)),
            _n_shared(*prompts) if len(prompts) > 1 else 0,
            sum(n_swapped) / max(1, len(n_swapped)),
            self.max_tokens,
            is_whole=self._engine.name == FullEngine.name,
            n_layers=len(self.layers),
        )

    # Progress

    @property
    def n_examples(self) -> int:
        """How many the task has, used or not."""
        return len(self._examples)

    @property
    def expected(self) -> int:
        """How many examples will have been used in the end, judged by those tried so far."""
        if self._is_enough:
            return self.used
        most = self._most_used
        if self._spending is None:
            return most
        likely = [self._spending.likely(cell, most) for cell in self._spending.cells]
        return max(likely, default=self.used)

    @property
    def _most_used(self) -> int:
        """How many examples can be used, judged by those tried so far."""
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

    @property
    def goes_on(self) -> bool:
        """Whether rows of it were there already."""
        return bool(self._known)

    @property
    def work_left(self) -> tuple[float, float]:
        """What is to be computed at least, before `run`, in rows through a block, as `Work` counts.

        The second of them: what of that are decodes of a row or two a prompt.
        """
        # A descent may end in the upper third of the layers, which are a ninth of the work.
        share = 1 / 9 if self._descent else 1.0
        together = self._engine.batch_size
        cells = self._cells_left()
        few = sum(n * self._work.in_few_rows(patch, layer, together) for patch, layer, n in cells)
        return share * sum(self._work_left().values()), share * few

    def _work_left(self) -> dict[str, float]:
        """For the clean model and for each intervention, what is still to be computed."""
        together = self._engine.batch_size
        if self._is_enough:
            to_try = 0.0
        else:
            untried = len(self._examples) - self.tried
            more = (self.expected - self.used) / max(1, self.used) * self.tried
            to_try = min(untried, more) if self.used else float(untried)
        left = {CLEAN: to_try * self._work.clean(together)}
        for patch, layer, n in self._cells_left():
            left[patch] = left.get(patch, 0.0) + n * self._work.cell(patch, layer, together)
        return left

    def _cells_left(self) -> Iterator[tuple[str, int, float]]:
        """Intervention, layer, and of how many examples they are still to be computed."""
        if self._spending is not None:
            for patch, layer in self._spending.cells:
                wanted = self._spending.likely((patch, layer), self._most_used)
                yield patch, layer, max(0, wanted - self._done[patch, layer])
            return
        mine = len(range(self.shard.number - 1, self.expected, self.shard.count))
        # All metrics of an intervention are of the same answers.
        for patch, layers in {each.patch: each.layers for each in self.tally.columns}.items():
            whole = self._done[patch, layers[-1]] + 1
            for layer in layers:
                done = self._done[patch, layer]
                # Of a descent, as often as those before came by.
                n = (mine + 1) * (done + 1) / whole - done - 1 if self._descent else mine - done
                yield patch, layer, max(0, n)

    @property
    def going_on(self) -> tuple[int, int] | None:
        """Of an adaptive sweep, how many layers go on, of all interventions, and of how many."""
        if self._spending is None:
            return None
        return len(self._spending.cells), sum(len(column.layers) for column in self.tally.columns)

    # Computing

    def run(self) -> Iterator[Row | None]:
        """Every row as it is found, those that were known included.

        The row of the clean model comes before the others of its example. None comes when there
        is nothing to tell but that time goes by.
        Raises LocalprobeError (exit code 1) when the clean model gets no example right.
        """
        self._pace = Pace()
        # Where the run ends must not depend on how many share a decode.
        most = 1 if self._until_width is not None else self._engine.batch_size
        for pairs in _batches(self._pairs(), growing(most)):
            yield from self._clean_rows()
            took: dict[int, list[Row]] = {pair[0].example.number: [] for pair in pairs}
            for row in self._known_cells(pairs):
                self._done[row.patch, row.layer] += 1
                took[row.example].append(row)
                yield self._counted(row)
            to_do = {pair[0].example.number for pair in pairs} - self._known.keys()
            if self._engine.company == 1:
                pairs = [pair for pair in pairs if pair[0].example.number in to_do]
            for patch in self._patches if to_do else ():
                for row in self._cells(patch, pairs):
                    if row.example in to_do:
                        self._done[patch, row.layer] += 1
                        took[row.example].append(row)
                    self._pace.did(patch, self._work.cell(patch, row.layer or 0, len(pairs)))
                    # Known ones share the decodes as before, where the others would change.
                    yield self._counted(row) if row.example in to_do else None
            if self._spending is not None:
                for rows in took.values():
                    self._spending.took(rows)
            yield None
        yield from self._clean_rows()
        if self.used == 0:
            raise NothingToProbeError(
                f"the clean model answers none of the {self.tried} examples right, so there is "
                f"nothing to lose; {self._by_another_metric()}try another model or template, or "
                "--all-examples"
            )

    def _by_another_metric(self) -> str:
        """A model that goes on after "Paris" is wrong by exact_match, and right by others."""
        for metric in self.tally.clean_metrics:
            found = self.tally.clean_score(metric)
            if found.n and found.score > 0:
                return f"some are right by --metric {metric}; or "
        return ""

    def _counted(self, row: Row) -> Row:
        self.tally.add(row)
        return row

    def _clean_rows(self) -> Iterator[Row]:
        while self._waiting:
            yield self._counted(self._waiting.popleft())

    def _known_cells(self, pairs: Sequence[_Pair]) -> Iterator[Row]:
        for candidate, _ in pairs:
            for row in self._known.get(candidate.example.number, ()):
                if row.patch != CLEAN:
                    yield row

    def _pairs(self) -> Iterator[_Pair | None]:
        """The examples of this shard, each with the next one that is used."""
        candidates = self._candidates()
        if self._spending is not None:
            # Nothing is swapped, and the next example may not be wanted any more.
            yield from ((one, one) if one else None for one in candidates)
            return
        for pair in _with_next(candidates):
            yield pair if pair and self.shard.has(pair[0].place) else None

    def _candidates(self) -> Iterator[_Candidate | None]:
        """The examples to use; None for every one that was tried and is passed over."""
        size = self._together
        for number, example in enumerate(self._examples):
            self._is_enough = self.used == self._n or self._is_narrow()
            if self._is_enough:
                return
            candidate = _Candidate(example, self.used, number - number % size, number % size)
            row = self._known_clean(example) or self._clean_row(candidate)
            if self.shard.has(self.used if row.used else self.tried):
                self._waiting.append(row)
            self.tried += 1
            self.used += row.used
            yield candidate if row.used else None

    def _known_clean(self, example: Example) -> Row | None:
        rows = self._known.get(example.number, ())
        return next((row for row in rows if row.patch == CLEAN), None)

    def _clean_row(self, candidate: _Candidate) -> Row:
        example, run = candidate.example, self._run_of(candidate)
        if not run.answer.is_finite:
            return Row(example.number, CLEAN, None, "", {}, (), used=False, not_finite=True)
        shown = self._cut(example)
        scores = self.task.score(run.answer.text, example)
        is_near_tie = self._is_near_tie(run.answer)
        ties = self._ties(run.answer, scores, example) if is_near_tie else None
        low, high = (ties or {}).get(self.metric, (scores[self.metric],) * 2)
        return Row(
            example=example.number,
            patch=CLEAN,
            layer=None,
            answer=run.answer.text,
            scores=scores,
            top=top_tokens(self._engine.model, run.answer.logits),
            used=self._is_used(scores),
            cut=shown is not example,
            near_tie=is_near_tie,
            ties=ties,
            used_by_tie=not self._all and low <= 0 < high,
            prompt=shown.prompt,
            accepted=shown.answers,
            subject=shown.subject,
        )

    def _is_near_tie(self, answer: Answer) -> bool:
        return self._engine.noise is not None and answer.margin <= self._engine.noise

    def _ties(
        self,
        answer: Answer,
        scores: Mapping[str, float],
        example: Example,
        partner: Example | None = None,
    ) -> dict[str, tuple[float, float]]:
        """By metric, the lowest and highest score that the answer could have had; see `Row`.

        An answer that a near tie turns goes on as it is up to there, and then with one of the
        tied tokens. Where that settles its scores, they are known. Where it does not, whatever
        follows is not known, and each score may be any.
        """
        model, found = self._engine.model, {name: [score] for name, score in scores.items()}
        compared = (example, partner) if partner else (example,)
        for tie in answer.ties:
            before = list(answer.tokens[: tie.place])
            for other in (None,) if tie.others is None else tie.others:
                ends = other is not None and model.ends_generation(other)
                written = before if ends or other is None else [*before, other]
                text = model.detokenize(written)
                is_over = ends or len(written) >= self.max_tokens
                if other is None or not (is_over or self.task.is_settled(text, compared)):
                    return dict.fromkeys(scores, (0.0, 1.0))
                possible = self._scores(text, *compared)
                for name in scores:
                    found[name].append(possible[name])
        ranges = {name: (min(found[name]), max(found[name])) for name in scores}
        return {name: ends for name, ends in ranges.items() if ends[0] < ends[1]}

    def _scores(
        self, text: str, example: Example, partner: Example | None = None
    ) -> Mapping[str, float]:
        scores = self.task.score(text, example)
        if partner is None:
            return scores
        modified = self.task.score(text, partner)[self.metric]
        return {ORIGINAL: scores[self.metric], MODIFIED: modified}

    def _run_of(self, candidate: _Candidate) -> CleanRun:
        """The clean run of an example, which is computed along with its neighbours."""
        if candidate.run is None:
            start = candidate.block
            if self._block is None or self._block[0] != start:
                examples = self._examples[start : start + self._together]
                runs = self._engine.clean(
                    [self._encoder.tokens(self._cut(example).prompt) for example in examples],
                    self.layers,
                    max_tokens=self.max_tokens,
                    stops=[self._settled(example) for example in examples],
                )
                for each in runs:
                    self._work.saw(len(each.answer.all_tokens))
                self._pace.did(CLEAN, len(examples) * self._work.clean(len(examples)))
                self._block = start, runs
            candidate.run = self._block[1][candidate.index]
        return candidate.run

    def _cut(self, example: Example) -> Example:
        if self._most is None:
            return example
        return cut(example, lambda prompt: len(self._encoder.tokens(prompt)), self._most)

    def _cells(self, patch: str, pairs: Sequence[_Pair]) -> Iterator[Row]:
        """The rows of some examples under one intervention, in the engine's order."""
        todo = [self._to_do(patch, pair) for pair in pairs]
        layers: Sequence[int] = next(c.layers for c in self.tally.all_columns if c.patch == patch)
        if self._spending is not None:
            layers = self._spending.layers(patch)
        if not layers:
            return
        walks = self._walks(patch, todo)
        there = [(one, one.intervention) for one in todo if one.intervention is not None]
        cells = self._engine.run(
            [one.run for one, _ in there],
            [intervention for _, intervention in there],
            layers,
            max_tokens=self.max_tokens,
            examples=[one.example.number for one, _ in there],
            stops=[self._settled(*one.compared) for one, _ in there],
            wanted=None if walks is None else lambda i, layer: walks[i].wants(layer),
            certain=None if walks is None else lambda i: walks[i].certain,
        )
        for i, layer, answer in cells:
            row = self._row(patch, there[i][0], layer, answer)
            if walks is not None:
                walks[i].saw(layer, held(row, self.metric))
            yield row
        for one in todo:
            if one.intervention is None:
                yield from (self._row(patch, one, layer, NO_ANSWER) for layer in layers)

    def _walks(self, patch: str, todo: Sequence[_ToDo]) -> list[Walk] | None:
        """Which layers of each example are to be tried, where not all are."""
        if self._descent is None:
            return None
        return [Walk(self._descent, one.example.number, patch) for one in todo]

    def _to_do(self, patch: str, pair: _Pair) -> _ToDo:
        """What is done to an example; for a swap, the states of the next one's words."""
        example, run = pair[0].example, self._run_of(pair[0])
        if patch != SWAP:
            return _ToDo(example, run, by_name(patch, self.seed))
        partner = self._partner(pair)
        plan = plan_swap(self._encoder, example.prompt, example.subject, partner.subject)
        last_only = not plan.token_for_token
        return _ToDo(example, run, self._injection(pair, plan), partner, last_only)

    def _row(self, patch: str, one: _ToDo, layer: int, answer: Answer) -> Row:
        example, partner = one.example, one.partner
        row = Row(
            example=example.number,
            patch=patch,
            layer=layer,
            answer="",
            scores={},
            top=(),
            partner=partner.number if partner and partner is not example.partner else None,
            last_token_only=one.last_only,
            new=partner.subject if partner else "",
            new_accepted=partner.answers if partner else (),
        )
        if not answer.is_finite:
            return replace(row, not_finite=True)
        scores = self._scores(answer.text, example, partner)
        if self._descent is not None:
            scores = {self.metric: scores[self.metric]}
        is_near_tie = self._is_near_tie(answer)
        return replace(
            row,
            answer=answer.text,
            scores=scores,
            top=top_tokens(self._engine.model, answer.logits),
            near_tie=is_near_tie,
            ties=self._ties(answer, scores, example, partner) if is_near_tie else None,
        )

    def _partner(self, pair: _Pair) -> Example:
        candidate, after = pair
        if candidate.example.partner:
            return candidate.example.partner
        if candidate is after:
            raise NothingToProbeError(
                "a swap needs two examples that the clean model answers right"
            )
        return after.example

    def _injection(self, pair: _Pair, plan: SwapPlan) -> Intervention | None:
        """The swap of an example; None where the donor's states are not finite."""
        _, after = pair
        states = None
        if self._partner(pair) is after.example:
            run = self._run_of(after)
            if plan.donor == run.prompt and run.states.keys() >= set(self.layers):
                states = run.states
        try:
            states = states or self._engine.states(plan.donor, self.layers)
        except NotFiniteError:
            return None
        return plan.injection(states)

    def _settled(self, *examples: Example) -> Callable[[str], bool]:
        return lambda text: self.task.is_settled(text, examples)


@dataclass
class _Candidate:
    """An example to use, the place-th of them; where its clean run is computed, and that run."""

    example: Example
    place: int
    block: int
    index: int
    run: CleanRun | None = None


_Pair = tuple[_Candidate, _Candidate]


@dataclass
class _ToDo:
    """An example under an intervention, None where the donor's states are not finite.

    partner: the example whose words are swapped in, if any.
    """

    example: Example
    run: CleanRun
    intervention: Intervention | None
    partner: Example | None = None
    last_only: bool = False

    @property
    def compared(self) -> tuple[Example, ...]:
        """Whose answers an answer is compared with."""
        return (self.example, self.partner) if self.partner else (self.example,)


class NothingToProbeError(LocalprobeError):
    """The sweep could be run, but there is nothing to see."""

    exit_code = 1


def _columns(
    patches: Sequence[str], layers: tuple[int, ...], metrics: Sequence[str]
) -> list[Column]:
    if not patches:
        raise LocalprobeError(f"no intervention was named; known: {', '.join(sweepable())}")
    columns = []
    for position, patch in enumerate(patches):
        if patch in patches[:position]:
            raise LocalprobeError(f"the intervention {patch} was named twice")
        if patch in names() and patch not in sweepable():
            raise LocalprobeError(
                "a sweep injects by swapping examples: write --patch swap "
                f"({patch} with a donor of your own is for localprobe probe)"
            )
        if patch not in sweepable():
            raise LocalprobeError(
                f"unknown intervention {patch!r}; {did_you_mean(patch, sweepable())}"
            )
        if patch == SWAP:
            columns += [Column(SWAP, ORIGINAL, layers), Column(SWAP, MODIFIED, layers)]
            continue
        defined = tuple(defined_layers(by_name(patch, 0), layers))
        columns += [Column(patch, metric, defined) for metric in metrics]
    return columns


def _n_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


T = TypeVar("T")


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
