"""Users' data files: JSON, JSONL, CSV and parquet, with errors that name the place."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError
from localprobe.files import workers
from localprobe.files.foreign import printable
from localprobe.files.textfile import read_text
from localprobe.tasks.problems import Problems

_Records = Iterator[tuple[str, dict[str, Any]]]
_Noted = Callable[[], AbstractContextManager[None]]
_LONGEST_FIELD = 1 << 24
_MOST_CHARACTERS = 1 << 29


def read_json(path: Path) -> Any:
    """A JSON file. Raises LocalprobeError where it is none."""
    return _parse(read_text(path), str(path))


def read_records(path: Path, keys: Sequence[str], problems: Problems | None = None) -> _Records:
    """The records of a JSONL (.jsonl, .json), CSV or parquet file, each with its place.

    keys: of parquet files, in which they are columns, only these are read.
    problems: gets what is wrong with single lines, which are passed over; the caller tells it.
    Raises LocalprobeError for other kinds of file, bad lines, and a file without a record.
    """
    readers = {".jsonl": _jsonl, ".json": _jsonl, ".csv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise LocalprobeError(f"{path}: not one of {', '.join(readers)}")
    noted = contextlib.nullcontext if problems is None else problems.noted
    empty = True
    for place, record in reader(path, keys, noted):
        empty = False
        yield place, record
    if empty and not problems:
        raise LocalprobeError(f"{path} holds no examples")


def _jsonl(path: Path, _keys: Sequence[str], noted: _Noted) -> _Records:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place, record = f"{path}, line {number}", None
        with noted():
            record = _parse(line, place)
            if not isinstance(record, dict):
                raise LocalprobeError(f"{place}: not a JSON object")
        if isinstance(record, dict):
            yield place, record


def _csv(path: Path, _keys: Sequence[str], noted: _Noted) -> _Records:
    csv.field_size_limit(_LONGEST_FIELD)
    # Not by splitlines: a text may hold other separators, which are no ends of lines.
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for name in reader.fieldnames or ():
            if list(reader.fieldnames or ()).count(name) > 1:
                raise LocalprobeError(f"{path}, line 1: the column {name!r} is there twice")
        for record in reader:
            place = f"{path}, line {reader.line_num}"
            whole = None not in record and None not in record.values()
            with noted():
                if not whole:
                    raise LocalprobeError(f"{place}: not as many fields as there are columns")
            if whole:
                yield place, record
    except csv.Error as error:
        raise LocalprobeError(f"{path}, line {reader.line_num}: {error}") from None


def _parquet(path: Path, keys: Sequence[str], _noted: _Noted) -> _Records:
    if find_spec("pyarrow") is None:
        raise LocalprobeError(
            f"reading {path} needs pyarrow; run: pip install 'localprobe[parquet]'"
        )
    if not path.is_file():
        raise LocalprobeError(f"cannot read {path}: there is no such file")
    limits = {"longest": _LONGEST_FIELD, "most": _MOST_CHARACTERS}
    worker = workers.start("localprobe.tasks.parquet_worker")
    assert worker.stdin is not None
    assert worker.stdout is not None
    wrong = "the library that reads it broke down"
    try:
        with contextlib.suppress(OSError):  # if it died already, there is nothing to be read, too
            worker.stdin.write(json.dumps({"path": str(path), "keys": keys, **limits}) + "\n")
            worker.stdin.flush()
        for number, line in enumerate(worker.stdout, 1):
            if not line.endswith("\n"):
                break
            record = json.loads(line)
            if "end" in record:
                wrong = record["end"]
                break
            yield f"{path}, row {number}", record
    finally:
        workers.end(worker)
    if wrong:
        reason = printable(wrong, 200)
        raise LocalprobeError(f"{path} cannot be read as a parquet file: {reason}")


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, place))
    except json.JSONDecodeError as error:
        where = f"{place}, line {error.lineno}" if "line" not in place else place
        raise LocalprobeError(f"{where}: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError):
        raise LocalprobeError(
            f"{place}: not valid JSON: nested too deeply or a number too long"
        ) from None


def _object(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise LocalprobeError(f"{place}: the key {printable(repr(twice))} is there twice")
    return found
