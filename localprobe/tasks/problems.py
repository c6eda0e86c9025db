"""What is wrong in a user's file, place by place: the first few are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localprobe.errors import LocalprobeError

_TOLD = 5


class Problems:
    """Of one file, in the order in which they are found."""

    def __init__(self, path: Path) -> None:
        self._path, self._told, self._count = path, list[str](), 0

    def __bool__(self) -> bool:
        return self._count > 0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A LocalprobeError in it is kept, and what comes after it is gone on with."""
        try:
            yield
        except LocalprobeError as error:
            self._count += 1
            if self._count <= _TOLD:
                self._told.append(str(error))

    def tell(self) -> None:
        """Raise LocalprobeError where there are any. The file is named once."""
        if not self._count:
            return
        first, *others = self._told
        said = "; ".join([first, *(each.removeprefix(f"{self._path}, ") for each in others)])
        more = self._count - len(self._told)
        raise LocalprobeError(f"{said}; and {more} more" if more else said)
