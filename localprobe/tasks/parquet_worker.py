"""Reads texts from a parquet file, in a process of its own: pyarrow aborts on some broken files.

Reads a line of JSON with the path, the columns, how long a text may be and how many characters
there may be in all; writes the records, a line each, and at the end {"end": …}, which says what
was wrong or nothing.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from localprobe.files.workers import bound

_ROWS_AT_ONCE = 1024  # each time with all texts of the row group so far
_TEXTS = ("string", "large_string", "string_view")
_SPARE_MEMORY = 1 << 30


class _RefusedError(Exception):
    """What is wrong, where it is not pyarrow that finds it."""


def _records(path: str, keys: Sequence[str], longest: int, most: int) -> Iterator[dict[str, Any]]:
    from pyarrow import compute, parquet, types

    metadata = parquet.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    there = [name for name in keys if name in schema.names]
    for name in there:
        kind = schema.field(name).type
        if str(kind.value_type if types.is_dictionary(kind) else kind) not in _TEXTS:
            raise _RefusedError(f"the column {name!r} does not hold texts")
    # As dictionaries: a text that is there a million times is in memory once. pyarrow cannot do
    # that with texts which are written as the difference to others.
    delta = {name for name, encodings in _encodings(metadata) if "DELTA" in encodings}
    packed = [name for name in there if name not in delta]
    size = 0
    with parquet.ParquetFile(path, metadata=metadata, read_dictionary=packed) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=there):
            for texts in batch.columns:
                values = getattr(texts, "dictionary", texts)
                length = compute.max(compute.binary_length(values)).as_py() or 0
                if length > longest:
                    raise _RefusedError(f"a text has {length} bytes, more than {longest}")
            for number in range(batch.num_rows):
                record = {name: batch.column(name)[number].as_py() for name in there}
                size += sum(len(text) for text in record.values() if text is not None)
                if size > most:
                    raise _RefusedError(f"its texts have more than {most} characters")
                yield record


def _encodings(metadata: Any) -> Iterator[tuple[str, str]]:
    """The columns of each row group, with how they are encoded."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            yield column.path_in_schema, " ".join(column.encodings)


def main() -> None:
    request = json.loads(sys.stdin.readline())
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some
        bound(DATA=4 * request["most"] + _SPARE_MEMORY, CORE=0)
    wrong = ""
    try:
        for record in _records(**request):
            print(json.dumps(record))
    except MemoryError:
        wrong = "it takes too much memory"
    except _RefusedError as error:
        wrong = str(error)
    except Exception as error:  # pyarrow raises many kinds, its own and Python's
        wrong = f"{type(error).__name__}: {error}"
    print(json.dumps({"end": wrong}), flush=True)
