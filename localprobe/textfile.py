"""Text files of users, with errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

from localprobe.errors import LocalprobeError


def read_text(path: Path) -> str:
    """UTF-8, with or without a byte order mark. Raises LocalprobeError where it is none."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise LocalprobeError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise LocalprobeError(f"{path}, line {line}: not UTF-8 text") from None
