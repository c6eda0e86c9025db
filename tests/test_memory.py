from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from localprobe.api import Model
from localprobe.cli import main
from localprobe.errors import LocalprobeError
from localprobe.memory import check_fits


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """memory(free, swap): so many bytes are left."""

    def set_to(free: float, swap: float) -> None:
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
        monkeypatch.setattr("psutil.swap_memory", lambda: SimpleNamespace(free=swap))

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
