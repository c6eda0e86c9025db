"""The manual, as HTML that needs no network and opens from disk:

python -m sphinx -W docs build/docs

The reference is made here: of Python from docstrings, of the command line from what --help says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib.metadata import version as version_of
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

project = "localprobe"
author = "the localprobe contributors"
version = release = version_of("localprobe")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]

html_theme = "furo"
html_title = f"localprobe {release}"
html_static_path = ["manual.css"]
html_css_files = ["manual.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}

# Links to headings are written as for other readers of Markdown: page.md#of-a-heading.
myst_heading_anchors = 4
# What is copied of an example is what is typed.
copybutton_prompt_text = "$ "

# In docstrings, `name` is code; where it is documented here, a link to that.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"


def with_fields(
    _app: object, _what: str, _name: str, thing: Any, _options: object, lines: list[str]
) -> None:
    """Our docstrings say `name: what it is.`, one after the other; Sphinx wants a list of them."""
    try:
        names = [*inspect.signature(thing).parameters]
    except (TypeError, ValueError):
        return
    if inspect.isclass(thing):
        names += [name for name in vars(thing) if not name.startswith("_")]
    prose, fields = list[str](), list[str]()
    for paragraph in "\n".join(lines).split("\n\n"):
        if paragraph.startswith(" "):
            prose.append(f"::\n\n{paragraph}")
            continue
        before, found = _told_apart(paragraph, names)
        prose += [before] if before else []
        fields += found
    lines[:] = "\n\n".join([*prose, "\n".join(fields)]).split("\n")


def _told_apart(paragraph: str, names: list[str]) -> tuple[str, list[str]]:
    """What comes before the first name, and a field for each name and for what is raised."""
    flowing = re.sub(r"\s*\n\s*", " ", paragraph).strip()
    one, start = "|".join(map(re.escape, names)) or "(?!)", r"(?:^|(?<=[.…] ))"
    before, *rest = re.split(
        rf"{start}((?:{one})(?:, (?:{one}))*): |{start}Raises (?=\w+Error)", flowing
    )
    fields = []
    for several, text in zip(rest[::2], rest[1::2], strict=True):
        if several is None:
            error, _, when = text.strip().partition(" ")
            fields.append(f":raises {error}: {when}")
        else:
            # With a space, the first would be taken for the type of the second.
            fields.append(f":param {several.replace(', ', ',')}: {text.strip()}")
    return before.strip(), fields


def without_functions(
    _app: object,
    _what: str,
    _name: str,
    _thing: object,
    _options: object,
    taken: str | None,
    given: str,
) -> tuple[str | None, str | None]:
    """Of a default that is a function, its name, or nothing that says anything."""
    if taken is not None:
        taken = re.sub(r"<built-in function (\w+)>", r"\1", taken)
        taken = taken.replace("<function <lambda>>", "…")
    return taken, given


class Commands(SphinxDirective):
    """Every command and what its --help says, in 80 columns."""

    def run(self) -> list[nodes.Node]:
        return [self._section(name, text) for name, text in _helps()]

    def _section(self, name: str, text: str) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(name)], names=[name])
        block = nodes.literal_block(text, text, language="text")
        section += [nodes.title(name, name), block]
        self.state.document.note_explicit_target(section, section)
        return section


def _helps() -> Iterator[tuple[str, str]]:
    from typer.main import get_command

    from localprobe.cli.app import app

    def walk(command: Any, name: str, above: Any) -> Iterator[tuple[str, str]]:
        context = command.make_context(
            name, [], parent=above, resilient_parsing=True, terminal_width=80, max_content_width=80
        )
        yield context.command_path, context.get_help()
        for each in getattr(command, "commands", {}):
            yield from walk(command.commands[each], each, context)

    yield from walk(get_command(app), "localprobe", None)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", with_fields)
    app.connect("autodoc-process-signature", without_functions)
    app.add_directive("commands", Commands)
