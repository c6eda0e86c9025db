from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from localprobe.api import Model
from localprobe.cli.app import main
from localprobe.errors import LocalprobeError
from localprobe.llama.memory import allowed_memory, check_fits


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """memory(free, swap): so many bytes are left."""

    def set_to(free: float, swap: float) -> None:
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
        monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=swap))
        monkeypatch.setattr("localprobe.llama.memory.allowed_memory", lambda: math.inf)

    return set_to


def test_fits_swaps_or_does_not(memory: Callable[[float, float], None]) -> None:
    memory(4e9, 2e9)
    assert check_fits(3e9, "it", "go") == ""
    assert "will swap" in check_fits(5e9, "it", "go")
    with pytest.raises(LocalprobeError, match=r"it needs about 7.0 GB of memory, and 3.8 GB are"):
        check_fits(7e9, "it", "go")


def test_a_model_that_is_too_large_is_refused_with_figures(
    memory: Callable[[float, float], None],
    tiny_file: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tiny_file("llama")
    memory(200e6 + path.stat().st_size // 2, 0)
    assert main(["probe", "one two", "-m", str(path)]) == 2
    assert "of memory, and 0.0 GB are free; take a smaller one" in capsys.readouterr().err
    memory(200e6 + path.stat().st_size // 2, 1e9)
    told: list[str] = []
    with Model(path, threads=1, warn=told.append):
        assert "will swap" in told[0]


def test_a_context_that_is_too_large_is_refused(
    memory: Callable[[float, float], None], tiny_file: Callable[[str], Path]
) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        inner = model.loaded.model
        inner.reserve(16)
        memory(200e6 + 1000, 0)
        with pytest.raises(LocalprobeError, match="a context of 1024 tokens needs about"):
            inner.reserve(900)


GB = 1 << 30


def group(folder: Path, limit: str, usage: int, stat: str, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = (limit, str(usage), stat)
    for name, text in zip((*names, "memory.stat"), texts, strict=True):
        (folder / name).write_text(text + "\n", encoding="utf-8")


def test_the_limits_of_containers_and_batch_jobs(tmp_path: Path) -> None:
    assert allowed_memory(tmp_path) == math.inf
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n", encoding="utf-8")
    assert allowed_memory(tmp_path) == math.inf
    new = ("memory.max", "memory.current")
    top = tmp_path / "sys/fs/cgroup"
    group(top / "a/b", "max", 0, "inactive_file 0", *new)
    assert allowed_memory(tmp_path) == math.inf
    group(top / "a", str(8 * GB), 6 * GB, f"active_file {GB}\ninactive_file {GB}", *new)
    assert allowed_memory(tmp_path) == 4 * GB
    # The first version of control groups, as older batch systems have it.
    text = "4:cpu,memory:/job\n1:name=systemd:/x\n0::/a/b\n"
    (tmp_path / "proc/self/cgroup").write_text(text, encoding="utf-8")
    old = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(top / "memory/job", str(3 * GB), 2 * GB, f"total_inactive_file {GB // 2}", *old)
    assert allowed_memory(tmp_path) == GB + GB // 2
    # Inside a container its own path is not there: what counts is at the top.
    (tmp_path / "proc/self/cgroup").write_text("0::/docker/123\n", encoding="utf-8")
    group(top, str(2 * GB), GB, "inactive_file 0", *new)
    assert allowed_memory(tmp_path) == GB


def test_a_group_with_less_than_the_machine_has(
    memory: Callable[[float, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(8e9, 8e9)
    monkeypatch.setattr("localprobe.llama.memory.allowed_memory", lambda: 1.2e9)
    assert check_fits(0.9e9, "it", "go") == ""
    with pytest.raises(LocalprobeError, match=r"about 1.1 GB of memory, and 1.0 GB are free"):
        check_fits(1.1e9, "it", "go")
