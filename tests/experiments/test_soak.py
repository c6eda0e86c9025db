"""A short form of tests/soak.py."""

from __future__ import annotations

from pathlib import Path

from soak import MOST_GROWTH, soak


def test_memory_and_files_stay_as_they_are(tmp_path: Path) -> None:
    n_rows, growth, files = soak(150, tmp_path)
    assert n_rows == 150 * 20
    assert growth < MOST_GROWTH
    assert files == 0
