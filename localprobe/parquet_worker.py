"""Reads texts from a parquet file, in a process of its own: pyarrow aborts on some broken files.

Reads a line of JSON with the path, the columns, how long a text may be and how many characters
there may be in all; writes the records, a line each, and at the end {"end": …}, which says what
was wrong or nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from localprobe.workers import bound_memory

_ROWS_AT_ONCE = 16
_TEXTS = ("string", "large_string", "string_view")
_SPARE_MEMORY = 1 << 30


class _RefusedError(Exception):
    """What is wrong, where it is not pyarrow that finds it."""


def _records(path: str, keys: Sequence[str], longest: int, most: int) -> Iterator[dict[str, Any]]:
    from pyarrow import compute, parquet

    schema = parquet.read_schema(path)
    there = [name for name in keys if name in schema.names]
    for name in there:
        if str(schema.field(name).type) not in _TEXTS:
            raise _RefusedError(f"the column {name!r} does not hold texts")
    size = 0
    # As dictionaries: a text that is there a million times is in memory once.
    with parquet.ParquetFile(path, read_dictionary=there) as file:
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=there):
            for texts in batch.columns:
                length = compute.max(compute.binary_length(texts.dictionary)).as_py() or 0
                if length > longest:
                    raise _RefusedError(f"a text has {length} bytes, more than {longest}")
            for record in batch.to_pylist():
                size += sum(len(text) for text in record.values() if text is not None)
                if size > most:
                    raise _RefusedError(f"its texts have more than {most} characters")
                yield record


def main() -> None:
    request = json.loads(sys.stdin.readline())
    bound_memory(4 * request["most"] + _SPARE_MEMORY)
    wrong = ""
    try:
        for record in _records(**request):
            print(json.dumps(record), flush=True)
    except MemoryError:
        wrong = "it takes too much memory"
    except _RefusedError as error:
        wrong = str(error)
    except Exception as error:  # pyarrow raises many kinds, its own and Python's
        wrong = f"{type(error).__name__}: {error}"
    print(json.dumps({"end": wrong}), flush=True)
