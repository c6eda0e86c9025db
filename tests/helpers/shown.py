"""Commands in a document of the manual, and what is shown below each.

    python tests/helpers/shown.py docs/how-to.md

runs them, one after the other in a fresh folder, and writes down what they print.
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
_COMMAND = re.compile(r"^\$ (localprobe .*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """line: as it is typed. shown: what the document says that it prints."""

    line: str
    shown: str

    def run(self) -> str:
        """What it prints on standard output in a window of 80 columns; it must succeed."""
        from localprobe.cli.app import main

        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main(shlex.split(self.line)[1:]) == 0, self.line
        return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def files(text: str) -> dict[str, str]:
    """The files that a document says to have: name -> content."""
    return dict(_FILE.findall(text))


def commands(text: str) -> Iterator[Command]:
    for block in _BLOCK.findall(text):
        _, *parts = _COMMAND.split(block)
        for line, shown in zip(parts[::2], parts[1::2], strict=True):
            yield Command(line, shown)


def rewritten(text: str) -> str:
    """The document with what its commands print now."""

    def block(found: re.Match[str]) -> str:
        lines = "".join(
            f"$ {each.line}\n{each.run()}" for each in commands(f"```console\n{found[1]}```\n")
        )
        return f"```console\n{lines}```"

    return _BLOCK.sub(block, text)


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
    main(Path(sys.argv[1]).resolve())
