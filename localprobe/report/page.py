"""One HTML file that needs nothing else: sections from data, their tables, figures and examples.

What a page is made of is data, and all texts in it may be a stranger's: they are escaped where
they stand in HTML, lie in JSON that is never run, and are shown by `web/report.js` as text alone.
A content security policy says the same to the browser: only our scripts, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from localprobe.files.foreign import escaped

_SCRIPTS = ("d3.min.js", "plot.umd.min.js", "report.js")
"""Observable Plot draws the figures. Their licences: web/NOTICE.txt."""


@dataclass(frozen=True)
class Cell:
    """Of a table. beside: what is written smaller. share: a bar of 0 … 1 behind it.

    key: of the examples behind it, if there are some. spoken: what a screen reader says.
    """

    text: str
    beside: str = ""
    share: float | None = None
    key: str | None = None
    spoken: str = ""


@dataclass(frozen=True)
class Table:
    """The first cell of each row names it."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]


@dataclass(frozen=True)
class Figure:
    """What `web/report.js` draws. kind: curves, heat or intervals. label: what is to be seen.

    data: as JSON; a point or a cell with a "key" opens its examples.
    """

    kind: str
    label: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """facts: names and values, folded up. lines: one below the other. notes: smaller, at the end.

    asides: tables that are folded up.
    """

    title: str
    lines: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    claims: Sequence[str] = ()
    notes: Sequence[str] = ()
    asides: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """examples: what `Examples.record` gives."""

    title: str
    sections: Sequence[Section]
    lines: Sequence[str] = ()
    examples: Mapping[str, Any] = field(default_factory=dict)


def html_page(page: Page) -> str:
    """The file. It is the same wherever and whenever it is made."""
    figures: list[Figure] = []
    body = "".join(_section(number, each, figures) for number, each in enumerate(page.sections, 1))
    contents = "".join(
        f'<li><a href="#s{number}">{_text(each.title)}</a></li>'
        for number, each in enumerate(page.sections, 1)
    )
    data = {"examples": page.examples, "figures": [_figure_record(each) for each in figures]}
    scripts = [_resource(name) for name in _SCRIPTS]
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    code = "".join(f"<script>{script}</script>\n" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(page.title)}</title>
<style>
{_resource("report.css")}</style>
</head>
<body>
<a class="skip" href="#s1">To the results</a>
<header>
<h1>{_text(page.title)}</h1>
{_paragraphs(page.lines)}
<noscript><p>Without JavaScript, figures and examples are left out; the tables are all here.</p>
</noscript>
<nav aria-label="Sections"><ul>{contents}</ul></nav>
</header>
<main>
{body}</main>
<dialog id="examples" aria-labelledby="examples-title">
<form method="dialog"><h2 id="examples-title"></h2><button>Close</button></form>
<p id="examples-note"></p>
<p><label>Show <select id="examples-which"><option value="all">all</option>
<option value="wrong">wrong answers</option>
<option value="changed">answers that are not the clean one</option></select></label></p>
<div id="examples-list"></div>
</dialog>
<script type="application/json" id="data">{safe_json(data)}</script>
{code}</body>
</html>
"""


def fragment(section: Section) -> str:
    """A section's words and tables for a page that is not ours: no ids, scripts or figures."""
    lines = "".join(f"<div>{_text(line)}</div>" for line in section.lines)
    claims = "".join(f"<li>{_text(each)}</li>" for each in section.claims)
    tables = "".join(
        f'<table><caption style="text-align:left">{_text(table.caption)}</caption>'
        "<thead><tr>"
        + "".join(f"<th>{_text(each)}</th>" for each in table.headers)
        + "</tr></thead><tbody>"
        + "".join(f"<tr>{''.join(_cells(row, plain=True))}</tr>" for row in table.rows)
        + "</tbody></table>"
        for table in section.tables
    )
    notes = "".join(f"<div><small>{_text(note)}</small></div>" for note in section.notes)
    return (
        f"<div><strong>{_text(section.title)}</strong>{lines}{tables}<ul>{claims}</ul>{notes}</div>"
    )


def safe_json(document: object) -> str:
    """JSON that reads as the same, in which nothing ends a script or a line of one."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def shown(text: str, most: int | None = None) -> str:
    """A text of several lines, with what is not to be seen written out; cut in its middle."""
    lines = "\n".join(escaped(line) for line in text.split("\n"))
    if most is None or len(lines) <= most:
        return lines
    half = (most - 5) // 2
    return f"{lines[:half]} […] {lines[-half:]}"


def _section(number: int, section: Section, figures: list[Figure]) -> str:
    parts = [f'<section aria-labelledby="s{number}"><h2 id="s{number}">{_text(section.title)}</h2>']
    parts.append(_paragraphs(section.lines))
    if section.claims:
        claims = "".join(f"<li>{_text(each)}</li>" for each in section.claims)
        parts.append(f'<ul class="claims">{claims}</ul>')
    for each in section.figures:
        parts.append(f'<figure class="drawn" data-figure="{len(figures)}" hidden></figure>')
        figures.append(each)
    parts += [_table(each) for each in section.tables]
    if section.facts:
        facts = "".join(
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
            for name, value in section.facts
        )
        parts.append(_folded("What was run", f"<dl>{facts}</dl>"))
    parts += [_folded(each.caption, _table(each)) for each in section.asides]
    parts.append(_paragraphs(section.notes, "note"))
    return "\n".join(part for part in parts if part) + "\n</section>\n"


def _folded(title: str, inner: str) -> str:
    return f"<details><summary>{_text(title)}</summary>{inner}</details>"


def _paragraphs(lines: Sequence[str], kind: str = "") -> str:
    opened = f'<p class="{kind}">' if kind else "<p>"
    return "".join(f"{opened}{_text(line)}</p>" for line in lines)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(each)}</th>' for each in table.headers)
    rows = "".join(f"<tr>{''.join(_cells(row))}</tr>\n" for row in table.rows)
    name = _text(table.caption)
    # What is wider than the page is scrolled, with the keys as well.
    return (
        f'<div class="wide" role="region" aria-label="{name}" tabindex="0"><table>'
        f"<caption>{name}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>\n{rows}</tbody></table></div>"
    )


_BAR = "linear-gradient(to right, rgb(0 114 178 / .25) {:.1%}, transparent 0)"


def _cells(row: Sequence[Cell | str], *, plain: bool = False) -> Iterator[str]:
    """plain: without what is of our own page alone."""
    for place, cell in enumerate(row):
        if isinstance(cell, str):
            cell = Cell(cell)
        inner = _text(cell.text)
        if cell.beside:
            inner += f" <small>{_text(cell.beside)}</small>"
        if cell.key is not None and not plain:
            inner = (
                f'<button type="button" data-key="{_text(cell.key)}" '
                f'aria-label="{_text(cell.spoken)}">{inner}</button>'
            )
        bar = ""
        if cell.share is not None:
            drawn = _BAR.format(cell.share)
            bar = f' class="bar" style="--share:{cell.share:.3f}"'
            bar = f' style="text-align:left;background:{drawn}"' if plain else bar
        yield f'<th scope="row">{inner}</th>' if place == 0 else f"<td{bar}>{inner}</td>"


def _figure_record(figure: Figure) -> dict[str, Any]:
    return {"kind": figure.kind, "label": escaped(figure.label), **_all_shown(figure.data)}


def _all_shown(value: Any) -> Any:
    """With what is not to be seen written out in all texts."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {key: _all_shown(inner) for key, inner in value.items()}
    return [_all_shown(inner) for inner in value] if isinstance(value, list | tuple) else value


def _text(text: str) -> str:
    """As it stands in HTML, within quotes or without; what is `visible` already stays as it is."""
    return html.escape(escaped(text))


def _resource(name: str) -> str:
    return (files("localprobe.report") / "web" / name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
