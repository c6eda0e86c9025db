"""Workers: greeted within bounds, and given to llama.cpp only then."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.workers import Worker

from localprobe.errors import LocalprobeError
from localprobe.llama import rpc
from localprobe.llama.devices import RPC, Placement
from localprobe.llama.model import Model


def hello(major: int, minor: int) -> bytes:
    return struct.pack("<QBBBB", 28, major, minor, 0, 0) + bytes(24)


ONE_DEVICE = struct.pack("<QI", 4, 1)


@contextmanager
def pretender(*answers: bytes, drip: float = 0.0) -> Iterator[str]:
    """Something on loopback that gives an answer to each question; with none left, none."""
    over = threading.Event()
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()

        def serve() -> None:
            line, _ = door.accept()
            with line:
                for answer in answers:
                    line.recv(100)
                    for byte in struct.unpack(f"{len(answer)}c", answer) if drip else [answer]:
                        line.sendall(byte)
                        if over.wait(drip):
                            return
                    if not answer:
                        return
                over.wait(20)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        try:
            yield f"127.0.0.1:{door.getsockname()[1]}"
        finally:
            over.set()
            serving.join(20)


def free_address() -> str:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{line.getsockname()[1]}"


def test_greeting_a_worker() -> None:
    with pretender(hello(7, 0), struct.pack("<QI", 4, 3)) as address:
        assert rpc.greet(address) == (address, 3)
    with pretender(hello(7, 0), ONE_DEVICE) as address:
        assert rpc.greet(address.replace("127.0.0.1", "localhost")) == (address, 1)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ((hello(6, 0),), "speaks version 6.0.0 of llama.cpp's RPC, and this install 7.0"),
        ((hello(7, 1),), "speaks version 7.1.0"),
        ((hello(8, 0),), "speaks version 8.0.0"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(50),), "no worker, or one of another"),
        ((b"",), "no worker, or one of another version"),
        ((hello(7, 0)[:20], b""), "did not answer|no worker"),
        ((hello(7, 0), struct.pack("<QI", 4, 0)), "no devices"),
        ((hello(7, 0), struct.pack("<QI", 4, 1 << 20)), "no devices"),
        ((), "did not answer within .* busy"),
        ((hello(7, 0),), "did not answer within .* busy"),
    ],
)
def test_what_is_no_worker_of_ours(
    answers: tuple[bytes, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "_ANSWERED_IN", 0.3)
    with pretender(*answers) as address, pytest.raises(LocalprobeError, match=reason) as caught:
        rpc.greet(address)
    assert address in str(caught.value) and "\n" not in str(caught.value)


def test_an_answer_that_drips_in_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_ANSWERED_IN", 0.3)
    with (
        pretender(hello(7, 0), ONE_DEVICE, drip=0.1) as address,
        pytest.raises(LocalprobeError, match="did not answer"),
    ):
        rpc.greet(address)


def test_nobody_there() -> None:
    with pytest.raises(LocalprobeError, match=r"refused.*localprobe worker"):
        rpc.greet(free_address())


def test_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_host: str) -> str:
        raise socket.gaierror

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(LocalprobeError, match=r"'nowhere\.invalid'"):
        rpc.greet("nowhere.invalid:1")


def test_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(rpc, "_REACHED_IN", 0.1)
    monkeypatch.setattr(socket, "gethostbyname", lambda _host: over.wait(20))
    with pytest.raises(LocalprobeError, match="no address of the host 'far'"):
        rpc.greet("far:1")
    over.set()


@pytest.mark.parametrize(
    "text", ["here", "here:", ":1", "here:0", "here:65536", "here:x", "::1:50052", "a:1,a:1", ","]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(LocalprobeError):
        rpc.endpoints(text)


def test_addresses() -> None:
    assert rpc.endpoints("") == ()
    assert rpc.endpoints("a:1, b:2") == ("a:1", "b:2")
    with pytest.raises(LocalprobeError, match="16 workers"):
        rpc.endpoints(",".join(f"a:{port}" for port in range(1, 18)))


def test_loopback_is_told_from_others() -> None:
    assert rpc.is_loopback("127.0.0.1") and rpc.is_loopback("127.1.2.3")
    assert not rpc.is_loopback("0.0.0.0") and not rpc.is_loopback("192.168.1.7")


def test_an_install_without_rpc_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_library", lambda: None)
    with pytest.raises(LocalprobeError, match="without RPC; to get one with it: CMAKE_ARGS"):
        rpc.Workers(["127.0.0.1:1"])
    with pytest.raises(LocalprobeError, match="without RPC"):
        rpc.free_port("127.0.0.1", 0)
    rpc.Workers(()).close()


def test_a_library_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "libggml-rpc.so"
    file.write_bytes(b"no library")
    monkeypatch.setenv(rpc.LIBRARY, str(file))
    with pytest.raises(LocalprobeError, match="cannot load"):
        rpc._library.__wrapped__()
    monkeypatch.setenv(rpc.LIBRARY, str(tmp_path / "nothing"))
    with pytest.raises(LocalprobeError, match="is no library"):
        rpc._library.__wrapped__()


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_patience_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rpc.PATIENCE, text)
    with pytest.raises(LocalprobeError, match=rpc.PATIENCE):
        rpc._patience()


def test_the_version_is_that_of_the_library(two_workers: tuple[Worker, Worker]) -> None:
    """A worker speaks what we hold to be our own version: both are this llama.cpp."""
    host, port = two_workers[0].address.split(":")
    with socket.create_connection((host, int(port)), 5) as line:
        answer = rpc._ask(line, rpc._HELLO, bytes(24), 28)
    assert tuple(answer[:2]) == (rpc._MAJOR, rpc._MINOR)


def test_workers_are_held_until_they_are_closed(
    two_workers: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [worker.address for worker in two_workers]
    with rpc.Workers(addresses) as workers:
        assert [device.description for device in workers.devices] == addresses
        assert {device.backend for device in workers.devices} == {RPC}
        assert all(device.usable and device.memory()[1] > 0 for device in workers.devices)
        monkeypatch.setattr(rpc, "_ANSWERED_IN", 0.3)
        with pytest.raises(LocalprobeError, match="busy"):
            rpc.greet(addresses[0])
        monkeypatch.undo()
    assert rpc.greet(addresses[0]) == (addresses[0], 1)


def test_where_blocks_are_is_where_llama_cpp_puts_them(
    two_workers: tuple[Worker, Worker],
    tiny_file: Callable[[str], Path],
) -> None:
    """Our account of a placement, held to what llama.cpp says while it loads."""
    code = (
        "import sys, ctypes, llama_cpp.llama_cpp as llama\n"
        "from pathlib import Path\n"
        "from localprobe.llama import backend\n"
        "from localprobe.llama.devices import Placement\n"
        "from localprobe.llama.model import Model\n"
        "from localprobe.llama.rpc import Workers\n"
        "backend.start()\n"
        "lines = []\n"
        "keep = llama.llama_log_callback(lambda level, text, _: lines.append(text.decode()))\n"
        "llama.llama_log_set(keep, None)\n"
        "with Workers(sys.argv[2].split(',')) as workers:\n"
        "    shares = tuple(zip(workers.devices, (2, 2)))\n"
        "    with Model(Path(sys.argv[1]), placement=Placement(4, shares), workers=workers):\n"
        "        for line in lines:\n"
        "            if 'assigned to device' in line:\n"
        "                print(line.split('device ')[1].split(',')[0])\n"
    )
    addresses = ",".join(worker.address for worker in two_workers)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_file("llama")), addresses],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # Blocks 0 … 3, and the output.
    assert done.stdout.split() == ["CPU", "RPC0", "RPC0", "RPC1", "RPC1"]


def test_what_is_written_down_of_a_placement(
    two_workers: tuple[Worker, Worker], tiny_file: Callable[[str], Path]
) -> None:
    addresses = [worker.address for worker in two_workers]
    with rpc.Workers(addresses) as workers:
        placement = Placement(4, tuple(zip(workers.devices, (2, 1), strict=True)))
        with Model(tiny_file("llama"), placement=placement, workers=workers) as model:
            first, second = (device.name for device in workers.devices)
            assert str(model.placement) == f"2 CPU + 2 {first} + output {second}"
            # Where workers are is no matter to a run, which goes on with others; to checks it is.
            assert addresses[0] not in model.devices and "(RPC)" in model.devices
            assert all(address in model.checked_on for address in addresses)
            assert model.checked_on.startswith(model.devices) and "build " in model.checked_on
