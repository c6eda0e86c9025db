"""Maps of many examples of a task, their tokens aligned by role.

The examples are those of a sweep: in the task's order, the ones that the clean model answers right.
Where two answers are told apart, each example has a donor (see `_Donors`); without one it is not
used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from localprobe.engine.full import FullEngine
from localprobe.errors import LocalprobeError
from localprobe.experiments.map import (
    KNOCKOUT,
    Donor,
    MapPlan,
    OpenPrompt,
    TokenMap,
    Values,
    check_window,
    make_map,
    swapped,
)
from localprobe.experiments.roles import roles_of
from localprobe.experiments.swap import tokens_at
from localprobe.experiments.sweep import NothingToProbeError
from localprobe.prompts.encoder import Encoder
from localprobe.prompts.words import occurrences
from localprobe.runs.maps import MapRow
from localprobe.runs.shard import WHOLE, Shard
from localprobe.tasks.base import Example, Task

Roles = Mapping[str, tuple[int, ...]]


class MapSweep:
    """Maps of the examples of a task. layers: ascending. n: use the first n, None for all.

    plan: one made `over_task`. shard: which of them to do; which ones are used does not depend on
    it.
    Raises LocalprobeError for a task without subjects, or an example that could not be done.
    """

    def __init__(
        self,
        engine: FullEngine,
        open_prompt: OpenPrompt,
        encoder: Encoder,
        task: Task,
        plan: MapPlan,
        layers: Sequence[int],
        *,
        n: int | None = None,
        shard: Shard = WHOLE,
    ) -> None:
        check_window(plan.window, engine.model.n_layer)
        if n is not None and n < 1:
            raise LocalprobeError(f"-n must be at least 1, not {n}")
        self.task, self.plan = task, plan
        self.tried = self.used = self.without_donor = 0
        self._engine, self._open, self._encoder = engine, open_prompt, encoder
        self._n, self._shard = n, shard
        self._examples = task.examples()
        first = 1 if plan.patch == "freeze" else 0
        self.layers = tuple(layer for layer in layers if layer >= first)
        if not self.layers:
            raise LocalprobeError(f"{plan.patch} is defined from layer {first} on")
        if not self._examples or not all(each.subject for each in self._examples):
            raise LocalprobeError(
                f"maps are aligned by a subject, which examples of the task {task.name} lack; take "
                "capitals, or a jsonl file with old, new and new_answers in every line"
            )
        self._tokens: list[list[int]] = []
        self._roles: list[dict[str, tuple[int, ...]]] = []
        for example in self._examples:
            try:
                tokens = encoder.tokens(example.prompt)
                engine.model.check_length(len(tokens) + task.max_tokens)
                self._roles.append(self._roles_of(example, tokens))
            except LocalprobeError as error:
                raise LocalprobeError(f"example {example.number}: {error}") from None
            self._tokens.append(tokens)
        self._answers = dict[int, _Answered]()
        self._alike = dict[tuple[tuple[str, tuple[int, ...]], ...], list[int]]()
        for place, roles in enumerate(self._roles):
            self._alike.setdefault(tuple(roles.items()), []).append(place)

    @property
    def n_examples(self) -> int:
        """How many the task has, used or not."""
        return len(self._examples)

    @property
    def expected(self) -> int:
        """How many will be used at most."""
        return len(self._examples) if self._n is None else min(self._n, len(self._examples))

    @property
    def work_left(self) -> tuple[float, float]:
        """As that of a Sweep, before it is run: in all, and what of that are decodes of few rows.

        Knockouts are a row a role; else all rows from a role's first token on are computed again.
        """
        knockout = self.plan.patch == KNOCKOUT
        blocks = sum(self._engine.model.n_layer - layer for layer in self.layers)
        n = float(np.mean([len(tokens) for tokens in self._tokens]))
        rows = np.mean(
            [
                sum(1 if knockout else len(tokens) - at[0] for at in roles.values())
                for tokens, roles in zip(self._tokens, self._roles, strict=True)
            ]
        )
        mine = len(range(self._shard.number - 1, self.expected, self._shard.count))
        few = mine * blocks * float(rows)
        clean = self.expected * n * self._engine.model.n_layer
        return clean + few, few if knockout else 0.0

    def run(self, known: Sequence[MapRow] = ()) -> Iterator[MapRow | None]:
        """A row for each example of this shard, those that are known first; None: one was tried.

        Raises LocalprobeError where the known ones are not the first rows of this run, and (exit
        code 1) where the clean model gets no example right.
        """
        # A context that grows on the way would not be the one of a run that begins later.
        self._open(max(self._tokens, key=len), self._first_row)
        left = deque(known)
        for number, example in enumerate(self._examples):
            if self.used == self._n:
                break
            is_known = bool(left) and left[0].example == example.number
            row, donor = (left.popleft(), None) if is_known else self._clean(number)
            is_ours = self._shard.has(self.used if row.used else self.tried)
            if is_known and not is_ours:
                raise _other_rows(row.example)
            if is_ours and left and not is_known:
                raise _other_rows(left[0].example)
            self.tried += 1
            self.used += row.used
            self.without_donor += row.without_donor
            if not is_ours:
                yield None
            elif is_known or not row.used:
                yield row
            else:
                yield self._mapped(row, self._roles[number], donor)
        if left:
            raise _other_rows(left[0].example)
        if self.used == 0 and self.without_donor:
            raise NothingToProbeError(
                f"none of the {self.without_donor} examples that the clean model answers right has "
                "a donor: another one with as many tokens in its subject, answered right and "
                "otherwise"
            )
        if self.used == 0:
            raise NothingToProbeError(
                f"the clean model answers none of the {self.tried} examples right, so there is "
                "nothing to lose; try another model or template"
            )

    @property
    def _first_row(self) -> int | None:
        return None if self.plan.patch == KNOCKOUT else 0

    def _roles_of(self, example: Example, tokens: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Raises LocalprobeError where its subject cannot be found, or is the last token."""
        places = occurrences(example.subject, example.prompt)
        if not places:
            raise LocalprobeError(f"{example.subject!r} is not in the prompt")
        (subject,) = tokens_at(self._encoder, example.prompt, tokens, places[-1:])
        if subject[-1] == len(tokens) - 1:
            raise LocalprobeError(
                f"{example.subject!r} ends with the last token of the prompt, which is never "
                "touched; let the prompt go on after it"
            )
        return roles_of(len(tokens), subject)

    def _clean(self, place: int) -> tuple[MapRow, Donor | None]:
        """What the clean model says to the example at this place, whether it is used; its donor."""
        example, said = self._examples[place], self._answered(place)
        row = MapRow(
            example=example.number,
            used=said.is_right,
            prompt=example.prompt,
            accepted=example.answers,
            subject=example.subject,
            answer=said.text,
        )
        if not (said.is_right and self.plan.needs_donor):
            return row, None
        found = self._donor(place)
        if found is None:
            return replace(row, used=False, without_donor=True), None
        donor, number, answer_id = found
        row = replace(
            row,
            donor=number,
            donor_prompt=donor.prompt,
            new=donor.subject,
            donor_first=self._engine.model.detokenize([answer_id]),
        )
        return row, Donor(donor.prompt, answer_id)

    def _answered(self, place: int) -> _Answered:
        """The clean answer to an example of the task; asked for once."""
        if place not in self._answers:
            self._answers[place] = self._ask(self._examples[place], self._tokens[place])
        return self._answers[place]

    def _ask(self, example: Example, tokens: Sequence[int]) -> _Answered:
        answer = self._engine.answer(
            tokens,
            max_tokens=self.task.max_tokens,
            stop=lambda text: self.task.is_settled(text, [example]),
        )
        if not answer.is_finite:
            return _Answered(answer.text, -1, False)
        is_right = True
        if self.task.has_right_answers:
            is_right = self.task.score(answer.text, example)[self.task.metrics[0]] > 0
        return _Answered(answer.text, int(answer.logits.argmax()), is_right)

    def _donor(self, place: int) -> tuple[Example, int | None, int] | None:
        """What this example is told from: an example, its number if it is one of the task's, and
        the first token of the answer to it. None where there is none.

        It has the same roles at the same places, so as many tokens in its subject and around it,
        and the clean model answers it right, with another first token. Of a task that names the
        words to swap, that is the prompt with those; of others, the first such example in an order
        drawn by the seed.
        """
        example, own = self._examples[place], self._answered(place).first_id
        if example.partner is not None:
            try:
                text = swapped(example.prompt, example.subject, example.partner.subject)
                partner, tokens = replace(example.partner, prompt=text), self._encoder.tokens(text)
                is_alike = self._roles_of(partner, tokens) == self._roles[place]
            except LocalprobeError:
                return None
            if not is_alike:
                return None
            said = self._ask(partner, tokens)
            return (partner, None, said.first_id) if said.may_be_told_from(own) else None
        others = self._alike[tuple(self._roles[place].items())]
        drawn = np.random.Generator(np.random.PCG64([self.plan.seed, example.number]))
        for number in drawn.permutation(len(others)):
            other = others[int(number)]
            if other != place and (said := self._answered(other)).may_be_told_from(own):
                return self._examples[other], self._examples[other].number, said.first_id
        return None

    def _mapped(self, row: MapRow, roles: Roles, donor: Donor | None) -> MapRow:
        groups = list(roles.items())
        found = make_map(
            self._open,
            self._encoder,
            row.prompt,
            self.plan,
            self.layers,
            groups=groups,
            example=row.example,
            told_from=donor,
        )
        return replace(
            row,
            first=found.answer,
            clean=found.clean,
            there=found.there,
            roles=dict(groups),
            values=_by_role(found, found.values),
            effects=_by_role(found, found.effect()),
        )


@dataclass(frozen=True)
class _Answered:
    """What the clean model said, and how it began. is_right: or may not be wrong."""

    text: str
    first_id: int
    is_right: bool

    def may_be_told_from(self, first_id: int) -> bool:
        return self.is_right and self.first_id != first_id


def _by_role(found: TokenMap, values: Values) -> dict[str, tuple[float | None, ...]]:
    """Role -> by layer; None where logits were not finite."""
    return {
        role: tuple(float(value) if np.isfinite(value) else None for value in column)
        for role, column in zip(found.tokens, values.T, strict=True)
    }


def _other_rows(example: int) -> LocalprobeError:
    return LocalprobeError(
        f"the rows that are there are not of this run: example {example} comes in another place; "
        "choose another --out"
    )
