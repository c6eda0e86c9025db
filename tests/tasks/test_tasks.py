"""math, squad, cnn_dailymail and jsonl: data, prompts, scores, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localprobe.errors import LocalprobeError
from localprobe.tasks import NAMES, task_by_name
from localprobe.tasks.arithmetic import Arithmetic
from localprobe.tasks.base import Example, Task, TaskOptions, Template, chance, cut
from localprobe.tasks.cnn_dailymail import CnnDailymail
from localprobe.tasks.jsonl import Jsonl
from localprobe.tasks.squad import Squad, f1, normalised

EMBEDDED = [name for name in NAMES if name != "jsonl"]


@pytest.mark.parametrize("name", EMBEDDED)
def test_examples_are_numbered_and_their_own_answers_are_right(name: str) -> None:
    task = task_by_name(name)
    examples = task.examples()
    numbers = [example.number for example in examples]
    assert numbers == sorted(set(numbers))
    for example in examples[:40]:
        for answer in example.answers:
            assert task.score(f" {answer}", example)[task.metrics[0]] == 1
            scores = task.score(f" {answer}\n\nand more", example)
            assert scores[task.metrics[0]] == 1
        assert task.score("", example) == dict.fromkeys(task.metrics, 0.0)


@pytest.mark.parametrize("name", EMBEDDED)
@given(data=st.data())
def test_what_is_settled_stays(name: str, data: st.DataObject) -> None:
    """Once a task says that generating on is of no use, no continuation changes a score."""
    task = task_by_name(name)
    examples = task.examples()
    some = [data.draw(st.sampled_from(list(examples[:30]))) for _ in range(2)]
    answer = data.draw(st.sampled_from(some)).answers[0]
    said = st.one_of(st.text(max_size=8), st.just(answer), st.sampled_from([" ", "\n", "\n\n"]))
    text = "".join(data.draw(st.lists(said, max_size=4)))
    if task.is_settled(text, some):
        more = data.draw(st.text(max_size=12))
        for example in some:
            assert task.score(text + more, example) == task.score(text, example)


def test_chance_is_the_answer_of_another_example() -> None:
    # Two countries share a name of a capital.
    assert 0 < chance(task_by_name("capitals"))["exact_match"] < 1e-4
    results = Counter(example.answers[0] for example in Arithmetic().examples())
    total = sum(results.values())
    expected = sum(n * (n - 1) for n in results.values()) / (total * (total - 1))
    assert chance(Arithmetic())["exact_match"] == pytest.approx(expected)
    task = CnnDailymail()
    examples = task.examples()
    by_hand = [
        task.score(other.answers[0], example)["rouge2"]
        for example in examples
        for other in examples
        if other is not example
    ]
    assert chance(task)["rouge2"] == pytest.approx(sum(by_hand) / len(by_hand))


def test_chance_of_one_example_is_not_known(tmp_path: Path) -> None:
    assert chance(jsonl(tmp_path, {"prompt": "p", "answers": ["a"]})) == {}
    two = jsonl(tmp_path, *({"prompt": "p", "answers": [answer]} for answer in "ab"))
    assert chance(two) == {"exact_match": 0, "prefix_match": 0}


# math


def test_math_is_right_and_drawn_from_the_seed() -> None:
    problems = [example.prompt.splitlines()[-1] for example in Arithmetic().examples()]
    assert len(set(problems)) == len(problems) == 155 - 4
    for example in Arithmetic().examples():
        *shots, problem = example.prompt.splitlines()
        assert len(shots) == 4
        for solved in shots:
            left, result = solved.split(" = ")
            assert eval(left) == int(result)
            assert left not in problem
        assert str(eval(problem.removesuffix(" ="))) == example.answers[0]
        assert re.fullmatch(r"\d [+-] \d =", problem)
        assert int(example.answers[0]) >= 0
    assert Arithmetic().examples() == Arithmetic(TaskOptions(seed=0)).examples()
    assert Arithmetic().examples() != Arithmetic(TaskOptions(seed=1)).examples()


def test_math_with_more_solved_ones_has_the_same_problems_under_the_same_numbers() -> None:
    own = {each.number: each for each in Arithmetic().examples()}
    for shots in (0, 2, 4, 6, 16):
        examples = Arithmetic(TaskOptions(shots=shots)).examples()
        assert len(examples) == 155 - max(4, shots)
        for example in examples:
            *solved, problem = example.prompt.splitlines()
            assert len(solved) == shots
            assert not any(each.startswith(problem) for each in solved)
            assert problem == own[example.number].prompt.splitlines()[-1]
            assert example.answers == own[example.number].answers


@pytest.mark.parametrize("digits", [2, 3, 9])
def test_math_of_more_digits(digits: int) -> None:
    task = Arithmetic(TaskOptions(digits=digits))
    examples = task.examples()
    # Room for a token a digit, a space before, and what ends the number.
    assert max(len(each.answers[0]) for each in examples) + 2 <= task.max_tokens
    assert len(examples) == 1000
    for example in examples[:50]:
        problem = example.prompt.splitlines()[-1]
        assert re.fullmatch(rf"\d{{{digits}}} [+-] \d{{{digits}}} =", problem)
        assert str(eval(problem.removesuffix(" ="))) == example.answers[0]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (" 8", 1),
        (" 8.", 1),
        ("8\n9", 1),
        (" 08", 1),
        (" 80", 0),
        ("-8", 0),
        (" eight", 0),
        ("", 0),
        ("8.5", 0),
        ("8,000", 0),
        ("8/3", 0),
        ("8, 9", 1),
    ],
)
def test_math_scores_the_first_number(said: str, right: float) -> None:
    assert Arithmetic().score(said, Example(0, "", ("8",)))["exact_match"] == right


# squad


@pytest.mark.parametrize(
    ("said", "answer", "score"),
    [
        # By hand, with the rules of evaluate-v1.1.py.
        ("the Black Sea", "Black Sea", 1.0),
        ("Black sea.", "the Black Sea", 1.0),
        ("It is the Black Sea", "Black Sea", 2 * (2 / 4) * 1 / (2 / 4 + 1)),
        ("sea sea", "sea", 2 * 0.5 * 1 / 1.5),
        ("lake", "sea", 0.0),
        ("", "sea", 0.0),
    ],
)
def test_f1(said: str, answer: str, score: float) -> None:
    assert f1(said, answer) == pytest.approx(score)


def test_normalisation() -> None:
    assert normalised("  The  U.S.A.: an  Apple a day! ") == "usa apple day"
    assert normalised("thea") == "thea"


def test_the_best_of_the_accepted_answers_counts() -> None:
    example = Example(0, "", ("Danube river", "the Danube"))
    assert Squad().score(" Danube\nQuestion", example) == {"exact_match": 1.0, "f1": 1.0}


def test_our_own_passages() -> None:
    file = Path(str(Squad.__init__.__globals__["__file__"])).with_name("squad.json")
    data = json.loads(file.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in data for paragraph in article["paragraphs"]]
    questions = [question for paragraph in paragraphs for question in paragraph["qas"]]
    assert len(paragraphs) >= 15
    assert len(questions) == len({question["id"] for question in questions}) >= 40
    for paragraph in paragraphs:
        for answer in (a for question in paragraph["qas"] for a in question["answers"]):
            start = answer["answer_start"]
            assert paragraph["context"][start:].startswith(answer["text"])


OFFICIAL = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "Ulm is {not} a place.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What is it?",
                            "answers": [{"text": "Ulm", "answer_start": 0}],
                        }
                    ],
                }
            ],
        }
    ],
}


def test_an_official_file(tmp_path: Path) -> None:
    file = tmp_path / "dev.json"
    file.write_text("\ufeff" + json.dumps(OFFICIAL), encoding="utf-8")
    template = "{passage} / {question}"
    (example,) = Squad(TaskOptions(data=file, template=template)).examples()
    assert example.prompt == "Ulm is {not} a place. / What is it?"
    assert example.answers == ("Ulm",)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"date": []}, "the file lacks the key 'data'"),
        ([], "the file lacks the key 'data'"),
        ({"data": {}}, "data of the file is not a list"),
        ({"data": [{}]}, r"data\[0\] lacks the key 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"paragraphs\[0\] lacks the key 'context'"),
        (
            {"data": [{"paragraphs": [{"context": "c", "qas": [{"answers": []}]}]}]},
            r"qas\[0\] has no answers",
        ),
    ],
)
def test_another_json_is_refused_with_the_key(broken: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(LocalprobeError, match=rf"not SQuAD v1.1.*{message}"):
        Squad(TaskOptions(data=file)).examples()


# cnn_dailymail

RECORD = {"article": 'One, "two",\nthree.', "highlights": "First.\nSecond."}


def written(tmp_path: Path, kind: str) -> Path:
    file = tmp_path / f"news.{kind}"
    if kind == "jsonl":
        file.write_bytes(json.dumps(RECORD).encode() + b"\r\n\r\n")
    elif kind == "csv":
        quoted = {key: value.replace('"', '""') for key, value in RECORD.items()}
        text = f'id,article,highlights\n1,"{quoted["article"]}","{quoted["highlights"]}"\n'
        file.write_text(text, encoding="utf-8", newline="")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist([RECORD]), file)
    return file


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_articles_from_a_file(kind: str, tmp_path: Path) -> None:
    task = CnnDailymail(TaskOptions(data=written(tmp_path, kind), template="<{article}>"))
    (example,) = task.examples()
    assert example.prompt == f"<{RECORD['article']}>"
    assert example.answers == (RECORD["highlights"],)
    assert example.body == (1, 1 + len(RECORD["article"]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "not one of .jsonl"),
        ("a.jsonl", "", "holds no examples"),
        ("a.jsonl", '{"article": "x"}', "line 1: 'highlights' is missing"),
        ("a.jsonl", '{"article": "x", "highlights": "y"}\n{', "line 2: not valid JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        (
            "a.jsonl",
            f'{{{"".join(f"{chr(34)}k{i}{chr(34)}:1," for i in range(50_000))}"k7":2}}',
            "the key 'k7' is there twice",
        ),
        ("a.jsonl", "3", "line 1: not a JSON object"),
        ("a.csv", "article,high\n1,2", "line 2: 'highlights' is missing"),
        ("a.parquet", "no", "parquet"),
    ],
)
def test_bad_articles_are_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LocalprobeError, match=message):
        CnnDailymail(TaskOptions(data=file)).examples()


def test_rouge_by_hand() -> None:
    task: Task = CnnDailymail()
    scores = task.score(" the cat sat\n\nmore", Example(0, "", ("the cat lay down",)))
    # 2 of 3 words against 2 of 4; 1 of 2 pairs against 1 of 3.
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx(2 * 2 / (3 + 4))
    assert scores["rouge2"] == pytest.approx(2 * 1 / (2 + 3))


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=30), st.integers(5, 60))
def test_cutting(words: list[str], most: int) -> None:
    """The longest beginning of whole words that fits; a token is a character here."""
    body = " ".join(words)
    example = Example(0, f"<<{body}>>", ("x",), body=(2, 2 + len(body)))
    if len(words[0]) + 4 > most:
        with pytest.raises(LocalprobeError, match="no room"):
            cut(example, len, most)
        return
    shorter = cut(example, len, most)
    assert len(shorter.prompt) <= most
    assert (shorter is example) == (len(example.prompt) <= most)
    kept = shorter.prompt[2:-2]
    assert (body + " ").startswith(kept + " ")
    rest = body[len(kept) :].split()
    assert not rest or len(shorter.prompt) + 1 + len(rest[0]) > most


# jsonl


def jsonl(tmp_path: Path, *records: object) -> Jsonl:
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return Jsonl(TaskOptions(data=file))


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    swap = {"old": "France", "new": "Italy", "new_answers": ["Rome"]}
    task = jsonl(
        tmp_path,
        {"prompt": "France:", "answers": ["Paris", "Paname"], **swap},
        {"prompt": "q", "answers": ["a"]},
    )
    one, other = task.examples()
    assert (one.subject, other.subject, other.partner) == ("France", "", None)
    assert one.partner is not None
    assert (one.partner.subject, one.partner.answers) == ("Italy", ("Rome",))
    assert task.score(" paname\n", one) == {"exact_match": 1, "prefix_match": 1}
    assert task.score(" Paris, France", one) == {"exact_match": 0, "prefix_match": 1}
    assert task.score(" Parisian", one) == {"exact_match": 0, "prefix_match": 0}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "p"}, "line 1: 'answers' is missing"),
        ({"prompt": "p", "answers": []}, "'answers'"),
        ({"prompt": "p", "answers": ["!"]}, "'answers'"),
        ({"prompt": 3, "answers": ["a"]}, "'prompt'"),
        ({"prompt": "p", "answers": ["a"], "answer": "b"}, "did you mean answers"),
        ({"prompt": "p", "answers": ["a"], "old": "p"}, "'new'"),
    ],
)
def test_bad_lines_are_refused(record: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(LocalprobeError, match=message):
        jsonl(tmp_path, record).examples()


def test_the_first_bad_lines_are_told_at_once(tmp_path: Path) -> None:
    good, path = '{"prompt": "p", "answers": ["a"]}', tmp_path / "own.jsonl"
    path.write_text("\n".join(["{", good, '{"prompt": "p"}', "", "[]"]), "utf-8")
    task = task_by_name("jsonl", TaskOptions(data=path))
    with pytest.raises(LocalprobeError) as caught:
        task.examples()
    first, second, third = str(caught.value).split("; ")
    assert first.startswith(f"{path}, line 1: not valid JSON")
    assert second == "line 3: 'answers' is missing or not a list of texts"
    assert third == "line 5: not a JSON object"
    # Also where none is good.
    path.write_text("3\n" * 12, "utf-8")
    with pytest.raises(LocalprobeError, match=r"line 1: .*; line 5: [^;]*; and 7 more$"):
        task.examples()
    table = path.with_suffix(".csv")
    table.write_text("prompt,answers\na\nb,c\n", "utf-8")
    with pytest.raises(LocalprobeError, match=r"line 2: not as many .*; line 3: 'answers'"):
        task_by_name("jsonl", TaskOptions(data=table)).examples()


# Options and templates


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("capitals", TaskOptions(digits=2), "--digits is not for"),
        ("math", TaskOptions(data=Path("x.json")), "--data is not for"),
        ("jsonl", TaskOptions(), "needs --data"),
        ("squad", TaskOptions(data=Path("nowhere.json")), "cannot read nowhere.json"),
        ("math", TaskOptions(digits=10), "--digits must be"),
        ("math", TaskOptions(template="{problm} ="), "unknown {problm}; known: {problem}"),
        ("maths", TaskOptions(), "did you mean math"),
        ("capitals", TaskOptions(shots=9), "--shots must be 0 to 8, not 9"),
        ("math", TaskOptions(shots=-1), "--shots must be 0 to 16, not -1"),
        ("squad", TaskOptions(shots=1), "--shots is not for the task squad"),
        ("capitals", TaskOptions(shots=1, template="{country}"), "write the solved ones out"),
    ],
)
def test_options_that_are_refused(name: str, options: TaskOptions, message: str) -> None:
    with pytest.raises(LocalprobeError, match=re.escape(message)):
        task_by_name(name, options).examples()


def test_values_are_not_looked_into() -> None:
    template = Template("{a}-{b}", "a", "b")
    assert template.fill(a="{b}", b="{a}") == "{b}-{a}"
    assert template.span("b", a="{b}", b="xy") == (4, 6)
