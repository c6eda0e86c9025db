"""A worker that dies, or hangs, in the middle of a sweep: a sentence, exit 2, and it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.workers import Worker

from localprobe.llama import rpc

SWEEP = ("sweep", "--all-examples", "-n", "8", "--patch", "random,freeze", "--layers", "1:")
SECONDS = 60


@pytest.fixture
def two(rpc_library: None) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        started += [Worker()]
        started += [Worker()]
        yield started
    finally:
        for worker in started:
            worker.kill()


def start(model: Path, out: Path, *more: str, patience: str = "300") -> subprocess.Popen[str]:
    arguments = [*SWEEP, "-m", str(model), "--threads", "1", "--out", str(out), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "localprobe", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, rpc.PATIENCE: patience},
    )


def over(workers: list[Worker]) -> tuple[str, ...]:
    return "--rpc", ",".join(worker.address for worker in workers), "--gpu-layers", "4"


def ended(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = child.communicate(timeout=SECONDS)
    return child.returncode, said


def wait_for_rows(child: subprocess.Popen[str], out: Path) -> None:
    rows = out / "rows.jsonl"
    until = time.monotonic() + SECONDS
    while not (rows.is_file() and rows.stat().st_size):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("by", ["SIGKILL", "SIGSTOP"])
def test_a_sweep_goes_on_after_a_worker_is_gone(
    by: str, two: list[Worker], tiny_file: Callable[[str], Path], tmp_path: Path
) -> None:
    model, out, whole = tiny_file("llama"), tmp_path / "out", tmp_path / "whole"
    patience = "300" if by == "SIGKILL" else "3"
    child = start(model, out, *over(two), patience=patience)
    try:
        wait_for_rows(child, out)
        two[1].process.send_signal(getattr(signal, by))
        code, said = ended(child)
    finally:
        child.kill()
    assert code == 2, said
    last = said.splitlines()[-1]
    assert last.startswith("localprobe: ") and "what was written stays" in last
    assert two[1].address in last
    assert ("died" if by == "SIGKILL" else "did nothing for 3 s") in last
    assert "Traceback" not in said
    if by == "SIGSTOP":
        return
    written = (out / "rows.jsonl").read_bytes()

    # Another worker, at another address, takes its place.
    two.pop().kill()
    two.append(Worker())
    assert ended(start(model, out, *over(two)))[0] == 0
    assert ended(start(model, whole))[0] == 0
    rows = (out / "rows.jsonl").read_bytes()
    assert 0 < written.count(b"\n") < rows.count(b"\n")
    assert rows.startswith(written[: written.rindex(b"\n") + 1])
    assert rows == (whole / "rows.jsonl").read_bytes()
