"""TOML that says where it is wrong: tomllib gives the line of bad syntax, this one of bad keys."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files.textfile import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_MOST = 1 << 20
# tomllib takes time by the square of a key's parts, and by those of its table for every line.
_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
_DEEP = re.compile(rf"(?:^|\n)[ \t]*(?:\[\[?[ \t]*)?(?:{_PART}){{32}}")


class TomlFile:
    """A TOML file's tables, with errors that name the file and the line."""

    def __init__(self, path: Path) -> None:
        self.path, self._text = path, read_text(path, most=_MOST)
        deep = _DEEP.search(self._text)
        if deep:
            line = self._text.count("\n", 0, deep.start() + 1) + 1
            raise LocalprobeError(f"{path}, line {line}: a key of too many parts")
        try:
            self.data: dict[str, Any] = tomllib.loads(self._text)
        except tomllib.TOMLDecodeError as error:
            reason, _, place = str(error).partition(" (at ")
            number = re.match(r"line (\d+)", place)
            line = int(number[1]) if number else len(self._text.splitlines())
            raise LocalprobeError(f"{path}, line {line}: not valid TOML: {reason}") from None
        except (RecursionError, ValueError):
            raise LocalprobeError(
                f"{path}: not valid TOML: nested too deeply or a number too long"
            ) from None

    def error(self, message: str, table: str = "", key: str = "") -> LocalprobeError:
        """An error about a key of a table; table "" is the top level."""
        return LocalprobeError(f"{self.path}, line {self._line(table, key)}: {message}")

    def _line(self, table: str, key: str) -> int:
        lines = self._text.splitlines()
        header = re.compile(rf"\s*\[\s*[\"']?{re.escape(table)}[\"']?\s*\]")
        start = next((i for i, line in enumerate(lines) if table and header.match(line)), 0)
        entry = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=")
        for number, line in enumerate(lines[start:], start + 1):
            if key and entry.match(line):
                return number
            if number > start + 1 and table and line.lstrip().startswith("["):
                break
        return start + 1
