"""Which texts count as the same answer, and when that is known before the text ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.tasks.matching import exact_match, fold, may_begin, may_match, prefix_match

SAME = [
    ("Paris", " PARIS."),
    ("São Tomé", "Sao Tome"),
    ("Nukuʻalofa", "Nukualofa"),
    ("Port-au-Prince", "Port au Prince"),
    ("Washington, D.C.", "washington dc"),
    ("1,234,567", "1234567"),
    ("1 000", "1’000"),
    ("$1,000.50", "$1000.50"),
    ("-5", "−5"),
    ("-5", " –5."),
    ("5", "+5"),
    ("5", "- 5"),
    ("10 %", "10%"),
    ("May 5, 2020", "may 5 2020"),
    ("1914–1918", "1914-1918"),
    ("3 + 5", "3+5"),
    ("７", "7"),
    ("𝐀𝐛", "ab"),
    ("❤️", "❤"),
    ("شُكْرًا", "شكرا"),
    ("COVID-19", "covid 19"),
    ("CO2", "CO₂"),
    ("1, 2, 3", "[1,2,3]"),
    ("5", "$5$"),
    ("x + 1", "$x + 1$."),
    ("12", "= 12"),
    ("Paris", "| Paris |"),
    ("Paris", "> Paris"),
    ("Paris", "Paris ✅"),
    ("Paris", "→ **Paris** →"),
    ("$5 or $6", "$5 or $6."),
    ("1914-1918", "1914 — 1918"),
    ("3:16", "3: 16"),
    ("1", "①"),
    ("A", "-A"),
    ("1 / 2", "1/2"),
    ("- Paris", "Paris"),
    ("5. 3", "5 3"),
    ("10,000 - 5", "10000-5"),
]
OTHER = [
    ("-5", "5"),
    ("-$5", "$5"),
    ("3.5", "35"),
    (".5", "5"),
    ("1/2", "12"),
    ("½", "12"),
    ("10²", "102"),
    ("2^3", "23"),
    ("3 5", "35"),
    ("1, 2", "12"),
    ("3,5", "35"),
    ("1,0000", "10000"),
    ("7:30", "730"),
    ("10%", "10"),
    ("$5", "€5"),
    ("C#", "C"),
    ("C++", "C"),
    ("A-", "A+"),
    ("A-", "A"),
    ("AB-", "AB"),
    ("<", ">"),
    ("1e-5", "1e5"),
    ("5, 100", "5100"),
    ("1, 200, 300", "1200300"),
    ("-½", "½"),
    ("-$.5", "$.5"),
    ("-π", "π"),
    ("-∞", "∞"),
    ("$5 or $6", "5 or 6"),
    ("H2O", "H²O"),
    ("3,5", "3.5"),
    ("A♥", "A♠"),
    ("→", "←"),
    ("a != b", "a = b"),
    ("a ≠ b", "a = b"),
    ("x^2", "x2"),
    ("a/b", "ab"),
    ("कि", "का"),
    ("ที่", "ทำ"),
    ("が", "か"),
    ("ビール", "ビル"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_answer_in_another_spelling(one: str, other: str) -> None:
    assert exact_match(other, [one]) == exact_match(one, [other]) == 1
    assert prefix_match(f"{other}, then", [one]) == 1


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_another_answer(one: str, other: str) -> None:
    assert exact_match(other, [one]) == exact_match(one, [other]) == 0
    assert prefix_match(other, [one]) == 0
    assert exact_match(one, [one]) == exact_match(other, [other]) == 1


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("Paris, France", "Paris", True),
        ("Paris - the city", "Paris", True),
        ("5 apples", "5", True),
        ("5, 6 and 7", "5", True),
        ("$5 (about)", "$5", True),
        ("Parisian", "Paris", False),
        ("10 %", "10", False),
        ("1 000 000", "1", False),
        ("1 000 000", "1000", False),
        ("1 / 2", "1", False),
        ("3 : 1", "3", False),
        ("5 - 3", "5", False),
        ("3.5 apples", "3", False),
    ],
)
def test_an_answer_ends_where_a_word_does_and_not_inside_a_number(
    said: str, answer: str, right: bool
) -> None:
    assert prefix_match(said, [answer]) == right


def test_what_is_said_may_be_long() -> None:
    """It took hours: every beginning of a line was compared in full."""
    assert prefix_match("b " * 200_000, ["b", "x"]) == 1
    assert prefix_match("< " * 200_000, ["<<<x", "b" * 50]) == 0
    assert prefix_match("Paris" + "ian" * 1000, ["Paris"]) == 0
    assert prefix_match("b " * 30_000, ["b" * 3_000]) == 1
    assert prefix_match("a" * 99 + " b" * 1000, ["a" * 99]) == 1


TEXTS = st.one_of(st.text(max_size=12), st.text("019aA.,-−+ /%#²½é'\n\u0301\u3099か", max_size=12))
ANSWERS = st.lists(st.one_of(TEXTS, st.sampled_from([each for pair in SAME for each in pair])))


@given(TEXTS, TEXTS, ANSWERS)
def test_what_is_settled_stays_so(said: str, rest: str, answers: list[str]) -> None:
    if not may_match(said, answers):
        assert exact_match(said, answers) == exact_match(said + rest, answers)
    if not may_begin(said, answers):
        assert prefix_match(said, answers) == prefix_match(said + rest, answers)


@given(st.sampled_from([one for one, _ in SAME + OTHER]), st.integers(0, 12))
def test_the_start_of_an_answer_may_become_it(answer: str, end: int) -> None:
    assert may_match(f" {answer}"[:end], [answer])
    assert may_begin(f" {answer}"[:end], [answer])


@given(TEXTS)
def test_an_exact_match_is_a_prefix_match(text: str) -> None:
    line = text.partition("\n")[0]
    if fold(line):
        assert exact_match(text, [line]) == prefix_match(text, [line]) == 1
