"""Records as data frames, of the libraries that are installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from localprobe.errors import LocalprobeError

if TYPE_CHECKING:
    import pandas
    import polars


def pandas_frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pandas.DataFrame:
    """Raises LocalprobeError where pandas is not installed."""
    frame: pandas.DataFrame = _library("pandas").DataFrame(
        [dict(each) for each in records], columns=list(columns)
    )
    return frame


def polars_frame(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> polars.DataFrame:
    """Raises LocalprobeError where polars is not installed."""
    values = {name: [each[name] for each in records] for name in columns}
    frame: polars.DataFrame = _library("polars").DataFrame(values)
    return frame


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise LocalprobeError(
            f"to_{name} needs {name}; run: pip install 'localprobe[{name}]'"
        ) from None
