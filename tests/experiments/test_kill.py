"""A short form of tests/kill.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kill import kill_test


def test_killed_and_gone_on_with(tiny_file: Callable[[str], Path], tmp_path: Path) -> None:
    assert kill_test(str(tiny_file("llama")), kills=2, examples=30, folder=tmp_path) == 0
