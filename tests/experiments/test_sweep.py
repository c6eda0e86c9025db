from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Random
from localprobe.engine.proof import _turned, check_resume
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError
from localprobe.experiments.sweep import Sweep, _with_next
from localprobe.llama.model import Model
from localprobe.tasks.base import Example

Engines = Callable[[str], FullEngine]


class Echo:
    """A constructed task: what the model says after some prompts is right by definition."""

    name = "echo"
    metrics = ("exact_match",)
    max_tokens = 2
    has_right_answers = True
    max_prompt_tokens = None

    def __init__(self, engine: FullEngine, wrong: Sequence[int] = ()) -> None:
        self._examples = []
        for number in range(6):
            subject = chr(65 + number) * 2
            prompt = f"say {subject} now:"
            said = engine.answer(engine.model.tokenize(prompt), max_tokens=2).text
            answers = ("never",) if number in wrong else (said,)
            self._examples.append(Example(number, prompt, answers, subject))

    def examples(self) -> Sequence[Example]:
        return self._examples

    def score(self, text: str, example: Example) -> dict[str, float]:
        return {"exact_match": float(text in example.answers)}

    def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
        return False


def run(sweep: Sweep) -> Sweep:
    for _ in sweep.run():
        assert 0 <= sweep.done <= 1
    assert sweep.done == 1
    return sweep


def test_only_examples_that_the_clean_model_gets_right(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    sweep = run(Sweep(engine, Echo(engine, wrong=[1, 4]), ["skip"], [0, 3]))
    assert (sweep.tally.clean.score, sweep.tally.clean.n) == (pytest.approx(4 / 6), 6)
    assert (sweep.tally.baseline.score, sweep.tally.baseline.n) == (1, 4)
    cell = sweep.tally.score("skip", "exact_match", 0)
    assert cell is not None
    assert cell.n == 4
    assert sweep.done == 1


def test_all_examples(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    task = Echo(engine, wrong=[1, 4])
    sweep = run(Sweep(engine, task, ["skip"], [3], all_examples=True))
    assert (sweep.tally.baseline.score, sweep.tally.baseline.n) == (pytest.approx(4 / 6), 6)


def test_scores_are_what_the_engine_answers(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    task = Echo(engine)
    sweep = run(Sweep(engine, task, ["random"], [1, 3], seed=9))
    for layer in (1, 3):
        expected = np.mean(
            [
                task.score(
                    engine.answer(
                        engine.model.tokenize(example.prompt),
                        max_tokens=2,
                        intervention=Random(9),
                        layer=layer,
                        example=example.number,
                    ).text,
                    example,
                )["exact_match"]
                for example in task.examples()
            ]
        )
        cell = sweep.tally.score("random", "exact_match", layer)
        assert cell is not None
        assert cell.score == pytest.approx(expected)


def test_a_swap_waits_for_either_answer(tiny_engine: Engines) -> None:
    """Stopping early must look at both examples, or the modified answer is cut short."""
    engine = tiny_engine("llama")
    asked: list[list[int]] = []

    class Spy(Echo):
        def is_settled(self, text: str, examples: Sequence[Example]) -> bool:
            asked.append([example.number for example in examples])
            return False

    run(Sweep(engine, Spy(engine), ["swap", "skip"], [1], n=2))
    assert [0, 1] in asked
    assert [1, 0] in asked
    assert [0] in asked


def test_n_counts_examples_used_and_is_a_prefix(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    used: dict[int, list[int]] = {}
    for n in (2, 4):
        sweep = Sweep(engine, Echo(engine, wrong=[3]), ["skip"], [2], n=n)
        rows = [row for row in sweep.run() if row]
        assert sweep.tally.baseline.n == sweep.used == n
        used[n] = [row.example for row in rows if row.patch == "clean" and row.used]
        assert {row.example for row in rows if row.patch == "skip"} == set(used[n])
    assert used == {2: [0, 1], 4: [0, 1, 2, 4]}


def test_a_swap_with_another_example(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    sweep = run(Sweep(engine, Echo(engine), ["swap"], [0], n=3))
    original = sweep.tally.score("swap", "original", 0)
    modified = sweep.tally.score("swap", "modified", 0)
    assert original is not None
    assert modified is not None
    # At layer 0 a token-for-token swap is the other example's own prompt.
    assert (modified.score, modified.n) == (1, 3)
    assert original.score < 1


def test_one_example_with_a_partner_of_its_own_is_enough(tiny_engine: Engines) -> None:
    class Paired(Echo):
        def examples(self) -> list[Example]:
            first, second, *_ = super().examples()
            return [replace(first, partner=second)]

    engine = tiny_engine("llama")
    found = run(Sweep(engine, Paired(engine), ["swap"], [0], n=1)).tally.score(
        "swap", "modified", 0
    )
    assert found is not None
    assert (found.score, found.n) == (1, 1)
    with pytest.raises(LocalprobeError, match="at least 2 examples"):
        Sweep(engine, Echo(engine), ["swap"], [0], n=1)


def test_freeze_starts_at_layer_1(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    sweep = Sweep(engine, Echo(engine), ["skip", "freeze"], [0, 1])
    assert [column.layers for column in sweep.tally.columns] == [(0, 1), (1,)]
    with pytest.raises(LocalprobeError, match="from layer 1 on"):
        Sweep(engine, Echo(engine), ["freeze"], [0])


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (["frezee"], "did you mean freeze"),
        (["inject"], "--patch swap"),
        (["skip", "skip"], "twice"),
        ([], "no intervention"),
    ],
)
def test_what_is_refused(patches: list[str], message: str, tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    with pytest.raises(LocalprobeError, match=message):
        Sweep(engine, Echo(engine), patches, [1])


def test_nothing_known_is_a_problem_found(tiny_engine: Engines) -> None:
    engine = tiny_engine("llama")
    with pytest.raises(LocalprobeError, match="none of the 6 examples right") as caught:
        run(Sweep(engine, Echo(engine, wrong=range(6)), ["skip"], [1]))
    assert caught.value.exit_code == 1
    with pytest.raises(LocalprobeError, match="two examples") as caught:
        run(Sweep(engine, Echo(engine, wrong=range(5)), ["swap"], [1]))
    assert caught.value.exit_code == 1


def test_what_is_right_by_another_metric_is_named(tiny_engine: Engines) -> None:
    class GoesOn(Echo):
        metrics = ("exact_match", "prefix_match")

        def score(self, text: str, example: Example) -> dict[str, float]:
            return {"exact_match": 0.0, "prefix_match": float(example.number == 3)}

    engine = tiny_engine("llama")
    with pytest.raises(LocalprobeError, match="to lose; some are right by --metric prefix_match;"):
        run(Sweep(engine, GoesOn(engine), ["skip"], [1]))
    with pytest.raises(LocalprobeError, match="to lose; try another model") as caught:
        run(Sweep(engine, Echo(engine, wrong=range(6)), ["skip"], [1]))
    assert "--metric" not in str(caught.value)


def test_with_next() -> None:
    def example(number: int) -> Example:
        return Example(number, "", (), "")

    def numbers(*examples: Example | None) -> list[tuple[int, int] | None]:
        return [pair and (pair[0].number, pair[1].number) for pair in _with_next(examples)]

    assert numbers(*map(example, range(3))) == [(0, 1), (1, 2), (2, 0)]
    assert numbers(example(0), None, example(2), None) == [None, (0, 2), None, (2, 0)]
    assert numbers(example(5)) == [(5, 5)]
    assert numbers() == []


def test_near_ties_are_marked_by_the_noise_of_the_model(tiny_file: Callable[[str], Path]) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        plain = FullEngine(model)
        leads = []
        for noise in (0.0, 0.05, 1e9):
            engine = ResumeEngine(model, 1, noise)
            sweep = Sweep(engine, Echo(plain), ["skip"], [0, 2], all_examples=True)
            rows = [row for row in sweep.run() if row]
            assert sweep.tally.n_near_ties == sum(row.near_tie for row in rows)
            leads.append(sweep.tally.n_near_ties)
        assert leads[0] == 0
        assert 0 < leads[1] < leads[2] == len(rows)


def test_the_noise_is_that_of_the_lead(tiny_file: Callable[[str], Path]) -> None:
    assert _turned(np.array([1.0, 5, 4]), np.array([9.0, 5, 4.5])) == pytest.approx(0.5)
    with Model(tiny_file("llama"), threads=1) as model:
        assert 0 <= check_resume(model) < 1e-3


def test_threads_change_nothing(tiny_file: Callable[[str], Path]) -> None:
    found = []
    for threads in (1, 2):
        with Model(tiny_file("gemma2"), threads=threads) as model:
            engine = ResumeEngine(model, 1)
            sweep = Sweep(engine, Echo(engine), ["random", "freeze"], [1, 3], all_examples=True)
            found.append([row for row in sweep.run() if row])
    assert found[0] == found[1]


def test_whole_passes_mark_the_same_near_ties(tiny_file: Callable[[str], Path]) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        found = []
        for engine in (FullEngine(model, 0.05), ResumeEngine(model, 1, 0.05)):
            sweep = Sweep(engine, Echo(engine), ["skip", "random"], [1, 3], all_examples=True)
            found.append({(r.example, r.patch, r.layer) for r in sweep.run() if r and r.near_tie})
        assert found[0] == found[1]
        assert found[0]
        plain = Sweep(FullEngine(model), Echo(FullEngine(model)), ["skip"], [1])
        assert not plain.tally.knows_near_ties


def test_which_words_were_swapped_by_their_last_token(tiny_engine: Engines) -> None:
    class Uneven(Echo):
        def examples(self) -> list[Example]:
            first, second, *_ = super().examples()
            longer = replace(first, number=1, prompt="say CCC now:", subject="CCC")
            return [replace(first, partner=second), replace(longer, partner=second)]

    engine = tiny_engine("llama")
    sweep = Sweep(engine, Uneven(engine), ["swap", "skip"], [0, 2], all_examples=True)
    rows = [row for row in sweep.run() if row]
    assert {row.example for row in rows if row.last_token_only} == {1}
    assert {row.patch for row in rows if row.last_token_only} == {"swap"}
    assert (sweep.tally.n_last_token_only, sweep.tally.n_swaps) == (2, 4)
