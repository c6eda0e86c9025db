"""Which type of weights is the fastest here: timed at the model's shapes, chosen by a rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny

from localprobe.cli.app import main
from localprobe.errors import LocalprobeError
from localprobe.llama.product import Product, other_layouts, plain_layout
from localprobe.llama.rearranged import is_safe
from localprobe.models import speed
from localprobe.models.changes import changes
from localprobe.models.prepare import TYPES, measured, prepare, remove_prepared
from localprobe.models.speed import TypeSpeed, fastest

FOUND = [
    TypeSpeed("q4_0", 1.0, 100),
    TypeSpeed("bf16", 1.05, 400),
    TypeSpeed("q8_0", 1.09, 200),
    TypeSpeed("f32", 2.0, 800),
]


@pytest.mark.parametrize(("room", "chosen"), [(1e9, "bf16"), (300, "q8_0"), (150, "q4_0")])
def test_of_types_about_as_fast_the_most_exact_that_fits(room: float, chosen: str) -> None:
    assert fastest(FOUND, room).type == chosen


def test_none_fits() -> None:
    with pytest.raises(LocalprobeError, match="take a smaller model"):
        fastest(FOUND, 50)


def test_every_type_is_timed_at_every_shape_of_the_blocks(
    tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[int, tuple[int, int]]] = []

    def seconds(kind: int, shape: tuple[int, int], threads: int) -> float:
        assert threads == 3
        timed.append((kind, shape))
        return 0.001 * (1 + kind)

    monkeypatch.setattr(speed, "_seconds", seconds)
    found = speed.speeds(tiny_file("llama"), threads=3)
    # q and output; keys and values; gate and up; down, whose 48 columns are no blocks of 32.
    shapes = {(32, 32): 2 * 4, (32, 16): 2 * 4, (32, 48): 2 * 4}
    assert set(timed) == {
        *((kind, shape) for kind in speed._KINDS.values() for shape in shapes),
        *((kind, (48, 32)) for kind in (0, 1, 30)),
    }
    by_type = {each.type: each for each in found}
    assert list(by_type) == sorted(TYPES, key=lambda each: by_type[each].ms)
    # Where they are none, llama.cpp takes F16.
    assert by_type["q8_0"].ms == pytest.approx(1000 * (0.009 * 24 + 0.002 * 4) / 64)
    assert by_type["f32"].ms == pytest.approx(1000 * 0.001 * 28 / 64)
    weights = tiny.build("llama").weights.values()
    assert by_type["f32"].size == sum(w.nbytes for w in weights if w.ndim > 1)


@pytest.mark.parametrize("kind", TYPES)
def test_what_a_type_takes_is_what_the_model_takes_once_it_is_made(
    kind: str, tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_seconds", lambda number, shape, threads: 1.0 + number)
    (expected,) = (each for each in speed.speeds(tiny_file("llama")) if each.type == kind)
    _, made = prepare("tiny", tiny_file("llama"), "0" * 64, kind)
    assert speed.own_speed(made) == pytest.approx(expected.ms)


def test_what_each_type_changes(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    """Those that are made for it are gone again, what was there and what is kept are not."""
    source, digest = tiny_file("llama"), "0" * 64
    _, there = prepare("tiny", source, digest, "f16")
    found = changes(
        "tiny", source, digest, "Some text.", keep="bf16", watch=lambda types, _total: types
    )
    assert list(found) == list(TYPES)
    assert found["f32"].kept == 1
    for kind, seen in found.items():
        _, path = prepare("tiny", source, digest, kind)
        assert measured(path, source, "Some text.", lambda decodes, _total: decodes).change == seen
        if kind not in ("f16", "bf16"):
            remove_prepared(path)
    assert {path.stem for path in there.parent.glob("*.gguf")} == {"tiny@f16", "tiny@bf16"}


def test_of_a_large_model_what_was_made_is_known(
    tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, digest = tiny_file("llama"), "0" * 64
    _, there = prepare("tiny", source, digest, "q8_0")
    monkeypatch.setattr("localprobe.models.changes.SMALL", source.stat().st_size - 1)
    found = changes(
        "tiny", source, digest, "Some text.", keep="bf16", watch=lambda types, _total: types
    )
    assert list(found) == ["q8_0"]
    assert [path.stem for path in there.parent.glob("*.gguf")] == ["tiny@q8_0"]


@pytest.mark.parametrize("kind", speed._KINDS.values())
def test_what_is_timed_is_the_product(kind: int) -> None:
    random = np.random.default_rng(kind)
    weights = random.standard_normal((96, 64), np.float32)
    tokens = random.standard_normal((4, 64), np.float32)
    expected = tokens @ weights.T
    n_possible = 0
    for layout in [plain_layout(), *(other_layouts() if is_safe() else ())]:
        with Product(kind, weights, tokens, layout, 1) as product:
            if product.is_possible:
                n_possible += 1
                product.compute()
                tolerance = 1.5 if kind == 2 else 0.2  # four bits a weight
                np.testing.assert_allclose(product.found(), expected, atol=4 * tolerance)
    assert n_possible
    assert speed._seconds(kind, (64, 96), 1) > 0


def test_the_command_makes_what_was_chosen_and_says_why(
    tiny_file: Callable[[str], Path],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = {0: 4.0, 1: 3.0, 2: 1.5, 8: 1.45, 30: 2.0}
    monkeypatch.setattr(speed, "_seconds", lambda kind, shape, threads: times[kind])
    assert main(["models", "prepare", str(tiny_file("llama")), "--type", "fastest"]) == 0
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines() if line.strip()][-6:]
    assert [line[0] for line in lines] == ["q8_0", "q4_0", "bf16", "f16", "f32", "as"]
    # Type, milliseconds, gigabytes, tokens kept, divergence.
    assert [len(line) for line in lines] == [5, 5, 5, 5, 5, 5]
    assert lines[4][3:] == ["100.0%", "0"]
    assert "the most exact: q8_0" in err
    assert "use it as -m llama@q8_0" in err
