"""The lists of models and recipes: light, so that they are there at once."""

from __future__ import annotations

from rich.text import Text

from localprobe.files.resources import recipe_files
from localprobe.files.tomlfile import TomlFile
from localprobe.models import registry
from localprobe.models.prepare import prepared_models
from localprobe.report.terminal import (
    new_table,
    print_document,
    shrink_only_last,
    stdout_console,
    visible,
)


def list_models(*, json: bool) -> None:
    known = registry.entries().values()
    if json:
        print_document(
            [
                {
                    "name": entry.name,
                    "architecture": entry.architecture,
                    "size": entry.size,
                    "cached": entry.path.exists(),
                    "license": entry.license,
                    "sha256": entry.sha256,
                    "source": str(entry.source),
                    "note": entry.note,
                }
                for entry in known
            ]
        )
        return
    table = new_table("name", "arch")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("cached", no_wrap=True)
    table.add_column("note", overflow="ellipsis", no_wrap=True)
    for entry in known:
        size = f"{entry.size / 1e9:.1f} GB" if entry.size >= 1e9 else f"{entry.size / 1e6:.0f} MB"
        cached = "yes" if entry.path.exists() else "no"
        table.add_row(entry.name, _shown(entry.architecture), size, cached, _shown(entry.note))
    console = stdout_console()
    for name, path in prepared_models():
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        table.add_row(_shown(name), "", size, "yes", "requantised")
    shrink_only_last(console, table)
    console.print(table)


def list_recipes(*, json: bool) -> None:
    known = [
        (path.stem, str(TomlFile(path).data.get("description", ""))) for path in recipe_files()
    ]
    if json:
        print_document([{"name": name, "description": about} for name, about in known])
        return
    table = new_table("recipe")
    table.add_column("what it does", overflow="fold")
    for name, about in known:
        table.add_row(name, _shown(about))
    stdout_console().print(table)


def _shown(text: str) -> Text:
    # A Text, not a str: in that, rich would obey its own markup.
    return Text(visible(text))
