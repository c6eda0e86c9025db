"""A run that is read while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import made_runs

from localprobe.errors import LocalprobeError
from localprobe.runs.folder import ROWS, GrowingRows, read_rows


def test_read_bit_by_bit_it_is_what_is_read_at_once(tmp_path: Path) -> None:
    """However many bytes have come: the whole examples, as `read_rows` has them."""
    run = tmp_path / "run"
    made_runs.write(run, n=3, n_layer=2, ended=False)
    whole = (run / ROWS).read_bytes()
    (run / ROWS).unlink()
    growing = GrowingRows(run)
    assert growing.look() is False and growing.rows == []
    seen = 0
    for length in [*range(0, len(whole), 97), len(whole)]:
        (run / ROWS).write_bytes(whole[:length])
        changed = growing.look()
        rows, _ = read_rows(run, growing.manifest)
        assert growing.rows == rows
        assert changed == (len(rows) > seen)
        seen = len(rows)
    assert seen == len(whole.splitlines())
    assert growing.look() is False


def test_one_that_was_cut_to_go_on_is_read_anew(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made_runs.write(run, n=3, n_layer=2, ended=False)
    growing = GrowingRows(run)
    growing.look()
    lines = (run / ROWS).read_bytes().splitlines(keepends=True)
    (run / ROWS).write_bytes(b"".join(lines[: len(lines) // 3]))
    assert growing.look() is True
    assert {row.example for row in growing.rows} == {0}


def test_damage_is_said_with_its_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    made_runs.write(run, n=3, n_layer=2, ended=False)
    growing = GrowingRows(run)
    growing.look()
    n_lines = len((run / ROWS).read_bytes().splitlines())
    with (run / ROWS).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(LocalprobeError, match=f"line {n_lines + 1}: damaged"):
        growing.look()
