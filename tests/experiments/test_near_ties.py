"""What near ties of an answer could make of its scores, held to every answer that they allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import EOS

from localprobe.engine.full import Answer, FullEngine, Tie, changing
from localprobe.engine.interventions import by_name
from localprobe.engine.resume import ResumeEngine
from localprobe.experiments.sweep import Sweep
from localprobe.llama.model import Model
from localprobe.runs.rows import CLEAN, Row
from localprobe.tasks.base import Example

NOISE = 0.25
MAX_TOKENS = 3


class Letters:
    """Right is what begins with two characters that are odd, or even, as the example is."""

    name = "letters"
    metrics = ("exact_match", "first")
    max_tokens = MAX_TOKENS
    has_right_answers = True
    max_prompt_tokens = None

    def examples(self) -> Sequence[Example]:
        words = ("AA", "BB", "CC", "DD", "EE", "FF")
        return [Example(n, f"say {word} now:", ("x",), word) for n, word in enumerate(words)]

    def score(self, text: str, example: Example) -> dict[str, float]:
        right = [ord(char) % 2 == example.number % 2 for char in text[:2]]
        return {"exact_match": float(all(right)), "first": float(all(right[:1]))}

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        """Once there are two characters, or the first one is wrong."""
        return len(text) >= 2 or any(not self.score(text, each)["first"] for each in examples)


def answers(model: Model, task: Letters, example: Example, patch: str, layer: int) -> Iterator[str]:
    """All answers of which every token is as likely as the likeliest one, but for the noise."""
    prompt = model.tokenize(example.prompt)
    engine = FullEngine(model)

    def after(written: tuple[int, ...]) -> Iterator[str]:
        text = model.detokenize(written)
        is_over = len(written) >= MAX_TOKENS or task.is_settled(text, [example])
        if written and is_over:
            yield text
            return
        logits = forced(engine, prompt, written, patch, layer, example.number)
        for token in np.flatnonzero(logits.max() - logits <= NOISE):
            if model.ends_generation(int(token)):
                yield text
            else:
                yield from after((*written, int(token)))

    yield from after(())


def forced(
    engine: FullEngine,
    prompt: Sequence[int],
    written: tuple[int, ...],
    patch: str,
    layer: int,
    example: int,
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The logits after an answer that is not the greedy one."""
    kind = None if patch == CLEAN else by_name(patch, 0)
    change = changing(engine.model.n_layer, kind, layer, example)
    logits = engine.model.evaluate(prompt, 0, change(0))
    rewrites = kind is not None and kind.writes_generated
    sequence, start = list(prompt), len(prompt) - rewrites
    for token in written:
        sequence.append(token)
        logits = engine.model.evaluate(sequence[start:], start, change(start))
        start = len(sequence) - 1 - rewrites
    return logits


@pytest.mark.parametrize("kind", [FullEngine, ResumeEngine])
def test_every_answer_that_ties_allow_is_within(
    kind: type[FullEngine], tiny_file: Callable[[str], Path]
) -> None:
    task = Letters()
    with Model(tiny_file("llama"), threads=1) as model:
        engine = kind(model, noise=NOISE)
        sweep = Sweep(engine, task, ["skip", "random"], [0, 1, 2, 3], all_examples=True)
        rows = [row for row in sweep.run() if row]
        changing = several = 0
        for row in rows:
            example = task.examples()[row.example]
            found = {*answers(model, task, example, row.patch, row.layer or 0)}
            assert row.answer in found
            several += len(found) > 1
            assert row.near_tie or found == {row.answer}
            for metric in task.metrics:
                low, high = row.could_score(metric)
                scores = {task.score(text, example)[metric] for text in found}
                assert low <= min(scores)
                assert max(scores) <= high
                if row.near_tie and low < high:
                    changing += 1
        # Or nothing would have been seen: some ties change a score, and some do not.
        assert several > 5
        assert 0 < changing < sum(row.near_tie for row in rows) * len(task.metrics)


def test_a_tie_that_settles_nothing_leaves_any_score(tiny_file: Callable[[str], Path]) -> None:
    class Never(Letters):
        def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
            return False

        def score(self, text: str, example: Example) -> dict[str, float]:
            return {"exact_match": 0.0, "first": 0.0}

    def ranges(max_tokens: int) -> set[tuple[float, float]]:
        engine = FullEngine(model, noise=1e9)
        sweep = Sweep(engine, Never(), ["skip"], [1], all_examples=True, max_tokens=max_tokens)
        rows: list[Row] = [row for row in sweep.run() if row]
        assert all(row.near_tie for row in rows)
        return {row.could_score("first") for row in rows}

    with Model(tiny_file("llama"), threads=1) as model:
        # More tokens are tied than are looked at one by one.
        assert ranges(1) == ranges(2) == {(0, 1)}


def test_which_examples_are_used_by_a_tie(tiny_file: Callable[[str], Path]) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        found = {}
        for all_examples in (False, True):
            engine = FullEngine(model, noise=NOISE)
            sweep = Sweep(engine, Letters(), ["skip"], [1], all_examples=all_examples)
            clean = [row for row in sweep.run() if row and row.patch == CLEAN]
            found[all_examples] = [row.example for row in clean if row.used_by_tie]
            if not all_examples:
                turning = [r.example for r in clean if r.could_score("exact_match") == (0, 1)]
                assert found[False] == turning
                assert sweep.tally.n_used_by_tie == len(turning) > 0
        assert found[True] == []


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        # Example 0 is right where characters are even: a is odd, b and d are even.
        ([Tie(0, (ord("a"),))], {"first": (0, 1)}),
        ([Tie(0, (ord("d"),))], {"first": (0, 1), "exact_match": (0, 1)}),
        ([Tie(1, (ord("c"), ord("e")))], {}),
        ([Tie(1, (ord("c"), ord("d")))], {"exact_match": (0, 1)}),
        ([Tie(0, (ord("a"),)), Tie(1, (ord("d"),))], {"first": (0, 1), "exact_match": (0, 1)}),
        ([Tie(1, (EOS,))], {"exact_match": (0, 1)}),
        ([Tie(1, None)], {"first": (0, 1), "exact_match": (0, 1)}),
    ],
)
def test_each_tie_is_looked_at(
    ties: list[Tie], expected: dict[str, object], tiny_file: Callable[[str], Path]
) -> None:
    """Of the answer "ba", of which the first character is right, and the second one is not."""
    task = Letters()
    with Model(tiny_file("llama"), threads=1) as model:
        sweep = Sweep(FullEngine(model, noise=NOISE), task, ["skip"], [1])
        (example, *_) = task.examples()
        said = Answer((ord("b"), ord("a")), "ba", np.empty(0, np.float32), ties=tuple(ties))
        assert model.detokenize(said.tokens) == said.text
        assert sweep._ties(said, task.score(said.text, example), example) == expected
