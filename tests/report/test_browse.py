"""`localprobe browse`, with keys pressed in a terminal of 80 x 24 that is not there."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import made_maps, made_runs

textual = pytest.importorskip("textual", reason="needs the extra browse")

from localprobe.cli import reading  # noqa: E402
from localprobe.cli.app import main  # noqa: E402
from localprobe.cli.reading import runs_below  # noqa: E402
from localprobe.errors import LocalprobeError  # noqa: E402
from localprobe.report import browse  # noqa: E402
from localprobe.report.browse import Browser, Opened  # noqa: E402
from localprobe.report.browse_tables import scores_grid  # noqa: E402
from localprobe.report.map_records import read_maps  # noqa: E402
from localprobe.runs.results import Run, read_run  # noqa: E402

MARKUP = "[red]not[/] [@click=app.quit]x[/]"


def opened(*runs: Run) -> list[Opened]:
    return [Opened(str(run.path), lambda run=run: run) for run in runs]  # type: ignore[misc]


def walk(there: list[Opened], steps: Callable[[Any], Awaitable[None]]) -> None:
    async def go() -> None:
        app = Browser(there)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(go())


def said(pilot: Any, place: str) -> str:
    return str(pilot.app.screen.query_one(place).content)


def column(pilot: Any, number: int) -> list[str]:
    table = pilot.app.screen.table
    return [table.get_row_at(row)[number].plain for row in range(table.row_count)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return made_runs.write(
        tmp_path / "run", n=6, n_layer=6, answer=lambda n: f" {MARKUP} town {n}\x1b[31m"
    )


def test_from_the_table_to_the_answers_and_back(run: Run) -> None:
    async def steps(pilot: Any) -> None:
        assert pilot.app.screen.__class__.__name__ == "ScoresScreen"
        assert "capitals · made" in said(pilot, "#title")
        # Down past the clean row to layer 2, right to freeze: random, shuffle, freeze.
        await pilot.press("down", "j", "down", "right", "l", "right")
        score = run.tally.score("freeze", "exact_match", 2)
        assert score is not None
        assert f"freeze at layer 2: {score.score:.2f}, 95 %" in said(pilot, "#below")
        await pilot.press("enter")
        assert "freeze at layer 2" in said(pilot, "#title")
        assert column(pilot, 0) == ["0", "1", "2", "3", "4", "5"]
        assert "not  [red]" in said(pilot, "#below")  # as text, and no markup
        await pilot.press("down", "down", "enter")
        assert "example 2" in said(pilot, "#title")
        assert column(pilot, 0) == ["clean", "0", "1", "2", "3", "4", "5"]
        await pilot.press("down", "right", "right")
        assert "`t0`" in said(pilot, "#below").replace(" ", "")
        assert "\\x1b[31m" in said(pilot, "#below") and "\x1b" not in said(pilot, "#below")
        await pilot.press("escape", "escape")
        assert pilot.app.screen.__class__.__name__ == "ScoresScreen"
        await pilot.press("escape")

    walk(opened(run), steps)


def test_numbers_are_those_of_the_run(run: Run) -> None:
    """Of every cell, the score, what is said about it, and where it leads."""
    cells = scores_grid([run])
    headers = list(cells.grid.headers)
    for place, column in enumerate(run.tally.columns, 1):
        assert headers[place].split()[0] == column.patch
        for row, layer in enumerate(run.layers, 1):
            score = run.tally.score(column.patch, column.metric, layer)
            shown = cells.grid.rows[row][place].plain
            assert shown.startswith("–" if score is None else f"{score.score:.2f}")
            assert cells.cell(row, place) == (run, column.patch, layer)


def test_search_and_export(run: Run, tmp_path: Path) -> None:
    async def steps(pilot: Any) -> None:
        await pilot.press("enter")
        assert "clean model" in said(pilot, "#title")
        await pilot.press("slash", *"LAND 3", "enter")
        assert column(pilot, 0) == ["3"]
        assert "1 with 'LAND 3'" in said(pilot, "#title")
        await pilot.press("e")
        await pilot.press("escape")
        assert len(column(pilot, 0)) == 6
        await pilot.press("e")

    walk(opened(run), steps)
    (header, row) = csv.reader((tmp_path / "browse-1.csv").read_text("utf-8").splitlines())
    assert header == ["example", "asked", "right", "said", "exact_match"]
    assert row[0] == "3" and f"{MARKUP} town 3\\x1b[31m" in row[3]
    assert len((tmp_path / "browse-2.csv").read_text("utf-8").splitlines()) == 7


def test_search_from_the_table_and_wrong_ones_alone(run: Run) -> None:
    async def steps(pilot: Any) -> None:
        await pilot.press("slash")
        await pilot.pause()
        await pilot.press(*"town 4", "enter")
        assert column(pilot, 0) == ["4"]
        await pilot.press("escape", "escape")
        await pilot.press("down", "right", "enter")
        n_wrong = sum(
            row.patch == "random" and row.layer == 0 and row.scores["exact_match"] == 0
            for row in run.rows
        )
        await pilot.press("w")
        assert len(column(pilot, 0)) == n_wrong > 0

    walk(opened(run), steps)


def test_several_runs_side_by_side(run: Run, tmp_path: Path) -> None:
    other = made_runs.write(tmp_path / "other", n=3, n_layer=8, patches=["freeze"])

    async def steps(pilot: Any) -> None:
        assert column(pilot, 1) == [str(run.path), str(other.path)]
        await pilot.press("space", "down", "space", "enter")
        headers = [str(each.label) for each in pilot.app.screen.table.columns.values()]
        assert headers[1] == "[1] random" and headers[-1] == "[2] freeze"
        assert column(pilot, 0) == ["clean", *"01234567"]
        # Layer 7, which the first run does not have.
        await pilot.press(*["down"] * 8, "right")
        assert "random at layer 7: no score" in said(pilot, "#below")
        await pilot.press("enter")
        assert pilot.app.screen.__class__.__name__ == "ScoresScreen"
        await pilot.press(*["right"] * 6, "enter")
        assert "freeze at layer 7" in said(pilot, "#title")
        assert len(column(pilot, 0)) == 3

    walk(opened(run, other), steps)


def test_a_map(tmp_path: Path, tiny_file: Callable[[str], Path], capsys: Any) -> None:
    assert main(["map", "in Chad, now", "-m", str(tiny_file("llama")), "--json"]) == 0
    file = tmp_path / "map.json"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    document = json.loads(file.read_text("utf-8"))
    (found,) = read_maps(file)

    async def steps(pilot: Any) -> None:
        await pilot.press("down", "right", "right", "right")
        value = document["values"][1][2]
        assert said(pilot, "#below").startswith("`Chad (")
        assert f"at layer 1: prob {value:.3f}, effect" in said(pilot, "#below")

    walk([Opened("map.json", found=lambda: found)], steps)


def test_a_run_that_is_damaged_is_said_so(run: Run, tmp_path: Path) -> None:
    other = made_runs.write(tmp_path / "other", n=3, n_layer=3)
    (tmp_path / "other" / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    there = [*opened(run), Opened("other", lambda: read_run(tmp_path / "other"))]
    assert other.path

    async def steps(pilot: Any) -> None:
        await pilot.press("down", "enter")
        await pilot.pause()
        assert pilot.app.screen.__class__.__name__ == "RunsScreen"
        (notice,) = pilot.app._notifications
        assert "line 1: damaged" in notice.message

    walk(there, steps)


def test_only_so_many_rows_are_shown_and_all_are_searched(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "MOST_ROWS", 2)

    async def steps(pilot: Any) -> None:
        await pilot.press("enter")
        assert column(pilot, 0) == ["0", "1"]
        assert "the first 2 of 6 shown" in said(pilot, "#title")
        await pilot.press("slash", *"land 5", "enter")
        assert column(pilot, 0) == ["5"]

    walk(opened(run), steps)


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    for name in ("a/one", "two"):
        made_runs.write(tmp_path / name, n=1, n_layer=2)
    assert runs_below(tmp_path) == [tmp_path / "a" / "one", tmp_path / "two"]
    assert runs_below(tmp_path / "two") == [tmp_path / "two"]
    with pytest.raises(LocalprobeError, match="there is no run in"):
        runs_below(tmp_path / "two" / "no")


def test_it_needs_a_terminal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["browse", str(run.path)]) == 2
    assert "browse needs a terminal" in capsys.readouterr().err


def test_maps_over_a_task(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_maps.write(tmp_path / "maps", lambda e, k, role: k / 4, n=7)
    opened = list[Any]()
    for stream in (sys.stdout, sys.stdin):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(Browser, "run", lambda browser: opened.extend(browser._there))
    reading.browse([tmp_path / "maps"])

    async def steps(pilot: Any) -> None:
        assert "knockout, prob of capitals, mean over examples" in said(pilot, "#title")
        assert column(pilot, 0) == ["0", "1", "2", "3"]
        await pilot.press("down", "down", "right")
        assert f"`{found.roles[0]} (7)` at layer 2: prob 0.400" in said(pilot, "#below")

    walk(opened, steps)
    opened.clear()
    reading.browse([tmp_path])
    assert [Path(each.name).name for each in opened] == ["maps", "run"]
    assert [each.run is None for each in opened] == [True, False]
