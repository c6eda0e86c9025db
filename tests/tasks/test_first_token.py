"""Scored by the first token: what a right answer begins with."""

from __future__ import annotations

import pytest

from localprobe.errors import LocalprobeError
from localprobe.experiments.experiment import Experiment
from localprobe.tasks import task_by_name
from localprobe.tasks.base import Example, TaskOptions
from localprobe.tasks.first_token import FirstToken


@pytest.mark.parametrize(
    ("text", "right"),
    [
        *((" Paris", True), ("Par", True), (" p", True), ("\u2581Paris", True)),
        *((" Rome", False), ("", False), (" ", False), ("\n", False), (" **", False)),
        *((" Parisian", False), ("\nParis", True), ("Pa\nris", False), (" Lu", True)),
    ],
)
def test_a_token_is_right_that_an_answer_begins_with(text: str, right: bool) -> None:
    task = FirstToken(task_by_name("capitals", TaskOptions()))
    assert task.score(text, Example(0, "", ("Paris", "Lutetia"))) == {"first_token": float(right)}
    assert task.is_settled(text, [])
    assert task.max_tokens == 1


@pytest.mark.parametrize("name", ["math", "squad", "cnn_dailymail"])
def test_where_answers_are_not_a_few_words(name: str) -> None:
    with pytest.raises(LocalprobeError, match=f"not for {name}"):
        Experiment(name, ("skip",), metric="first_token").build_task()
