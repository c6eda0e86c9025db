"""`localprobe browse`: runs and maps walked through in the terminal. Needs textual.

A list of runs, the table of one or several, the examples behind a cell, the answers to an example
through all layers. What is shown is text: nothing in it is markup, or obeyed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.coordinate import Coordinate
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from localprobe.errors import LocalprobeError
from localprobe.files.cache import write_atomically
from localprobe.files.foreign import printable
from localprobe.report.browse_tables import (
    Example,
    Grid,
    answers_grid,
    example_text,
    examples_grid,
    map_grid,
    runs_grid,
    scores_grid,
)
from localprobe.report.map_records import MapRecord
from localprobe.report.terminal import visible
from localprobe.runs.results import Run
from localprobe.runs.rows import CLEAN

MOST_ROWS = 2000
"""That are shown at once; a search goes through all."""


@dataclass(frozen=True)
class Opened:
    """What can be walked through. name: where it lies. run, found: read it, when it is opened."""

    name: str
    run: Callable[[], Run] | None = None
    found: Callable[[], MapRecord] | None = None


class _GridScreen(Screen[None]):
    """A table that is moved over with the keys, a line of help, and what the cell is, below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "back"),
        Binding("slash", "search", "search", key_display="/"),
        Binding("e", "export", "export"),
        Binding("q", "app.quit", "quit"),
        *(
            Binding(key, f"move({down}, {right})", show=False)
            for key, down, right in (("j", 1, 0), ("k", -1, 0), ("l", 0, 1), ("h", 0, -1))
        ),
    ]

    def __init__(self, title: str) -> None:
        super().__init__()
        self._title = title
        self._sought = ""
        self._grid = Grid([], [])
        self._shown: list[int] = []

    def compose(self) -> ComposeResult:
        yield Static(Text(visible(self._title), style="bold", overflow="ellipsis"), id="title")
        yield DataTable[Text](zebra_stripes=True, fixed_columns=1)
        yield Static("", id="below")
        yield Input(placeholder="words to look for; Enter: go on, Escape: all again")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Input).display = False
        self.table.cursor_type = "row" if self.by_row else "cell"
        self.fill()
        self.table.focus()

    by_row = True

    @property
    def table(self) -> DataTable[Text]:
        return self.query_one(DataTable)

    def grid(self) -> Grid:
        raise NotImplementedError

    def below(self, row: int, column: int) -> Text:
        """About the row and column of the grid that the cursor is on."""
        return Text("")

    def enter(self, row: int, column: int) -> None:
        """Open what is there."""

    def fill(self) -> None:
        """The rows in which what is sought occurs."""
        self._grid, table = self.grid(), self.table
        words = self._sought.casefold()
        rows = range(len(self._grid.rows))
        found = [row for row in rows if words in self._grid.sought_in(row)] if words else [*rows]
        self._shown = found[:MOST_ROWS]
        table.clear(columns=True)
        for place, header in enumerate(self._grid.headers):
            table.add_column(Text(header), key=str(place))
        for row in self._shown:
            table.add_row(*self._grid.rows[row], key=str(row))
        said = f"{self._title}"
        if words:
            said += f" · {len(found)} with '{self._sought}'"
        if len(found) > MOST_ROWS:
            said += f" · the first {MOST_ROWS} of {len(found)} shown: / searches all"
        title = Text(visible(said), style="bold", overflow="ellipsis", no_wrap=True)
        self.query_one("#title", Static).update(title)
        self._tell()

    def _tell(self) -> None:
        place = self.table.cursor_coordinate
        text = Text("")
        if place.row < len(self._shown):
            text = self.below(self._shown[place.row], place.column)
        self.query_one("#below", Static).update(text)

    def on_data_table_row_highlighted(self) -> None:
        self._tell()

    def on_data_table_cell_highlighted(self) -> None:
        self._tell()

    def on_data_table_row_selected(self) -> None:
        self._enter()

    def on_data_table_cell_selected(self) -> None:
        self._enter()

    def _enter(self) -> None:
        place = self.table.cursor_coordinate
        if place.row < len(self._shown):
            self.enter(self._shown[place.row], place.column)

    def action_move(self, down: int, right: int) -> None:
        row, column = self.table.cursor_coordinate
        self.table.cursor_coordinate = Coordinate(row + down, column + right)

    def action_search(self) -> None:
        field = self.query_one(Input)
        field.display = True
        field.focus()

    def on_input_changed(self, changed: Input.Changed) -> None:
        self._sought = changed.value
        self.fill()

    def on_input_submitted(self) -> None:
        self.query_one(Input).display = bool(self._sought)
        self.table.focus()

    def action_back(self) -> None:
        """First out of a search, then out of the table."""
        field = self.query_one(Input)
        if field.display or self._sought:
            field.value = self._sought = ""
            field.display = False
            self.fill()
            self.table.focus()
        elif len(self.app.screen_stack) > 2:
            self.app.pop_screen()
        else:
            self.app.exit()

    def action_export(self) -> None:
        """What is seen, as CSV, to a new file in the working directory."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._grid.headers)
        for row in self._shown:
            writer.writerow(self._grid.plain(row))
        number = 1
        while (path := Path(f"browse-{number}.csv")).exists():
            number += 1
        write_atomically(path, text.getvalue())
        self.notify(f"wrote {len(self._shown)} rows to {path}", markup=False)


class RunsScreen(_GridScreen):
    """The runs and maps that there are. Space marks those to be seen side by side."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "mark", "mark")]

    def __init__(self, there: Sequence[Opened]) -> None:
        super().__init__(f"{len(there)} runs and maps")
        self._there = there
        self._marked: list[int] = []

    def grid(self) -> Grid:
        names = [each.name for each in self._there]
        return runs_grid(names, self._marked)

    def below(self, row: int, column: int) -> Text:
        return Text("Enter opens it; Space marks runs, and Enter shows those side by side")

    def action_mark(self) -> None:
        place = self.table.cursor_coordinate
        if place.row >= len(self._shown) or self._there[self._shown[place.row]].run is None:
            return
        row = self._shown[place.row]
        if row in self._marked:
            self._marked.remove(row)
        else:
            self._marked.append(row)
        self.fill()
        self.table.cursor_coordinate = place

    def enter(self, row: int, column: int) -> None:
        marked = [self._there[each] for each in self._marked] or [self._there[row]]
        try:
            self.app.push_screen(screen_of(marked))
        except LocalprobeError as error:
            self.notify(printable(str(error)), severity="error", markup=False)


class ScoresScreen(_GridScreen):
    """The table of a run, or of several side by side; a cell opens its examples."""

    by_row = False

    def __init__(self, runs: Sequence[Run]) -> None:
        titles = [run.manifest.title for run in runs]
        single = titles[0] + (f" · unfinished: {runs[0].so_far}" if runs[0].so_far else "")
        numbered = " ".join(f"[{number}] {title}" for number, title in enumerate(titles, 1))
        super().__init__(single if len(runs) == 1 else numbered)
        self._runs = runs
        self._scores = scores_grid(runs)

    def grid(self) -> Grid:
        return self._scores.grid

    def below(self, row: int, column: int) -> Text:
        return self._scores.about(row, column)

    def enter(self, row: int, column: int) -> None:
        cell = self._scores.cell(row, column)
        if cell is None:
            return
        run, patch, layer = cell
        if any(each.patch == (patch or CLEAN) and each.layer == layer for each in run.rows):
            self.app.push_screen(ExamplesScreen(run, patch, layer))

    def action_search(self) -> None:
        """In the examples of the first run, since in numbers there is little to look for."""
        screen = ExamplesScreen(self._runs[0], None, None)
        self.app.push_screen(screen, None)
        self.app.call_after_refresh(screen.action_search)


class ExamplesScreen(_GridScreen):
    """What was said to each example in a cell, or by the clean model."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("w", "wrong", "wrong ones")]

    def __init__(self, run: Run, patch: str | None, layer: int | None) -> None:
        where = "clean model" if patch is None else f"{patch} at layer {layer}"
        super().__init__(f"{where} · {run.manifest.task} · {run.manifest.model_name}")
        self._run, self._patch, self._layer = run, patch, layer
        self._only_wrong = False
        self._examples: list[Example] = []

    def grid(self) -> Grid:
        self._examples, grid = examples_grid(
            self._run, self._patch, self._layer, only_wrong=self._only_wrong
        )
        return grid

    def below(self, row: int, column: int) -> Text:
        return example_text(self._examples[row])

    def enter(self, row: int, column: int) -> None:
        self.app.push_screen(AnswersScreen(self._run, self._examples[row].row.example))

    def action_wrong(self) -> None:
        self._only_wrong = not self._only_wrong
        self.fill()


class AnswersScreen(_GridScreen):
    """An example through all layers."""

    by_row = False

    def __init__(self, run: Run, example: int) -> None:
        super().__init__(f"example {example} · {run.manifest.task} · {run.manifest.model_name}")
        self._answers = answers_grid(run, example)

    def grid(self) -> Grid:
        return self._answers.grid

    def below(self, row: int, column: int) -> Text:
        return self._answers.about(row, column)


class MapScreen(_GridScreen):
    """A map: layers down, tokens across."""

    by_row = False

    def __init__(self, found: MapRecord) -> None:
        super().__init__(f"{found.title} · {found.model}")
        self._map = found

    def grid(self) -> Grid:
        return map_grid(self._map)

    def below(self, row: int, column: int) -> Text:
        words = "; ".join(self._map.words)
        if not column:
            return Text(visible(words))
        value, share = (each[row][column - 1] for each in (self._map.values, self._map.effect))
        token = f"`{self._map.columns[column - 1]}` at layer {self._map.layers[row]}: "
        if value is None or share is None:
            return Text(visible(f"{token}not finite"))
        return Text(visible(f"{token}{self._map.metric} {value:.3f}, effect {share:.0%}; {words}"))


def screen_of(opened: Sequence[Opened]) -> Screen[None]:
    """The table of runs, or a map."""
    if opened[0].found is not None:
        return MapScreen(opened[0].found())
    return ScoresScreen([each.run() for each in opened if each.run is not None])


class Browser(App[None]):
    """there: what can be walked through; one alone is opened at once."""

    CSS = """
    #title { height: auto; max-height: 2; }
    #below { height: 6; border-top: solid $primary; }
    DataTable { height: 1fr; }
    """
    ENABLE_COMMAND_PALETTE = False
    TITLE = "localprobe"

    def __init__(self, there: Sequence[Opened]) -> None:
        super().__init__()
        self._there = there

    def on_mount(self) -> None:
        self.push_screen(
            screen_of(self._there) if len(self._there) == 1 else RunsScreen(self._there)
        )
