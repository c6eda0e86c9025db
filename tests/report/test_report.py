"""`localprobe report`: one file, whose texts are shown and never run; opened in a browser."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from helpers import made_maps, made_runs
from helpers.browser import CHROMIUM, Browser

from localprobe.cli.app import main
from localprobe.report.examples import Examples
from localprobe.report.page import safe_json
from localprobe.report.run_page import run_page
from localprobe.report.run_sections import transitions_section

EVIL = "</script><script>window.hurt = 1</script><img src=x onerror=window.hurt=2>${hurt()}\u2028`"
EVIL_NAME = "<img src=x onerror=window.hurt=3>${hurt()}"
TASKS = {
    "capitals": ("exact_match",),
    "math": ("exact_match",),
    "squad": ("exact_match", "f1"),
    "cnn_dailymail": ("rouge1", "rougeL"),
}


def a_map() -> dict[str, Any]:
    """As `localprobe map --json` writes it."""
    tokens = ["The", " cap", EVIL, " of"]
    effect = [[0.0, 0.2, 1.0, 0.1], [0.0, 0.1, 0.4, None]]
    return {
        "model": {"name": "made", "architecture": "llama", "file_type": "Q4_1", "n_layer": 2},
        "patch": "knockout",
        "metric": "prob",
        "prompt": "".join(tokens),
        "tokens": [{"text": text, "positions": [at]} for at, text in enumerate(tokens)],
        "layers": [0, 1],
        "clean": {"answer": " Paris", "id": 3, "value": 0.9},
        "values": effect,
        "effect": effect,
        "words": [f"{EVIL} is needed until layer 1"],
    }


@pytest.fixture
def evil_runs(tmp_path: Path) -> list[str]:
    """A run of each task whose model, prompts, answers and folder are a stranger's."""
    folders = []
    for task, metrics in TASKS.items():
        folder = tmp_path / (EVIL_NAME if task == "capitals" and CHROMIUM else "runs") / task
        made_runs.write(
            folder,
            task=task,
            metrics=metrics,
            patches=made_runs.ALL if task == "capitals" else made_runs.ALL[:-1],
            asked=lambda n: f"{EVIL} prompt {n}",
            answer=lambda n: f"{EVIL} answer {n}",
            model=f"made {EVIL}",
        )
        folders.append(str(folder))
    (tmp_path / "map.json").write_text(json.dumps(a_map()), encoding="utf-8")
    return folders


@pytest.fixture
def page(evil_runs: list[str], tmp_path: Path) -> Path:
    output = tmp_path / "report.html"
    code = main(["report", *evil_runs, "--map", str(tmp_path / "map.json"), "-o", str(output)])
    assert code == 0
    return output


class _Parts(HTMLParser):
    """Which elements with which attributes there are, and what stands in them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._tag = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        self._tag = tag

    def handle_data(self, data: str) -> None:
        self.inside[self._tag] = self.inside.get(self._tag, "") + data


def parsed(text: str) -> _Parts:
    parts = _Parts()
    parts.feed(text)
    return parts


def test_what_strangers_wrote_is_text(page: Path) -> None:
    text = page.read_text("utf-8")
    parts = parsed(text)
    scripts = [attributes for tag, attributes in parts.found if tag == "script"]
    assert len(scripts) == 4
    assert scripts[0] == {"type": "application/json", "id": "data"}
    assert not any(tag == "img" for tag, _ in parts.found)
    assert not any(name.startswith("on") for _, each in parts.found for name in each)
    assert "window.hurt" in parts.inside["h2"]
    # Nothing names a place on the network that a browser would go to.
    assert not any({"src", "srcset", "action"} & each.keys() for _, each in parts.found)
    assert all((each.get("href") or "#").startswith("#") for _, each in parts.found)


def test_only_our_scripts_may_run(page: Path) -> None:
    text = page.read_text("utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]


def test_a_page_is_the_same_every_time_and_below_6_mb(page: Path, evil_runs: list[str]) -> None:
    text = page.read_bytes()
    assert len(text) < 6e6
    again = page.with_name("again.html")
    arguments = ["--map", str(page.with_name("map.json")), "-o", str(again)]
    assert main(["report", *evil_runs, *arguments]) == 0
    assert again.read_bytes() == text


def test_tables_are_there_without_scripts(tmp_path: Path) -> None:
    run = made_runs.write(tmp_path / "run")
    text = run_page([run])
    for column in run.tally.columns:
        for layer in column.layers:
            score = run.tally.score(column.patch, column.metric, layer)
            assert score is not None
            name = f"{column.patch} {column.metric}" if column.patch == "swap" else column.patch
            spoken = f'aria-label="{name} at layer {layer}: {score.score:.2f}, 95 % interval'
            assert spoken in text
    assert "ab" * 32 in text and "0.3.36" in text
    assert "from layer" in text


def test_of_large_runs_the_first_examples_are_in_it(tmp_path: Path) -> None:
    """As many as fit, in whole examples, and the page says how many."""
    runs = [
        made_runs.write(tmp_path / "one", n=40, n_layer=4, answer=lambda n: "x" * 500),
        made_runs.write(tmp_path / "two", n=12, n_layer=4),
    ]
    few = Examples(runs, most=5)
    assert few.counts == [(5, 40), (5, 12)]
    assert "first 5 examples of each run (there are up to 40)" in few.note
    for key, cell in few.record["cells"].items():
        assert [row["example"] for row in cell] == [0, 1, 2, 3, 4], key
    all_of_them = Examples(runs, most=100)
    assert all_of_them.counts == [(40, 40), (12, 12)]
    size = len(safe_json(all_of_them.record).encode())
    small = Examples(runs, most=100, most_bytes=size // 2)
    assert 0 < small.counts[0][0] < 40
    assert len(safe_json(small.record).encode()) <= size // 2
    assert f"first {small.counts[0][0]} examples" in small.note
    assert Examples(runs, most=0).record == {"asked": {}, "cells": {}}


def test_texts_that_are_too_long_are_cut(tmp_path: Path) -> None:
    run = made_runs.write(tmp_path / "run", n=1, n_layer=2, asked=lambda _: "a" * 5000 + "end")
    asked = Examples([run], most=1).record["asked"]["0/0"]
    assert len(asked["prompt"]) < 3010
    assert " […] " in asked["prompt"] and asked["prompt"].endswith("end")


def test_json_in_a_page_reads_as_the_same() -> None:
    document = {"a": [EVIL, "<!--", "]]>", "\u2029"]}
    text = safe_json(document)
    assert json.loads(text) == document
    assert not set("<>&\u2028\u2029") & set(text)


def test_vendored_files_are_what_the_notice_says() -> None:
    web = files("localprobe.report") / "web"
    notice = (web / "NOTICE.txt").read_text("utf-8")
    named = re.findall(r"^(\S+\.js): .*unchanged\.\nSHA-256: (\w+)$", notice, re.MULTILINE)
    assert [name for name, _ in named] == ["d3.min.js", "plot.umd.min.js"]
    for name, digest in named:
        text = (web / name).read_text("utf-8")
        assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_runs_of_a_task_are_compared(tmp_path: Path) -> None:
    one = made_runs.write(tmp_path / "one", patches=["freeze"], model="a")
    two = made_runs.write(tmp_path / "two", patches=["freeze"], model="b", n_layer=8)
    text = run_page([one, two])
    assert "Compared: capitals · freeze · exact_match" in text
    assert "compared by depth" in text
    assert "Compared" not in run_page([one])


def test_maps_over_a_task_are_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made_maps.write(tmp_path / "one", lambda e, k, role: 0.1 * k)
    made_maps.write(tmp_path / "other", lambda e, k, role: 0.3 + 0.1 * k, model="another")
    made_runs.write(tmp_path / "sweep", n=4, n_layer=4)
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "-o", str(output)]) == 0
    text = output.read_text("utf-8")
    assert text.count("Map: knockout, prob of capitals, mean over examples") >= 2
    assert "Maps side by side: capitals, knockout, prob" in text
    assert "more of the answer is lost in [2] at layers 0–3: +30 points [+30, +30]" in text
    assert f"{one.values.mean[3, 0]:.2f}" in text
    assert main(["report", str(tmp_path), "-o", str(output), "--metric", "exact_match"]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].endswith("one holds maps")


def test_transitions_have_their_intervals(tmp_path: Path) -> None:
    """Those of the tally, in the figure in percent of depth, and in the table in words."""
    run = made_runs.write(tmp_path / "run", n=40, n_layer=8)
    section = transitions_section([run])
    (figure,), (table,) = section.figures, section.tables
    for record, row, patch in zip(figure.data["rows"], table.rows, made_runs.ALL, strict=True):
        limits = run.tally.limits(patch)
        if patch == "swap":
            assert limits is None and (record["from"], record["to"]) == (None, None)
            assert row[2] == "not known"
            continue
        assert limits is not None and limits.low is not None
        assert record["from"] == 100 * limits.low / 8
        assert record["to"] == (None if limits.high is None else 100 * limits.high / 8)
        assert record["from"] <= record["x"]
        assert str(row[2]).startswith(str(limits.low))
    few = transitions_section([made_runs.write(tmp_path / "few", n=12, n_layer=8)])
    assert all(row["to"] is None for row in few.figures[0].data["rows"])
    assert any("a later layer or nowhere" in str(row[2]) for row in few.tables[0].rows)


@pytest.mark.parametrize(
    "changed",
    [
        "[]",
        "{",
        '{"maps": 3}',
        json.dumps({**a_map(), "values": [[1, 2]]}),
        json.dumps({**a_map(), "effect": [["x"] * 4] * 2}),
        json.dumps({**a_map(), "model": {"name": "a"}}),
        json.dumps({**a_map(), "clean": None}),
    ],
)
def test_what_is_no_map_is_said_in_a_sentence(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_runs.write(tmp_path / "run", n=1, n_layer=2)
    file = tmp_path / "map.json"
    file.write_text(changed, encoding="utf-8")
    output = tmp_path / "report.html"
    assert main(["report", str(run.path), "--map", str(file), "-o", str(output)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "map.json" in said
    assert not output.exists()


def test_bad_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(made_runs.write(tmp_path / "run", n=1, n_layer=2).path)
    assert main(["report", run, "-o", str(tmp_path / "report.pdf")]) == 2
    assert "must be an .html file" in capsys.readouterr().err
    assert main(["report", run, "-o", str(tmp_path / "no" / "report.html")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@needs_chromium
def test_in_a_browser_it_draws_opens_examples_and_asks_nobody(page: Path, browser: Browser) -> None:
    browser.requests.clear()
    browser.said.clear()
    browser.size(1280)
    browser.open(page)
    n_figures = 4 + 1 + 1 + 1  # the curves of each task, the swap, transitions, the map
    assert browser.run("document.querySelectorAll('figure svg[role=img]').length") == n_figures
    assert browser.run("document.querySelectorAll('figure svg[role=img] path').length") > 50

    def seen(what: str) -> Any:
        return browser.run(f"document.querySelector('dialog').{what}")

    assert seen("open") is False
    browser.click("document.querySelector('button[data-key=\"0/freeze/1\"]')")
    assert seen("open") is True
    assert seen("querySelector('h2').textContent") == "freeze at layer 1"
    assert seen("querySelectorAll('article').length") == 6
    shown = seen("innerText")
    escaped = EVIL.replace("\u2028", "\\u2028")
    assert f"not {escaped} answer 0, freeze" in " ".join(shown.split())
    assert "t0" in shown and "clean model" in shown
    assert seen("querySelector('pre').textContent") == f"{escaped} prompt 0"
    # The wrong ones alone.
    browser.run(
        "(() => {const s = document.querySelector('select'); s.value = 'wrong';"
        "s.dispatchEvent(new Event('change'))})()"
    )
    wrong = browser.run(
        "JSON.parse(document.getElementById('data').textContent)"
        ".examples.cells['0/freeze/1'].filter(row => !row.right).length"
    )
    assert 0 < wrong == seen("querySelectorAll('article').length")
    browser.key("Escape", 27)
    assert seen("open") is False
    # With the keys alone.
    browser.run("document.querySelector('button[data-key=\"0/skip/2\"]').focus()")
    browser.key("Enter", 13, "\r")
    assert seen("open") is True
    browser.key("Escape", 27)

    assert browser.run("window.hurt") is None
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    assert browser.said == []


@needs_chromium
def test_a_click_into_a_figure_opens_examples(page: Path, browser: Browser) -> None:
    browser.size(1280)
    browser.open(page)
    browser.click("document.querySelectorAll('figure svg[role=img] [aria-label=dot] path')[0]")
    assert browser.run("document.querySelector('dialog').open") is True
    title = browser.run("document.querySelector('dialog h2').textContent")
    assert re.fullmatch(r"(random|shuffle|skip), layer 0", title)


@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_the_window(page: Path, browser: Browser, width: int) -> None:
    browser.size(width)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= width


@needs_chromium
def test_without_scripts_it_is_read(page: Path, browser: Browser) -> None:
    browser.size(1280)
    browser.open(page, scripts=False)
    assert browser.run("document.querySelectorAll('table').length") >= 9
    assert browser.run("document.querySelector('figure').hidden") is True
    assert "figures and examples are left out" in browser.run("document.body.innerText")


@needs_chromium
def test_the_policy_holds_back_what_would_get_in(tmp_path: Path, browser: Browser) -> None:
    """Even if a text were put in as HTML: the browser would not run it."""
    run = made_runs.write(tmp_path / "run", n=1, n_layer=2)
    page = tmp_path / "broken.html"
    hurting = "<script>window.hurt = 1</script><img src='x.png' onerror='window.hurt = 2'>"
    page.write_text(run_page([run]).replace("<main>", f"<main>{hurting}"), encoding="utf-8")
    browser.said.clear()
    browser.open(page)
    assert browser.run("window.hurt") is None
    assert sum("Content Security Policy" in line for line in browser.said) >= 2
