"""Commands in a document of the manual, and what is shown below each.

    python tests/helpers/shown.py docs/tutorial.md docs/how-to/states.md

runs them, one after the other in a fresh folder, and writes down what they print. So it does with
Python below <!-- python -->.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^<!-- python -->\n```python\n(.*?)^```\n\n```\n(.*?)^```$", re.M | re.DOTALL)
_COMMAND = re.compile(r"^\$ (localprobe .*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """line: as it is typed, or Python. shown: what the document says that it prints."""

    line: str
    shown: str
    is_python: bool = False

    def run(self) -> str:
        """What it prints on standard output in a window of 80 columns; it must succeed."""
        from localprobe.cli.app import main

        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if self.is_python:
                exec(compile(self.line, "<document>", "exec"), {})
            else:
                assert main(shlex.split(self.line)[1:]) == 0, self.line
        return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def files(text: str) -> dict[str, str]:
    """The files that a document says to have: name -> content."""
    return dict(_FILE.findall(text))


def commands(text: str) -> Iterator[Command]:
    """In the order of the document."""
    found = [(each.start(), list(_typed(each[1]))) for each in _BLOCK.finditer(text)]
    found += [(each.start(), [Command(*each.groups(), True)]) for each in _PYTHON.finditer(text)]
    for _, several in sorted(found, key=lambda each: each[0]):
        yield from several


def _typed(block: str) -> Iterator[Command]:
    _, *parts = _COMMAND.split(block)
    for line, shown in zip(parts[::2], parts[1::2], strict=True):
        yield Command(line, shown)


def rewritten(text: str) -> str:
    """The document with what its commands print now."""

    def block(found: re.Match[str]) -> str:
        if found[0].startswith("<!--"):
            (command,) = commands(found[0])
            return found[0].removesuffix(f"{command.shown}```") + f"{command.run()}```"
        lines = "".join(f"$ {each.line}\n{each.run()}" for each in _typed(found[1]))
        return f"```console\n{lines}```"

    return re.sub(f"{_BLOCK.pattern}|{_PYTHON.pattern}", block, text, flags=re.M | re.DOTALL)


def main(path: Path) -> None:
    text = path.read_text("utf-8")
    os.environ["COLUMNS"] = "80"
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, content in files(text).items():
            Path(name).write_text(content, encoding="utf-8", newline="\n")
        text = rewritten(text)
        os.chdir(before)
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        main(Path(name).resolve())
