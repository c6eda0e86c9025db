"""Workers: other machines, or processes, whose llama.cpp computes blocks for ours, by its RPC.

llama.cpp ends the whole process when a worker cannot be reached, is of another version or dies, and
waits for ever for one that is busy. So a worker is greeted first, by a socket of our own and within
bounds (`greet`), and only then given to llama.cpp. What happens later is seen by a `Lifeline`: the
process still ends, since nothing can be taken back from inside of llama.cpp, but with a sentence.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NoReturn

import llama_cpp

from localprobe.errors import LocalprobeError
from localprobe.files.foreign import printable
from localprobe.llama import backend, ggml
from localprobe.llama.devices import Device, device_at

LIBRARY = "LOCALPROBE_RPC_LIBRARY"
PATIENCE = "LOCALPROBE_RPC_TIMEOUT"
HOW_TO_GET_IT = backend.how_to_build("-DGGML_RPC=on")

_MAJOR, _MINOR = 7, 0
"""Of the protocol that the llama.cpp of backend.RANGE speaks. A test holds it to the library."""
_DEVICE_COUNT, _HELLO, _CAPABILITIES = 15, 14, 24
_REACHED_IN, _ANSWERED_IN, _SILENT_FOR = 5.0, 10.0, 300.0
_MOST_WORKERS = 16
_FAILED = 2

_ptr, _size, _text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
_ABORT = ctypes.CFUNCTYPE(None, _text)


# The library


def is_there() -> bool:
    """Whether this install of llama.cpp can use workers, and be one."""
    return _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    asked = os.environ.get(LIBRARY)
    folder = Path(llama_cpp.__file__).parent / "lib"
    names = ("libggml-rpc.so", "libggml-rpc.dylib", "ggml-rpc.dll")
    for path in [Path(asked)] if asked else [folder / name for name in names]:
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                raise LocalprobeError(f"cannot load {path}: {printable(str(error))}") from None
            if hasattr(library, "ggml_backend_rpc_add_server"):
                return library
    if asked:
        raise LocalprobeError(f"{LIBRARY} is {asked}, which is no library of llama.cpp's RPC")
    return None


def _needed() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise LocalprobeError(
            f"this llama-cpp-python was built without RPC; to get one with it: {HOW_TO_GET_IT}"
        )
    return library


# Addresses


def endpoints(text: str) -> tuple[str, ...]:
    """HOST:PORT,HOST:PORT,… apart. Raises LocalprobeError for anything else."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if text and not found:
        raise LocalprobeError("--rpc needs HOST:PORT, several with commas")
    for each in found:
        _parts(each)
        if found.count(each) > 1:
            raise LocalprobeError(f"the worker {each} was named twice")
    if len(found) > _MOST_WORKERS:
        raise LocalprobeError(f"llama.cpp uses {_MOST_WORKERS} workers at most, not {len(found)}")
    return found


def _parts(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise LocalprobeError(f"--rpc needs HOST:PORT, not {endpoint!r}")
    if ":" in host:
        raise LocalprobeError(f"llama.cpp's RPC has no IPv6: {endpoint!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def resolved(host: str) -> str:
    """The IPv4 address of a host, within bounds. Raises LocalprobeError where there is none."""
    found: list[str] = []

    def ask() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            found.append(socket.gethostbyname(host))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_REACHED_IN)
    if not found:
        raise LocalprobeError(f"no address of the host {host!r} could be found")
    return found[0]


# Greeting


def greet(endpoint: str) -> tuple[str, int]:
    """A worker's address in numbers, and how many devices it has, without llama.cpp.

    Takes seconds at most. Raises LocalprobeError, in a sentence, where it cannot be used.
    """
    host, port = _parts(endpoint)
    host = resolved(host)
    try:
        line = socket.create_connection((host, port), _REACHED_IN)
    except ConnectionRefusedError:
        raise LocalprobeError(
            f"no worker listens at {endpoint} (connection refused); there, run: localprobe worker"
        ) from None
    except OSError as error:
        raise LocalprobeError(
            f"the worker {endpoint} cannot be reached ({error.strerror or 'no answer'})"
        ) from None
    with line:
        line.settimeout(None)
        try:
            major, minor, patch = _ask(line, _HELLO, bytes(_CAPABILITIES), 4 + _CAPABILITIES)[:3]
            if major != _MAJOR or minor > _MINOR:
                raise LocalprobeError(
                    f"the worker {endpoint} speaks version {major}.{minor}.{patch} of llama.cpp's "
                    f"RPC, and this install {_MAJOR}.{_MINOR}: install the same llama-cpp-python "
                    "on both"
                )
            (count,) = struct.unpack("<I", _ask(line, _DEVICE_COUNT, b"", 4))
        except TimeoutError:
            raise LocalprobeError(
                f"the worker {endpoint} did not answer within {_ANSWERED_IN:.0f} s: it is busy (it "
                "serves one run at a time), or hangs"
            ) from None
        except (OSError, _NoAnswerError):
            raise LocalprobeError(
                f"what listens at {endpoint} is no worker, or one of another version of llama.cpp"
            ) from None
    if not 0 < count < 1 << 10:
        raise LocalprobeError(f"the worker {endpoint} has no devices to compute on")
    return f"{host}:{port}", count


class _NoAnswerError(Exception):
    """Not what a worker says."""


def _ask(line: socket.socket, command: int, question: bytes, size: int) -> bytes:
    """An answer of so many bytes. However slowly it drips in, it is waited for once."""
    until = time.monotonic() + _ANSWERED_IN
    line.settimeout(_ANSWERED_IN)
    line.sendall(struct.pack("<BQ", command, len(question)) + question)
    answer = b""
    while len(answer) < 8 + size:
        line.settimeout(max(0.001, until - time.monotonic()))
        part = line.recv(8 + size - len(answer))
        answer += part
        if not part or struct.pack("<Q", size)[: len(answer)] != answer[:8]:
            raise _NoAnswerError
    return answer[8:]


# Being served


class Workers:
    """Workers that are ours until they are closed; a worker serves one at a time.

    Raises LocalprobeError where one of them cannot be used, or this install has no RPC.
    """

    def __init__(self, workers: Sequence[str]) -> None:
        self.devices: list[Device] = []
        self._held: list[int] = []
        library = _needed() if workers else None
        greeted = [greet(worker) for worker in workers]
        self._lifeline = _Lifeline(workers)
        if library is None:
            return
        backend.start()
        add = library.ggml_backend_rpc_add_server
        add.restype, add.argtypes = _ptr, [_text]
        start = ggml.function("ggml_backend_dev_init", _ptr, _ptr, _text)
        get = ggml.function("ggml_backend_reg_dev_get", _ptr, _ptr, _size)
        with self.watched():
            for address, count in greeted:
                registry = add(address.encode())
                devices = [device_at(get(registry, number)) for number in range(count)]
                # A connection of our own, so that nobody else gets in between two of llama.cpp's.
                self._held.append(start(devices[0].address, None))
                for device in devices:
                    # llama.cpp goes on counting, for as long as the process lives.
                    self.devices.append(replace(device, name=f"RPC{len(self.devices)}"))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go, for others."""
        give_back = ggml.function("ggml_backend_free", None, _ptr)
        with self.watched():
            while self._held:
                give_back(self._held.pop())
        self._lifeline.close()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While llama.cpp may wait for a worker: a silence that is too long ends the process."""
        if not self._lifeline.workers:
            yield
            return
        with self._lifeline.watching():
            yield

    @property
    def tick(self) -> Callable[[], None] | None:
        """To be called when something moves; None where there are no workers to wait for."""
        return self._lifeline.tick if self._lifeline.workers else None


class _Lifeline:
    """Ends the process with a sentence when a worker died, or has been silent for too long."""

    def __init__(self, workers: Sequence[str]) -> None:
        self.workers = tuple(workers)
        self._last = 0.0
        self._depth = 0
        self._closed = threading.Event()
        if workers:
            patience = _patience()
            _open_lifelines.append(self)
            _listen_for_aborts()
            threading.Thread(target=self._watch, args=(patience,), daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        if self in _open_lifelines:
            _open_lifelines.remove(self)

    def tick(self) -> None:
        self._last = time.monotonic()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.tick()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def _watch(self, patience: float) -> None:
        while not self._closed.wait(min(1.0, patience / 4)):
            if self._depth and time.monotonic() - self._last > patience:
                _end(
                    f"{_named(self.workers)} did nothing for {patience:.0f} s and may hang; "
                    f"what was written stays: run it again to go on from there ({PATIENCE} is how "
                    "many seconds a worker may be silent)"
                )


_open_lifelines: list[_Lifeline] = []


def _patience() -> float:
    asked = os.environ.get(PATIENCE, "")
    try:
        seconds = float(asked or _SILENT_FOR)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise LocalprobeError(f"{PATIENCE} must be a number of seconds, not {printable(asked)!r}")
    return seconds


@cache
def _listen_for_aborts() -> None:
    ggml.function("ggml_set_abort_callback", _ptr, _ABORT)(_abort_callback)


def _aborting(message: bytes) -> None:
    """Called by llama.cpp in whatever thread it gives up in, right before it ends the process."""
    text = message.decode(errors="replace")
    if _open_lifelines and "rpc" in text.lower():
        workers = [worker for line in _open_lifelines for worker in line.workers]
        gone = [worker for worker in workers if not _can_be_reached(worker)]
        _end(
            f"{_named(gone or workers)} died, or went out of reach, in the middle of the work; "
            "what was written stays: run it again to go on from there"
        )
    print(printable(text), file=sys.stderr, flush=True)


_abort_callback = _ABORT(_aborting)


def _named(workers: Sequence[str]) -> str:
    return f"the worker {workers[0]}" if len(workers) == 1 else f"one of {', '.join(workers)}"


def _can_be_reached(worker: str) -> bool:
    try:
        socket.create_connection(_parts(worker), 1).close()
    except OSError:
        return False
    return True


def _end(sentence: str) -> NoReturn:
    """Say it and end, from any thread: the main one waits in llama.cpp, and will for ever."""
    # Should someone hold what is to be flushed, it is not waited for.
    last = threading.Timer(3, os._exit, (_FAILED,))
    last.daemon = True
    last.start()
    with contextlib.suppress(Exception):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h\n")  # a live table hides the cursor
        sys.stdout.flush()
    with contextlib.suppress(Exception):
        print(f"localprobe: {sentence}", file=sys.stderr, flush=True)
    os._exit(_FAILED)


# Serving


def serve(host: str, port: int, devices: Sequence[Device], threads: int) -> None:
    """Be a worker, until the process is ended. host: an IPv4 address.

    Raises LocalprobeError where this install has no RPC, or the address cannot be listened at.
    """
    start = _needed().ggml_backend_rpc_start_server
    start.restype, start.argtypes = None, [_text, _text, _size, _size, ctypes.POINTER(_ptr)]
    addresses = (_ptr * len(devices))(*(device.address for device in devices))
    start(f"{host}:{port}".encode(), None, threads, len(devices), addresses)
    raise LocalprobeError(f"llama.cpp could not serve at {host}:{port}")


def free_port(host: str, port: int) -> int:
    """The port, or for 0 one that is free. Raises LocalprobeError where it cannot be had."""
    _needed()
    with socket.socket() as line:
        if os.name == "posix":
            line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            line.bind((host, port))
            return int(line.getsockname()[1])
        except OSError as error:
            raise LocalprobeError(
                f"cannot listen at {host}:{port}: {error.strerror or error}"
            ) from None
