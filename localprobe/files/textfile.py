"""Text files of users, with errors that name the file and the line."""

from __future__ import annotations

from pathlib import Path

from localprobe.errors import LocalprobeError

_MOST = 1 << 30


def read_text(path: Path, most: int = _MOST) -> str:
    """UTF-8, with or without a byte order mark. Raises LocalprobeError where it is none."""
    if path.exists() and not path.is_file():
        raise LocalprobeError(f"cannot read {path}: it is not a file")
    data = read_bytes(path, most=most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LocalprobeError(f"{path}, line {line}: not UTF-8 text") from None


def read_bytes(path: Path, what: str = "", most: int = _MOST) -> bytes:
    """A whole file, which may be a pipe but not an endless one. what: it is called in errors.

    Raises LocalprobeError where it cannot be read.
    """
    name = f"{what} {path}".strip()
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise LocalprobeError(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:  # a NUL in its name
        raise LocalprobeError(f"cannot read {name}: {error}") from None
    if len(data) > most:
        raise LocalprobeError(f"{name} is larger than {most >> 20} MB")
    return data
