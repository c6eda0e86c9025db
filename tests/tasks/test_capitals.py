from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.errors import LocalprobeError
from localprobe.tasks import task_by_name
from localprobe.tasks.base import Example, TaskOptions
from localprobe.tasks.capitals import TEMPLATE, Capitals
from localprobe.tasks.matching import fold


def by_country(template: str | None = None) -> dict[str, Example]:
    return {
        example.subject: example for example in Capitals(TaskOptions(template=template)).examples()
    }


def test_every_country_but_the_one_that_the_prompt_gives_away() -> None:
    assert len(by_country()) == 194
    assert "Spain" not in by_country()
    everything = by_country("The capital of {country} is")
    assert len(everything) == 195
    assert everything["Spain"].answers == ("Madrid",)
    assert len({example.number for example in everything.values()}) == 195


def test_numbers_do_not_depend_on_the_template() -> None:
    everything = by_country("The capital of {country} is")
    assert all(everything[name].number == each.number for name, each in by_country().items())


def test_the_default_prompt_is_the_papers() -> None:
    assert by_country()["France"].prompt == (
        "Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of France?\nA:"
    )
    assert TEMPLATE.count("{country}") == 1


def test_more_solved_ones_stand_in_front_and_are_not_asked() -> None:
    def asked(shots: int | None) -> dict[str, Example]:
        examples = Capitals(TaskOptions(shots=shots)).examples()
        return {example.subject: example for example in examples}

    everything = by_country("{country}")
    assert asked(1) == asked(None) == by_country()
    assert len(asked(0)) == 195
    assert asked(0)["France"].prompt == "Q: What is the capital of France?\nA:"
    for shots in range(9):
        examples = asked(shots)
        *solved, last = examples["France"].prompt.split("\nQ: ")
        assert last == "What is the capital of France?\nA:" or shots == 0
        assert len(solved) == shots
        for each in solved:
            question, answer = each.removeprefix("Q: ").split("\nA: ")
            country = question.removeprefix("What is the capital of ").removesuffix("?")
            assert everything[country].answers[0] == answer
            assert country not in examples
        assert len(examples) == 195 - shots
        assert all(everything[name].number == each.number for name, each in examples.items())


@pytest.mark.parametrize(
    ("country", "said", "right"),
    [
        ("France", " Paris\nQ: What", True),
        ("France", " paris.", True),
        ("France", " Paris is the capital", False),
        ("France", "\n Paris", False),
        ("France", "", False),
        ("France", " Parish", False),
        ("Ukraine", " Kiev", True),
        ("Ukraine", " Kyiv\n", True),
        ("South Africa", " Cape Town", True),
        ("Bolivia", " La Paz", True),
        ("Brazil", " Brasilia", True),
        ("São Tomé and Príncipe", " Sao Tome\n", True),
        ("United States", " Washington DC", True),
        ("United States", " Washington, D.C.\n", True),
        ("Haiti", " Port au Prince", True),
        ("Tonga", " Nukuʻalofa", True),
        ("Tonga", " Nukualofa", True),
        ("Moldova", " Chisinau", True),
    ],
)
def test_what_counts_as_right(country: str, said: str, right: bool) -> None:
    assert Capitals().score(said, by_country()[country])["exact_match"] == right


def test_every_accepted_name_can_be_said() -> None:
    for example in Capitals().examples():
        assert example.answers
        for answer in example.answers:
            assert fold(answer)
            assert Capitals().score(f" {answer}\nQ:", example)["exact_match"] == 1


@given(st.text(max_size=20), st.text(max_size=10))
def test_stopping_early_never_changes_a_score(said: str, rest: str) -> None:
    example = by_country()["Brazil"]
    task = Capitals()
    if task.is_settled(said, [example]):
        assert task.score(said, example) == task.score(said + rest, example)


def test_an_answer_that_one_of_two_examples_waits_for_is_not_settled() -> None:
    both = [by_country()["France"], by_country()["Italy"]]
    assert not Capitals().is_settled(" Ro", both)
    assert not Capitals().is_settled(" Pa", both)
    assert Capitals().is_settled(" Ber", both)


def test_a_country_in_the_template_is_left_out_whatever_its_case() -> None:
    assert "Spain" not in by_country("SPAIN: Madrid, {country}:")


def test_unknown_task_and_bad_template() -> None:
    with pytest.raises(LocalprobeError, match="did you mean capitals"):
        task_by_name("capital")
    for template in ("no place", "{country} and {country}"):
        with pytest.raises(LocalprobeError, match="once"):
            Capitals(TaskOptions(template=template))
