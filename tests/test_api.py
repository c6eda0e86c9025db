"""The library: what the manual shows, and that the command line says the same."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import localprobe
from localprobe import LocalprobeError, Model, load_run, probe, swap, sweep
from localprobe.engine.full import FullEngine
from localprobe.engine.interventions import Skip
from localprobe.llama.residual import NoEdit

PAGE = Path(__file__).parent.parent / "docs/how-to/python.md"


@pytest.fixture(scope="module")
def tiny_model(tiny_file: Callable[[str], Path]) -> Model:
    return Model(tiny_file("llama"), threads=1)


def test_the_example_of_the_manual(default_model: Path) -> None:
    """It is run as it stands there; what it prints is what is said to be printed."""
    (code, printed) = re.findall(
        r"<!-- library -->\n```python\n(.*?)```\n\n```\n(.*?)```", PAGE.read_text("utf-8"), re.S
    )[0]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, PAGE.name, "exec"), {})
    assert out.getvalue() == printed


def test_probe_is_the_engine(tiny_model: Model) -> None:
    found = probe(tiny_model, "in Chad", ["skip", "freeze"], layers="0,2", max_tokens=2)
    assert [(row.patch, row.layer) for row in found.rows] == [
        ("skip", 0),
        ("skip", 2),
        ("freeze", 2),
    ]
    model = tiny_model.loaded.model
    expected = FullEngine(model).answer(found.tokens, max_tokens=2, intervention=Skip(), layer=2)
    assert found.rows[1].text == expected.text
    assert found.rows[1].top[0].id == int(np.argmax(expected.logits))


def test_swap_says_where_it_flips(tiny_model: Model) -> None:
    found = swap(tiny_model, "in Chad now", "Chad", "Mali", max_tokens=2)
    assert [row.layer for row in found.rows] == [0, 1, 2, 3]
    assert found.rows[0].text == found.modified.text
    assert found.plan.at == (3, 4, 5, 6)


def test_sweep_and_load(tiny_model: Model, tmp_path: Path) -> None:
    settings = {"n": 3, "all_examples": True, "max_tokens": 2, "progress": False}
    found = sweep(tiny_model, "capitals", ["skip"], out=tmp_path / "run", **settings)  # type: ignore[arg-type]
    again = load_run(tmp_path / "run")
    assert again.rows == found.rows
    assert again.scores("skip") == pytest.approx(found.scores("skip"))
    assert again.layers == (0, 1, 2, 3)
    unwritten = sweep(tiny_model, "capitals", ["skip"], batch=1, **settings)  # type: ignore[arg-type]
    assert [row.top for row in unwritten.rows] == [row.top for row in found.rows]


def test_errors_are_of_one_family(tiny_model: Model) -> None:
    for wrong in (
        lambda: probe(tiny_model, "in Chad", ["skpi"]),
        lambda: swap(tiny_model, "in Chad", "Peru", "Mali"),
        lambda: sweep(tiny_model, "capitalz"),
        lambda: load_run("nowhere"),
        lambda: Model("nowhere.gguf"),
    ):
        with pytest.raises(LocalprobeError):
            wrong()  # type: ignore[no-untyped-call]


def test_names_are_there_without_loading_llama() -> None:
    code = (
        "import sys, localprobe; assert 'llama_cpp' not in sys.modules; "
        "localprobe.LocalprobeError; assert 'llama_cpp' not in sys.modules; "
        "from localprobe import Model, sweep; assert callable(sweep)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        _ = localprobe.sweeep


def test_the_version_is_read_when_it_is_asked_for() -> None:
    code = (
        "import sys; before = set(sys.modules); import localprobe, localprobe.files.cache; "
        "assert 'importlib.metadata' not in set(sys.modules) - before; "
        "from localprobe import __version__; print(__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == f"{metadata.version('localprobe')}\n"


def test_dir_shows_the_public_names() -> None:
    assert set(localprobe.__all__) <= set(dir(localprobe))
    assert {"__version__", "__doc__"} <= set(dir(localprobe))
    assert not {"Any", "import_module", "TYPE_CHECKING"} & set(dir(localprobe))


def test_records_are_short_to_look_at(tiny_model: Model) -> None:
    probed = probe(tiny_model, "in Chad " * 20, ["random", "skip"], seeds=3, max_tokens=2)
    swapped = swap(tiny_model, "in Chad now", "Chad", "Mali", max_tokens=2)
    run = sweep(tiny_model, "capitals", "skip", n=1, all_examples=True, progress=False)
    records = [tiny_model, probed, swapped, run, probed.clean, probed.rows[0], swapped.rows[0]]
    for record in [*records, probed.rows[0].top[0], swapped.plan, swapped.parting]:
        assert len(repr(record)) < 400
        assert "array" not in repr(record)
    assert repr(tiny_model) == "Model('llama', 4 blocks)"
    assert repr(probed).endswith(": random, skip; 8 rows>")
    assert f"flip layer {swapped.flip_layer}>" in repr(swapped)
    assert "skip at " in repr(run)


def test_layers_and_interventions_as_python_has_them(tiny_model: Model) -> None:
    def layers(**chosen: Any) -> list[int]:
        return [row.layer for row in probe(tiny_model, "in Chad", "skip", **chosen).rows]

    assert layers(layers=2) == layers(layers="2") == [2]
    assert layers(layers=[0, 2]) == layers(layers=range(0, 4, 2)) == layers(layers=np.array([0, 2]))
    assert sweep(tiny_model, "capitals", "skip", n=1, layers=[1], all_examples=True).layers == (1,)
    for wrong in (1.5, [1.5], None, b"2", ["all"], []):
        with pytest.raises(LocalprobeError, match="layers"):
            layers(layers=wrong)


def test_a_closed_model_says_so(tiny_file: Callable[[str], Path]) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        opened = model.loaded.model
        opened.clear()  # before any pass, too
        opened.evaluate([1, 2], 0, NoEdit())
    for use in (
        lambda: probe(model, "in Chad", ["skip"]),
        lambda: sweep(model, "capitals", ["skip"], n=1),
        lambda: opened.tokenize("Chad"),
        lambda: opened.piece(3),
        lambda: opened.chat_template(),
        lambda: opened.evaluate([1, 2], 0, NoEdit()),
        lambda: opened.plain_logits([1, 2]),
        lambda: opened.clear(),
        lambda: opened.forget(0, 0),
        lambda: opened.reserve(8),
    ):
        with pytest.raises(LocalprobeError, match="closed"):
            use()
    opened.close()


def test_a_run_as_a_data_frame(
    tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Frame:
        """What pandas is asked for, where it is not installed."""

        def __init__(self, records: list[dict[str, object]], columns: list[str]) -> None:
            self.records, self.columns = records, columns

    with Model(tiny_file("llama"), threads=1) as model:
        run = sweep(model, "capitals", ["freeze", "swap"], n=2, all_examples=True, progress=False)
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    frame = run.to_pandas()
    assert frame.columns[:5] == ["patch", "metric", "layer", "score", "n"]
    assert {*frame.columns} == frame.records[0].keys()
    freeze = [each["score"] for each in frame.records if each["patch"] == "freeze"]
    assert freeze == run.scores("freeze")[1:].tolist()
    assert len(frame.records) == 3 + 2 * 4
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LocalprobeError, match=r"run: pip install 'localprobe\[pandas\]'"):
        run.to_pandas()


def test_a_real_data_frame(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    pytest.importorskip("pandas")
    with Model(tiny_file("llama"), threads=1) as model:
        run = sweep(model, "capitals", ["skip"], n=2, all_examples=True, progress=False)
    frame = run.to_pandas()
    assert frame["score"].tolist() == run.scores("skip").tolist()


def test_a_run_in_a_line(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    with Model(tiny_file("llama"), threads=1) as model:
        run = sweep(model, "capitals", ["skip"], n=2, all_examples=True, progress=False)
        assert run.is_finished
        assert repr(run) == f"<Run capitals, {model.name}: skip at 4 layers, 2 examples>"
