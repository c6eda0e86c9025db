"""llama.cpp's RPC without a build that has it, and workers on loopback that end with the tests.

python tests/helpers/workers.py       compiles the library and prints where it lies

Two source files of the installed llama-cpp-python's source distribution, compiled in seconds
against the libggml-base that is installed. LOCALPROBE_RPC_LIBRARY names the result to localprobe.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import llama_cpp
from filelock import FileLock

from localprobe.files.cache import cache_dir
from localprobe.llama import rpc

_FOLDER = "vendor/llama.cpp/ggml"
_HEADERS = (f"{_FOLDER}/include/", f"{_FOLDER}/src/ggml-rpc/")


class CannotBuildError(Exception):
    """Why there is no library."""


def library() -> Path | None:
    """Compiled once a build of llama.cpp; None where the install has RPC by itself.

    Raises CannotBuildError where there is no compiler, or no source.
    """
    if os.environ.get(rpc.LIBRARY):
        return Path(os.environ[rpc.LIBRARY])
    if rpc.is_there():
        return None
    base = _installed_base()
    build = hashlib.sha256(base.read_bytes()).hexdigest()[:16]
    found = cache_dir() / "tests" / f"ggml-rpc-{build}{base.suffix}"
    found.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may run tests at once.
    with FileLock(found.with_suffix(".lock")):
        if not found.is_file():
            with tempfile.TemporaryDirectory() as folder:
                made = _compile(_source(Path(folder)), base, Path(folder) / f"library{base.suffix}")
                part = found.with_suffix(".part")
                shutil.copyfile(made, part)
                part.replace(found)
    return found


def _installed_base() -> Path:
    folder = Path(llama_cpp.__file__).parent / "lib"
    for name in ("libggml-base.so", "libggml-base.dylib"):
        if (folder / name).is_file():
            return folder / name
    raise CannotBuildError(f"there is no libggml-base that can be linked against in {folder}")


def _source(folder: Path) -> Path:
    """llama.cpp's ggml as llama-cpp-python has it, of its headers and of RPC what is needed."""
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    asked = [sys.executable, "-m", "pip", "download", wanted, "--no-deps", "-d", str(folder)]
    got = subprocess.run(
        [*asked, "--no-binary", "llama-cpp-python"], capture_output=True, text=True, timeout=600
    )
    archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
    if got.returncode or len(archives) != 1:
        raise CannotBuildError(f"no source of {wanted}: {got.stderr.strip()[-300:]}")
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            path = member.name.partition("/")[2]
            header = path.startswith(f"{_FOLDER}/src/") and path.endswith(".h")
            if member.isfile() and (header or path.startswith(_HEADERS)):
                file = archive.extractfile(member)
                assert file is not None
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(file.read())
    return folder / _FOLDER


def _compile(ggml: Path, base: Path, made: Path) -> Path:
    compilers = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((name for name in compilers if name and shutil.which(name)), None)
    if compiler is None:
        raise CannotBuildError("there is no C++ compiler")
    defined = [f"-D{name}" for name in ("GGML_BACKEND_SHARED", "GGML_BACKEND_BUILD", "GGML_SHARED")]
    sources = [str(ggml / "src" / "ggml-rpc" / name) for name in ("ggml-rpc.cpp", "transport.cpp")]
    done = subprocess.run(
        [
            *(compiler, "-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", *defined),
            *(f"-I{ggml / 'include'}", f"-I{ggml / 'src'}", *sources, "-o", str(made)),
            # Found by its name among what the process has loaded already.
            *(f"-L{base.parent}", "-lggml-base"),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise CannotBuildError(f"{compiler} failed on {platform.platform()}: {done.stderr[-300:]}")
    return made


class Worker:
    """`localprobe worker` at a free port of 127.0.0.1. It ends with whoever started it."""

    # Its standard input is a pipe of ours: it is closed when we end, however that comes about.
    _CODE = (
        "import os, sys, threading\n"
        "def end():\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "threading.Thread(target=end, daemon=True).start()\n"
        "from localprobe.cli.app import main\n"
        "sys.exit(main(['worker', '--port', sys.argv[1], '--threads', '1']))\n"
    )

    def __init__(self, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        assert "a worker at 127.0.0.1:" in said, said + self.process.stderr.read()
        self.address = said.partition("at ")[2].partition(",")[0]
        for _ in range(100):
            try:
                rpc.greet(self.address)
            except rpc.LocalprobeError:
                continue
            return
        raise AssertionError(f"the worker at {self.address} does not answer")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stderr):
            if pipe is not None:
                pipe.close()


if __name__ == "__main__":
    print(library() or "this install has RPC by itself")
