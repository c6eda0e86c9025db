"""Named arrays in files that other programs read: .safetensors and .npz.

with Spool(path, plan) as spool:        # arrays as they come, beside the file
    spool.add("a", array, {...})
    spool.finish({"model": ...})        # now the file is there

read(path) -> arrays that are in memory only when they are looked at, and the metadata
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from localprobe.errors import LocalprobeError

SUFFIXES = (".safetensors", ".npz")
ABOUT = "about"
"""What an .npz holds the metadata in, as JSON."""

_NAMES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_MOST_HEADER = 1 << 27
_BLOCK = 1 << 22


class Spool:
    """Arrays on their way to a file: data in FILE.part, a line for each in FILE.part.jsonl.

    plan: what they are of. One that was left in the middle is gone on with where it has the same
    plan; `done` says how many arrays there are already. Raises LocalprobeError where it has another
    plan, or another process is at it.
    """

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise LocalprobeError(f"{path}: the file must be one of {', '.join(SUFFIXES)}")
        self._path = path
        self._data_path = path.with_name(path.name + ".part")
        self._index_path = path.with_name(path.name + ".part.jsonl")
        self._lock = FileLock(str(path) + ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise LocalprobeError(f"{path} is being written by another localprobe") from None
        try:
            self._entries = self._left(dict(plan))
            end = self._entries[-1]["end"] if self._entries else 0
            self._data: IO[bytes] = self._data_path.open("r+b" if end else "wb")
            self._data.truncate(end)
            self._data.seek(end)
            self._index = self._index_path.open("w", encoding="utf-8")
            for each in ({"plan": dict(plan)}, *self._entries):
                self._write_line(each)
        except BaseException:
            self._unlock()
            raise

    def _left(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """The arrays that were whole when it was left."""
        if not (self._index_path.exists() and self._data_path.exists()):
            return []
        size = self._data_path.stat().st_size
        entries: list[dict[str, Any]] = []
        lines = self._index_path.read_text("utf-8").split("\n")
        for number, line in enumerate(lines[:-1]):
            try:
                entry = json.loads(line)
                if number == 0 and entry["plan"] != json.loads(json.dumps(plan)):
                    raise LocalprobeError(
                        f"{self._data_path} is a part of something else (another model, other "
                        "prompts or options); delete it, or write to another file"
                    )
                if number and entry["end"] > size:
                    break
            except (ValueError, KeyError, TypeError):
                break  # cut in the middle
            if number:
                entries.append(entry)
        return entries

    @property
    def done(self) -> int:
        return len(self._entries)

    def add(self, name: str, array: NDArray[Any], about: Mapping[str, Any]) -> None:
        """Write one down. about: what `finish` gives as metadata of it."""
        self._data.write(np.ascontiguousarray(array).tobytes())
        self._data.flush()
        entry = {
            "name": name,
            "shape": list(array.shape),
            "dtype": array.dtype.str,
            "end": self._data.tell(),
            "about": dict(about),
        }
        self._entries.append(entry)
        self._write_line(entry)

    def _write_line(self, entry: Mapping[str, Any]) -> None:
        self._index.write(json.dumps(entry) + "\n")
        self._index.flush()

    def finish(self, about: Mapping[str, Any]) -> None:
        """Make the file of what was added. about: its metadata, beside what each was added with."""
        self._data.close()
        self._index.close()
        whole = {**about, "arrays": {each["name"]: each["about"] for each in self._entries}}
        ready = self._path.with_name(self._path.name + ".ready")
        try:
            with self._data_path.open("rb") as data, ready.open("wb") as out:
                if self._path.suffix.lower() == ".npz":
                    self._write_npz(data, out, whole)
                else:
                    self._write_safetensors(data, out, whole)
            ready.replace(self._path)
        except BaseException:
            ready.unlink(missing_ok=True)
            raise
        self._data_path.unlink()
        self._index_path.unlink()

    def _write_safetensors(self, data: IO[bytes], out: IO[bytes], about: Any) -> None:
        header: dict[str, Any] = {"__metadata__": {ABOUT: json.dumps(about)}}
        start = 0
        for each in self._entries:
            header[each["name"]] = {
                "dtype": _NAMES[np.dtype(each["dtype"])],
                "shape": each["shape"],
                "data_offsets": [start, each["end"]],
            }
            start = each["end"]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        _copy(data, out, start)

    def _write_npz(self, data: IO[bytes], out: IO[bytes], about: Any) -> None:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            start = 0
            for each in self._entries:
                with archive.open(each["name"] + ".npy", "w", force_zip64=True) as member:
                    head = {"descr": each["dtype"], "fortran_order": False}
                    head["shape"] = tuple(each["shape"])
                    np.lib.format.write_array_header_1_0(member, head)
                    _copy(data, member, each["end"] - start)
                start = each["end"]
            with archive.open(ABOUT + ".npy", "w") as member:
                np.lib.format.write_array(member, np.array(json.dumps(about)))

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._index.close()
        self._unlock()

    def _unlock(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0:
        block = source.read(min(size, _BLOCK))
        if not block:
            raise LocalprobeError("the data that was written down is gone")
        target.write(block)
        size -= len(block)


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file, read when they are asked for. about: its metadata, {} if none."""

    path: Path
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    about: Mapping[str, Any]
    _places: Mapping[str, tuple[str, int]]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """One of them, as float32."""
        dtype, start = self._places[name]
        if not dtype:
            with np.load(self.path, allow_pickle=False) as found:
                return np.asarray(found[name], np.float32)
        count = int(np.prod(self.shapes[name], dtype=np.int64))
        with self.path.open("rb") as file:
            file.seek(start)
            data = np.fromfile(file, dtype, count)
        return data.reshape(self.shapes[name]).astype(np.float32)


def read(path: Path) -> Arrays:
    """The arrays of an .npz or .safetensors file, which may be anybody's.

    Raises LocalprobeError where it is none, or damaged.
    """
    try:
        return _read_npz(path) if path.suffix.lower() == ".npz" else _read_safetensors(path)
    except OSError as error:
        raise LocalprobeError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, struct.error, zipfile.BadZipFile, RecursionError):
        raise LocalprobeError(f"{path} is damaged, or not what its name says") from None


def _read_safetensors(path: Path) -> Arrays:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if not 2 <= length <= min(_MOST_HEADER, size - 8):
            raise ValueError
        header = json.loads(file.read(length))
    about = _about(header.pop("__metadata__", {}).get(ABOUT, "{}"))
    shapes, places = dict[str, tuple[int, ...]](), dict[str, tuple[str, int]]()
    for name, each in header.items():
        shape, dtype = _shape(each["shape"]), _DTYPES.get(each["dtype"])
        start, end = (int(offset) for offset in each["data_offsets"])
        if dtype is None:
            continue  # of a type that numpy has not
        if end - start != np.dtype(dtype).itemsize * _count(shape) or not (
            0 <= start <= end <= size - 8 - length
        ):
            raise ValueError
        shapes[name], places[name] = shape, (dtype, 8 + length + start)
    return Arrays(path, tuple(shapes), shapes, about, places)


def _read_npz(path: Path) -> Arrays:
    about: Mapping[str, Any] = {}
    shapes = dict[str, tuple[int, ...]]()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                if version != (1, 0):
                    raise ValueError
                shape, _, dtype = np.lib.format.read_array_header_1_0(member)
            if info.file_size > max(1, dtype.itemsize) * _count(shape) + (1 << 16):
                raise ValueError
            if dtype.kind == "f":
                shapes[name] = shape
        if ABOUT + ".npy" in archive.namelist():
            if archive.getinfo(ABOUT + ".npy").file_size > _MOST_HEADER:
                raise ValueError
            with np.load(path, allow_pickle=False) as found:
                about = _about(str(found[ABOUT]))
    return Arrays(path, tuple(shapes), shapes, about, dict.fromkeys(shapes, ("", 0)))


def _about(text: Any) -> Mapping[str, Any]:
    about = json.loads(text)
    if not isinstance(about, dict):
        raise ValueError
    return about


def _shape(shape: Sequence[Any]) -> tuple[int, ...]:
    if len(shape) > 8 or not all(type(each) is int and 0 <= each < 1 << 48 for each in shape):
        raise ValueError
    return tuple(shape)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for each in shape:
        count *= each
    return count
