"""A run's folder while it is written: manifest.json says what is run, rows.jsonl what was found.

Rows are appended example by example, each example whole, in the task's order. So what a killed
run leaves behind is the beginning of what it would have written, and it can go on from there.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO

from filelock import BaseFileLock, FileLock, Timeout

from localprobe.errors import LocalprobeError
from localprobe.files.foreign import printable
from localprobe.runs.adaptive import Spending
from localprobe.runs.descent import next_cell
from localprobe.runs.growth import check_growth, first_to_redo
from localprobe.runs.manifest import (
    FORMAT,
    MANIFEST,
    Cell,
    Manifest,
    contradictions,
    differences,
    joint_noise,
    now,
    read_manifest,
    refuse_links,
    write_manifest,
)
from localprobe.runs.rows import CLEAN, Row, from_json, to_json

ROWS, LOCK = "rows.jsonl", ".lock"
_GO_ON = "what is written stays, and the same command goes on from there"
MERGED = f"{ROWS}.whole.part"
"""The rows of a merge, until its manifest is there, too."""
LONGEST_LINE = 1 << 26
_ROW_START = b'{"example":'


class RunFolder:
    """A folder that rows are written to as they come, and that can be gone on with.

    folder = RunFolder.open(path, manifest)   # folder.known: the rows that are there already
    for row in folder.written(rows): …        # all rows of the run, the known ones among them
    folder.end(tried=…, used=…)
    folder.close()
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        known: list[Row],
        file: IO[bytes],
        lock: BaseFileLock,
    ) -> None:
        self.path, self.manifest, self.known = path, manifest, known
        self._file, self._lock = file, lock
        self._course = _Course(manifest)
        self._course.took_all(known)
        self._n_rows = len(known)

    @classmethod
    def open(cls, path: Path, manifest: Manifest) -> RunFolder:
        """A new folder, or one of a run of the same kind, which goes on or has come to its end.

        One that was of fewer examples becomes one of so many.
        Raises LocalprobeError where the folder holds anything else, saying what differs.
        """
        lock = claim(path)
        try:
            with writing(path):
                return cls._open(path, manifest, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _open(cls, path: Path, manifest: Manifest, lock: BaseFileLock) -> RunFolder:
        known: list[Row] = []
        if (path / MANIFEST).exists():
            found = read_manifest(path)
            if found.data["format"] != FORMAT:
                by = printable(str(found.data["localprobe"]), 20)
                raise LocalprobeError(
                    f"{path} holds a run of localprobe {by}, whose rows say less than those of "
                    "this version: it can be shown, but not gone on with; choose another --out"
                )
            differing = differences(found, manifest, "experiment n")
            if differing:
                raise LocalprobeError(
                    f"{path} holds another run: {'; '.join(differing)}; choose another --out"
                )
            for key in contradictions(found, manifest):
                raise LocalprobeError(
                    f"{path / MANIFEST} is damaged: its {key} cannot be that of this experiment; "
                    "choose another --out"
                )
            if found.n != manifest.n:
                try:
                    check_growth(found, manifest.n)
                except LocalprobeError as error:
                    raise LocalprobeError(f"{path}: {error}") from None
                _grow(path, found, manifest.n)
            noise = joint_noise([found, manifest])
            if noise != found.noise and not found.data["ended"]:
                found.data["noise"] = noise
                write_manifest(path, found)
            manifest = found
            known, length = read_rows(path, manifest)
            truncate(path / ROWS, length)
        else:
            write_manifest(path, manifest)
        file = (path / ROWS).open("ab", buffering=0)
        return cls(path, manifest, known, file, lock)

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._lock.release()

    def written(self, rows: Iterable[Row | None]) -> Iterator[Row | None]:
        """Rows as they come; each example's are written once they are all there.

        Raises LocalprobeError where what is there is not the beginning of these rows.
        """
        known = deque(dict.fromkeys(row.example for row in self.known))
        have = set(known)
        order: deque[int] = deque()
        clean: dict[int, Row] = {}
        cells: dict[int, dict[Cell, Row]] = {}
        for row in rows:
            if row is not None and row.patch == CLEAN and known:
                if row.example != known[0]:
                    break
                known.popleft()
            if row is not None and row.example not in have:
                self._n_rows += 1
                if row.patch == CLEAN:
                    order.append(row.example)
                    clean[row.example], cells[row.example] = row, {}
                else:
                    assert row.layer is not None
                    cells[row.example][row.patch, row.layer] = row
                while order and self._is_whole(clean[order[0]], cells[order[0]]):
                    number = order.popleft()
                    self._write(clean.pop(number), cells.pop(number))
            yield row
        if known:
            raise LocalprobeError(
                f"{self.path / ROWS} is damaged: it holds example {known[0]} in a place where this "
                "run has another one; choose another --out"
            )

    def end(self, *, tried: int, used: int) -> None:
        """All rows are written: the manifest gets its end time, and how much there was of what."""
        if not self.manifest.data["ended"]:
            counts = {"rows": self._n_rows, "tried": tried, "used": used}
            self.manifest.data.update(ended=now(), counts=counts)
            with writing(self.path):
                write_manifest(self.path, self.manifest)

    def _is_whole(self, clean: Row, cells: dict[Cell, Row]) -> bool:
        return not clean.used or self._course.next(clean.example, cells) is None

    def _write(self, clean: Row, cells: dict[Cell, Row]) -> None:
        self._course.took(clean, cells)
        rows = [clean, *(cells[cell] for cell in self._course.cells if cell in cells)]
        lines = [(to_json(row) + "\n").encode(errors="backslashreplace") for row in rows]
        if max(map(len, lines)) >= LONGEST_LINE:
            raise LocalprobeError(
                f"an answer to example {clean.example} is too long to write; lower --max-tokens"
            )
        left = b"".join(lines)
        with writing(self.path):
            while left:
                left = left[self._file.write(left) :]


class _Course:
    """Which rows an example has, and in which order.

    It is told every example once it is whole: what the next one has may hang on those before.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.cells, self._descent = manifest.cells, manifest.descent
        self._metric = manifest.own_metric
        rule = manifest.adaptive
        self._spending = None if rule is None else Spending(rule, self.cells, self._metric)

    def next(self, example: int, have: Mapping[Cell, Row]) -> Cell | None:
        """The cell after those that there are, None where these are all."""
        if self._descent is not None:
            return next_cell(self.cells, have, self._descent, example, self._metric)
        cells = self.cells if self._spending is None else self._spending.cells
        return cells[len(have)] if len(have) < len(cells) else None

    def took(self, clean: Row, have: Mapping[Cell, Row]) -> None:
        """The next example is whole."""
        if self._spending is not None and clean.used:
            self._spending.took(have.values())

    def took_all(self, known: Iterable[Row]) -> None:
        """Rows of whole examples, one after another."""
        if self._spending is not None:
            for _, (clean, *rows) in groupby(known, lambda row: row.example):
                self.took(clean, {(row.patch, row.layer or 0): row for row in rows})


def claim(path: Path) -> BaseFileLock:
    """The lock of a folder that is there now, empty or with a run in it, for us alone to write to.

    Raises LocalprobeError where it holds anything else, or another process has it.
    """
    if path.exists() and not (path / MANIFEST).exists() and not is_ours(path):
        raise LocalprobeError(f"{path} is not empty and holds no run; choose another --out")
    lock = FileLock(path / LOCK)
    try:
        with writing(path, "choose another --out"):
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
    except Timeout:
        raise LocalprobeError(
            f"another process is writing to {path}; wait for it, or choose another --out"
        ) from None
    return lock


@contextmanager
def writing(path: Path, what_to_do: str = _GO_ON) -> Iterator[None]:
    """What goes wrong with a folder, in a sentence."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise LocalprobeError(f"cannot write to {path}: {reason}; {what_to_do}") from None


def _grow(path: Path, found: Manifest, n: int | None) -> None:
    """Make a run one of more examples, without the rows that would be others then.

    At every moment the folder is a run that can be gone on with: unfinished, then shorter, then
    of more examples.
    """
    found.data.update(ended=None, counts=None)
    write_manifest(path, found)
    reader = _read(path, found)
    redo = first_to_redo(found, reader.whole)
    length = reader.length if redo is None else reader.starts[redo]
    truncate(path / ROWS, length)
    found.data["experiment"]["n"] = n
    write_manifest(path, found)


def read_rows(path: Path, manifest: Manifest) -> tuple[list[Row], int]:
    """The rows of the whole examples at the beginning of the file, and its length up to there.

    What follows them is what was being written when the run was killed.
    Raises LocalprobeError where something is damaged before that.
    """
    reader = _read(path, manifest)
    return reader.whole, reader.length


def check_all_there(path: Path, manifest: Manifest, n_rows: int) -> None:
    """Raise LocalprobeError where a run that has ended holds another number of rows than then."""
    counts = manifest.data["counts"]
    if counts and n_rows != counts["rows"]:
        raise LocalprobeError(
            f"{path / ROWS} is damaged: it holds {n_rows} rows, and the run ended with "
            f"{counts['rows']}"
        )


class GrowingRows:
    """The rows of a run that may still be written, read as they come.

    growing = GrowingRows(path)
    growing.look()          # whether there is anything new
    growing.rows, growing.manifest
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self._reader = _Reader(self.manifest)

    @property
    def rows(self) -> list[Row]:
        """Of the examples that are whole."""
        return self._reader.whole

    def look(self) -> bool:
        """Read what was written since. Raises LocalprobeError where something is damaged."""
        manifest, before = read_manifest(self.path), self._reader.length
        file = self.path / ROWS
        size = file.stat().st_size if file.exists() else 0
        if manifest.cells != self.manifest.cells or size < before:
            # What is there now is another run, or one that was cut to go on with more examples.
            self._reader, before = _Reader(manifest), -1
        changed = manifest.data != self.manifest.data
        self.manifest = manifest
        _read(self.path, manifest, self._reader)
        return changed or self._reader.length != before


def _read(path: Path, manifest: Manifest, reader: _Reader | None = None) -> _Reader:
    """reader: one that has read a beginning, and goes on behind its last whole example."""
    file = path / ROWS
    refuse_links(file)
    reader = reader or _Reader(manifest)
    if not file.exists():
        return reader
    position = reader.go_back()
    try:
        with file.open("rb") as lines:
            lines.seek(position)
            number = len(reader.whole)
            while line := lines.readline(LONGEST_LINE):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) == LONGEST_LINE:
                        raise LocalprobeError(f"{file}, line {number}: damaged: it is too long")
                    # After a power cut, file systems may leave zeros behind what was written.
                    torn = line.rstrip(b"\0")
                    if not torn.startswith(_ROW_START[: len(torn)]):
                        raise LocalprobeError(f"{file}, line {number}: damaged: not a row")
                    break
                position += len(line)
                try:
                    reader.add(from_json(line.decode()), position)
                except ValueError as error:
                    reason = printable(str(error))
                    raise LocalprobeError(f"{file}, line {number}: damaged: {reason}") from None
    except OSError as error:
        raise LocalprobeError(f"cannot read {file}: {error.strerror}") from None
    return reader


class _Reader:
    """Takes rows as they come, each in its place or not at all.

    whole: the rows of whole examples. length: of the file up to their end. starts: where each of
    them begins.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.whole: list[Row] = []
        self.length = 0
        self.starts: dict[int, int] = {}
        self._course = _Course(manifest)
        self._clean_metrics = set(manifest.empty_tally().clean_metrics)
        self._metrics: dict[str, set[str]] = defaultdict(set)
        for column in manifest.columns:
            self._metrics[column.patch].add(column.metric)
        self._pending: list[Row] = []
        self._have: dict[Cell, Row] = {}
        self._next: Cell | None = None

    def go_back(self) -> int:
        """To behind the last whole example: that place in the file."""
        self._pending, self._have, self._next = [], {}, None
        return self.length

    def add(self, row: Row, position: int) -> None:
        """position: where the row ends. Raises ValueError where it cannot come next."""
        self._check(row)
        self._pending.append(row)
        clean = self._pending[0]
        if row.layer is not None:
            self._have[row.patch, row.layer] = row
        self._next = self._course.next(clean.example, self._have) if clean.used else None
        if self._next is None:
            self.whole += self._pending
            self._course.took(clean, self._have)
            self.starts[clean.example] = self.length
            self._pending, self._have, self.length = [], {}, position

    def _check(self, row: Row) -> None:
        if not self._pending:
            if row.patch != CLEAN:
                raise ValueError("an example must begin with its clean row")
            if self.whole and row.example <= self.whole[-1].example:
                raise ValueError(f"example {row.example} is out of its order")
        elif (row.example, (row.patch, row.layer)) != (self._pending[0].example, self._next):
            raise ValueError("the row does not follow the one before it")
        found = row.scores.keys()
        if row.not_finite:
            good = not found
        elif row.patch == CLEAN:
            good = found >= self._clean_metrics
        else:
            good = found == self._metrics[row.patch]
        if not good:
            raise ValueError(f"a row's scores cannot be {row.scores!r}")


def is_ours(path: Path) -> bool:
    """Whether a folder without a manifest can be taken: nothing is in it but what we left."""
    if not path.is_dir():
        return False
    names = {each.name for each in path.iterdir()} - {LOCK}
    if MERGED in names:
        names -= {MANIFEST}
    return all(name.startswith((MANIFEST, ROWS)) and name.endswith(".part") for name in names)


def truncate(file: Path, length: int) -> None:
    """Cut off what was being written when a run was killed."""
    if file.exists() and file.stat().st_size != length:
        with file.open("r+b") as opened:
            opened.truncate(length)
