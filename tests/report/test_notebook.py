"""How results show themselves in notebooks."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import made_runs

from localprobe import LocalprobeError, Model, probe, swap
from localprobe.api import Probe, Swap

EVIL = "<script>hurt()</script> & <b>"


@pytest.fixture(autouse=True)
def no_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture(scope="module")
def results(tiny_file: Callable[[str], Path]) -> tuple[Probe, Swap]:
    with Model(tiny_file("llama"), threads=1) as model:
        found = probe(model, f"in Chad, {EVIL} now", ["random", "freeze"], seeds=2, max_tokens=2)
        return found, swap(model, "in Chad, now", "Chad", "Peru", max_tokens=2)


def test_a_probe_is_a_table_a_figure_and_a_frame(results: tuple[Probe, Swap]) -> None:
    found, _ = results
    text = found._repr_html_()
    assert "<script" not in text and "&lt;script&gt;hurt()" in text
    shown = re.findall(r"background:[^>]*>(\d\.\d\d)", text)
    by_layer = sorted(found.rows, key=lambda row: (row.layer, found.patches.index(row.patch)))
    assert shown == [f"{row.p_clean:.2f}" for row in by_layer if row.p_clean is not None]
    pytest.importorskip("matplotlib")
    axis = found.plot()
    for patch, line in zip(found.patches, axis.lines, strict=False):
        assert line.get_label() == patch
        rows = [row for row in found.rows if row.patch == patch]
        assert list(line.get_xdata()) == [row.layer for row in rows]
        assert list(line.get_ydata()) == [row.p_clean for row in rows]


def test_a_swap_is_a_table_and_a_figure(results: tuple[Probe, Swap]) -> None:
    _, found = results
    text = found._repr_html_()
    shown = re.findall(r"background:[^>]*>(\d\.\d\d)", text)
    assert shown == [
        f"{share:.2f}" for row in found.rows for share in (row.p_original, row.p_modified)
    ]
    pytest.importorskip("matplotlib")
    axis = found.plot()
    assert list(axis.lines[0].get_ydata()) == [row.p_original for row in found.rows]
    assert list(axis.lines[1].get_ydata()) == [row.p_modified for row in found.rows]


def test_a_run_is_a_table_and_a_figure(tmp_path: Path) -> None:
    run = made_runs.write(tmp_path / "run", n=3, n_layer=4, model=EVIL)
    text = run._repr_html_()
    assert "<script" not in text and "<button" not in text and "&lt;script&gt;hurt()" in text
    n_scores = sum(len(column.layers) for column in run.tally.columns)
    assert len(re.findall(r"background:[^>]*>\d\.\d\d", text)) == n_scores
    pytest.importorskip("matplotlib")
    curves, heat = run.plot()
    assert list(curves.lines[0].get_ydata()) == run.scores("random").tolist()
    assert heat.images
    one = made_runs.write(tmp_path / "one", n=3, n_layer=4, patches=["freeze"])
    assert list(one.plot().lines[0].get_ydata()) == one.scores("freeze").tolist()


def test_frames_of_both_libraries_hold_the_same(
    results: tuple[Probe, Swap], tmp_path: Path
) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    run = made_runs.write(tmp_path / "run", n=3, n_layer=4)
    for found in (*results, run):
        one, other = found.to_pandas(), found.to_polars()
        assert list(one.columns) == other.columns
        assert len(one) == len(other) > 0
        for name in other.columns:
            assert one[name].tolist() == other[name].to_list(), name
    assert results[0].to_polars()["p_clean"].to_list() == [row.p_clean for row in results[0].rows]


def test_what_is_not_installed_is_named(
    results: tuple[Probe, Swap], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("polars", "matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    run = made_runs.write(tmp_path / "run", n=1, n_layer=2)
    for found in (*results, run):
        with pytest.raises(LocalprobeError, match=r"localprobe\[polars\]"):
            found.to_polars()
        with pytest.raises(LocalprobeError, match=r"localprobe\[plot\]"):
            found.plot()
