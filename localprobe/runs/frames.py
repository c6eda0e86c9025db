"""Records as data frames, of the libraries that are installed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from localprobe.errors import LocalprobeError

if TYPE_CHECKING:
    import pandas
    import polars


class Framed:
    """What has rows, as a data frame. The class says which columns it has, and what they hold."""

    rows: Any
    _COLUMNS: ClassVar[tuple[str, ...]]

    def to_pandas(self) -> pandas.DataFrame:
        """A pandas.DataFrame. Raises LocalprobeError where pandas is not installed."""
        frame: pandas.DataFrame = _library("pandas").DataFrame(
            self._records(), columns=list(self._COLUMNS)
        )
        return frame

    def to_polars(self) -> polars.DataFrame:
        """The same as a polars.DataFrame. Raises LocalprobeError where polars is not installed."""
        records = self._records()
        values = {name: [each[name] for each in records] for name in self._COLUMNS}
        frame: polars.DataFrame = _library("polars").DataFrame(values)
        return frame

    def _records(self) -> list[dict[str, Any]]:
        return [{name: getattr(row, name) for name in self._COLUMNS} for row in self.rows]


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise LocalprobeError(
            f"to_{name} needs {name}; run: pip install 'localprobe[{name}]'"
        ) from None
