"""Folders on this machine, and what is remembered between runs: hashes and self-checks.

The cache folder is that of the operating system, or LOCALPROBE_CACHE. Everything in it can be
deleted at any time; it is made again when it is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from localprobe.errors import LocalprobeError

_BLOCK = 1 << 20


def cache_dir() -> Path:
    chosen = os.environ.get("LOCALPROBE_CACHE")
    return user_path(chosen) if chosen else _own_folder(platformdirs.user_cache_path)


def user_path(text: str) -> Path:
    """An absolute path from what a user wrote, ~ included. Raises LocalprobeError for ~nobody."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise LocalprobeError(f"there is no such user's folder: {text}") from None


def config_dir() -> Path:
    return _own_folder(platformdirs.user_config_path)


def _own_folder(place: Callable[[str], Path]) -> Path:
    try:
        return place("localprobe")
    except RuntimeError:  # as in a container whose user is only a number
        raise LocalprobeError("nothing says where your home folder is; set HOME") from None


def sha256_of(path: Path, progress: Callable[[int], object] = lambda _n: None) -> str:
    """SHA-256 of a file, remembered as long as the file is the same and was not touched."""
    path = path.resolve()
    state = _state(path)
    known = known_sha256(path)
    if known is not None:
        return known
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
            progress(len(block))
    _Memo("hashes.json").put(str(path), {"state": state, "sha256": found.hexdigest()})
    return found.hexdigest()


def known_sha256(path: Path) -> str | None:
    """What is remembered of a file's SHA-256, if it was not touched since."""
    path = path.resolve()
    known = _Memo("hashes.json").get(str(path))
    if isinstance(known, dict) and known.get("state") == _state(path):
        digest = known.get("sha256")
        if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
            return digest
    return None


def _state(path: Path) -> list[int]:
    stat = path.stat()
    # The time of the content's change can be set (cp -p, tar), that of the inode's cannot.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def remembered_of_machine(what: str, check: Callable[[], str]) -> str:
    """What a check of this processor found, remembered for it and for what it was checked with."""
    return remembered_of_file(this_machine(), what, check)


def this_machine() -> str:
    """What this processor is remembered by."""
    return f"{platform.machine()} {_processor()}"


def remembered_of_file(digest: str, what: str, check: Callable[[], str]) -> str:
    """What a check of a file found, remembered for the file and for what it was checked with."""
    known = _Memo("checks.json").get(f"{digest} {what}, {_versions()}")
    if not isinstance(known, str):
        known = check()
        remember_of_file(digest, what, known)
    return known


def remember_of_file(digest: str, what: str, found: str) -> None:
    """What a check of a file found, whatever was remembered of it before."""
    _Memo("checks.json").put(f"{digest} {what}, {_versions()}", found)


def remembered_of_place(path: Path, what: str, find: Callable[[], str]) -> str:
    """What was found in a file, remembered as long as it was not touched."""
    path = path.resolve()
    memo, key, state = _Memo("files.json"), f"{what} {path}, {_versions()}", _state(path)
    known = memo.get(key)
    if isinstance(known, dict) and known.get("state") == state:
        found = known.get("found")
        if isinstance(found, str):
            return found
    found = find()
    memo.put(key, {"state": state, "found": found})
    return found


def known_of_file(digest: str, beginning: str) -> list[str]:
    """What the checks whose names begin so found of a file, with the versions of now."""
    return [
        found
        for key, found in _Memo("checks.json").all().items()
        if key.startswith(f"{digest} {beginning}") and key.endswith(f", {_versions()}")
    ]


def _versions() -> str:
    from importlib.metadata import version  # which takes longer to load than --help has

    return f"localprobe {version('localprobe')}, llama-cpp-python {version('llama-cpp-python')}"


def _processor() -> str:
    """What it can do, where the system says so in a file; a home folder may serve many machines."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features")
    lines = {line for line in told.splitlines() if line.startswith(wanted)}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def forget_file(path: Path, digest: str) -> None:
    """Forget the hash of a file, and what checks found of what has this SHA-256."""
    place = str(path.resolve())
    _Memo("hashes.json").drop(lambda key: key == place)
    if digest:
        _Memo("checks.json").drop(lambda key: key.startswith(f"{digest} "))


class _Memo:
    """A small JSON object on disk. A lost or broken one is only an empty one."""

    def __init__(self, name: str) -> None:
        self._path = cache_dir() / name

    def get(self, key: str) -> Any:
        return self.all().get(key)

    def put(self, key: str, value: object) -> None:
        # A cache that cannot be written makes the next run slower, not wrong.
        with contextlib.suppress(OSError):
            write_atomically(self._path, json.dumps({**self.all(), key: value}, indent=1))

    def drop(self, unwanted: Callable[[str], bool]) -> None:
        known = self.all()
        kept = {key: value for key, value in known.items() if not unwanted(key)}
        if len(kept) < len(known):
            with contextlib.suppress(OSError):
                write_atomically(self._path, json.dumps(kept, indent=1))

    def all(self) -> dict[str, Any]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: str | bytes) -> None:
    """The whole file or none of it, also when the process is killed meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        # Half a surrogate pair, as in names of files that are no text, is \\u… in JSON, too.
        data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp's files are the owner's alone; what is written here is as open as others.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
