"""The lists of models and recipes, and what is removed: light, so that they are there at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import typer
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from localprobe.errors import LocalprobeError, ModelError
from localprobe.files.foreign import printable
from localprobe.files.resources import recipe_files
from localprobe.files.tomlfile import TomlFile
from localprobe.models import registry
from localprobe.models.glance import Glance, glance
from localprobe.models.prepare import Manifest, manifest_of, prepared_models
from localprobe.models.removal import cached, cached_models, remove
from localprobe.models.stores import Stored, stored_models, stores
from localprobe.report.terminal import (
    new_table,
    print_document,
    say,
    shrink_only_last,
    size_text,
    stdout_console,
    visible,
)


def list_models(*, json: bool) -> None:
    known = registry.entries().values()
    prepared = [(name, path, manifest_of(path)) for name, path in prepared_models()]
    if json:
        fetched = [
            {
                "name": entry.name,
                "architecture": entry.architecture,
                "size": entry.size,
                "cached": entry.path.exists(),
                "license": entry.license,
                "sha256": entry.sha256,
                "source": str(entry.source),
                "note": entry.note,
                "prepared": False,
            }
            for entry in known
        ]
        # What was prepared says these of itself once it is loaded.
        unknown = {"architecture": None, "license": None}
        made_here = [
            {
                "name": name,
                "size": path.stat().st_size,
                "cached": True,
                "sha256": made and made.sha256,
                "source": made and made.source,
                "note": _note(made),
                "prepared": True,
                **unknown,
            }
            for name, path, made in prepared
        ]
        print_document([*fetched, *made_here])
        return
    table = new_table("name", "arch")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("cached", no_wrap=True)
    table.add_column("note", overflow="ellipsis", no_wrap=True)
    for entry in known:
        there = "yes" if entry.path.exists() else "no"
        size = size_text(entry.size)
        table.add_row(entry.name, _shown(entry.architecture), size, there, _shown(entry.note))
    for name, path, made in prepared:
        size = size_text(path.stat().st_size)
        table.add_row(_shown(name), "", size, "yes", _shown(_note(made)))
    console = stdout_console()
    shrink_only_last(console, table)
    console.print(table)
    if taken := cached_models():
        total = size_text(sum(each.size for each in taken.values()))
        console.print(f"in the cache: {total}; to free some: localprobe models remove NAME")


def list_local(*, json: bool) -> None:
    """GGUFs that other programs keep here; those that cannot be used are told of on stderr."""
    found, skipped = [], []
    for each in stored_models():
        try:
            if each.trouble:
                raise ModelError(each.trouble)
            found.append((each, glance(each.path)))
        except (ModelError, OSError) as error:  # gone meanwhile, perhaps
            skipped.append(f"{each.name} is skipped: {error}")
    if json:
        documents = [
            {"name": each.name, "path": str(each.path), **asdict(seen)} for each, seen in found
        ]
        print_document(
            [{fact: None if told == "" else told for fact, told in d.items()} for d in documents]
        )
    elif found:
        _print_local(found)
    for message in skipped:
        say(f"localprobe: {message}")
    if not (found or skipped):
        titles = ", ".join(store.title for store in stores().values())
        say(f"no GGUF was found in {titles}; a path does as well: -m FILE.gguf")


_LIKELY, _UNTRIED = "likely", "untried"


def _can(seen: Glance) -> str:
    if seen.can_probe is None:
        return _LIKELY if seen.known else _UNTRIED
    return "yes" if seen.can_probe else "no"


def _print_local(found: Sequence[tuple[Stored, Glance]]) -> None:
    # No table: a name is copied from here, and only a terminal's own line break leaves it whole.
    rows = [["arch", "size", "type", "probed", "name"]]
    for each, seen in found:
        facts = [seen.architecture, size_text(seen.size), seen.file_type, _can(seen)]
        rows.append([visible(text) or "?" for text in (*facts, each.name)])
    widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    console = stdout_console()
    for row in rows:
        facts = [set_cell_size(*cell) for cell in zip(row, widths, strict=False)]
        style = "bold" if row is rows[0] else ""
        console.print(Text("  ".join([*facts, row[-1]]), style=style), soft_wrap=True)
    for each, seen in found:
        if seen.reason:
            console.print(Text(f"{visible(each.name)}: {visible(seen.reason)}"))
    shown = {_can(seen) for _, seen in found}
    if _LIKELY in shown:
        console.print("likely: its architecture is known to work; it is tried at its first use")
    if _UNTRIED in shown:
        console.print("untried: its architecture is not known to work; its first use will tell")


def _note(made: Manifest | None) -> str:
    if made is None:
        return "its manifest is lost or broken"
    of = f" ({made.source_type})" if made.source_type else ""
    # What is cut off first where there is little room is its source's type.
    kept = f"{made.change.kept:.1%} of next tokens as" if made.change else "from"
    return f"{kept} {made.source}{of}"


class _NothingRemovedError(LocalprobeError):
    """It was asked, and answered with no."""

    exit_code = 1


def remove_models(names: Sequence[str], *, yes: bool) -> None:
    """All of them or none: what cannot be removed is found out before anything is."""
    models = list({each.name: each for each in map(cached, names)}.values())
    if not yes:
        what = ", ".join(f"{each.name} ({size_text(each.size)})" for each in models)
        if sys.stdin is None or not sys.stdin.isatty():
            raise LocalprobeError(f"nobody can be asked whether to remove {what}; say --yes")
        if not typer.confirm(f"remove {printable(what, None)}?", err=True):
            raise _NothingRemovedError("nothing was removed")
    for each in models:
        size = each.size
        remove(each)
        say(f"removed {each.name}: {size_text(size)} freed")


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
