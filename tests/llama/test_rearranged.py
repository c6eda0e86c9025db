"""Weights in layouts of their own are tried before they are trusted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from localprobe.errors import LocalprobeError
from localprobe.llama import rearranged, weights
from localprobe.llama.model import Model
from localprobe.models import opening
from localprobe.models.prepare import prepare


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    rearranged.has_tiles.cache_clear()
    rearranged.builds_well.cache_clear()
    yield
    rearranged.has_tiles.cache_clear()
    rearranged.builds_well.cache_clear()


def with_amx(monkeypatch: pytest.MonkeyPatch, verdict: str) -> list[str]:
    """As on a processor with AMX whose trial ends so; what was tried."""
    tried: list[str] = []
    monkeypatch.setattr(rearranged, "other_layouts", lambda: [1, 2])
    monkeypatch.setattr(rearranged, "name_of", lambda layout: [b"", b"AMX", b"CPU_REPACK"][layout])
    monkeypatch.setattr(rearranged, "_try_in_child", lambda: tried.append(verdict) or verdict)
    for name in rearranged._OTHERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tried


def test_plain_products_are_right() -> None:
    random = np.random.default_rng(1)
    one = random.standard_normal((64, 256), np.float32)
    other = random.standard_normal((5, 256), np.float32)
    found = rearranged._product(1, one, other, rearranged.plain_layout())
    assert found is not None
    np.testing.assert_allclose(found, other @ one.T, atol=0.1)


def test_the_trial_in_this_process_ends_well_where_there_is_no_amx(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts = [each for each in rearranged.other_layouts() if rearranged.name_of(each) != b"AMX"]
    monkeypatch.setattr(rearranged, "other_layouts", lambda: layouts)
    rearranged.main()
    assert capsys.readouterr().out == "good\n"


def test_other_numbers_are_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    product, plain = rearranged._product, rearranged.plain_layout()
    monkeypatch.setattr(rearranged, "other_layouts", lambda: [0])

    def wrong(kind: int, one: Any, other: Any, layout: int) -> Any:
        return product(kind, one, other, plain) * (1 if layout else 2)

    monkeypatch.setattr(rearranged, "_product", wrong)
    rearranged.main()
    assert capsys.readouterr().out == "other numbers\n"


@pytest.mark.parametrize("verdict", ["good", "exit code -11", "other numbers", "no end"])
def test_weights_are_rearranged_only_where_the_trial_was_good(
    verdict: str,
    own_cache: Path,
    tiny_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = with_amx(monkeypatch, verdict)
    load, given = weights.llama.llama_model_load_from_file, []

    def noted(path: bytes, params: Any) -> Any:
        given.append(bool(params.use_extra_bufts))
        return load(path, params)

    monkeypatch.setattr(weights.llama, "llama_model_load_from_file", noted)
    for _ in range(2):
        rearranged.builds_well.cache_clear()
        Model(tiny_file("llama"), threads=1, tiles=True).close()
    assert given == [verdict == "good"] * 2
    assert tried == [verdict], "it is remembered"
    assert bool(rearranged.advice()) == (verdict != "good")


def test_another_build_is_tried_again(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same version of llama.cpp, by another compiler: only the library tells them apart."""
    tried = with_amx(monkeypatch, "exit code -11")
    assert not rearranged.is_safe()
    rearranged.builds_well.cache_clear()
    monkeypatch.setattr(rearranged, "build", lambda: "another")
    assert not rearranged.is_safe()
    assert len(tried) == 2


def test_weights_stay_plain_beside_others_who_use_amx(
    own_cache: Path, tiny_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_amx(monkeypatch, "good")
    with Model(tiny_file("llama"), threads=1, tiles=True) as first:
        assert first.in_tiles
        assert "AMX" in first.checked_on
        clean = first.plain_logits([1, 2, 3])
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
        with pytest.raises(LocalprobeError, match=r"torch was imported after .* open the model"):
            first.plain_logits([1, 2, 3])
        with Model(tiny_file("llama"), threads=1, tiles=True) as second:
            assert not second.in_tiles
            assert "AMX" not in second.checked_on
            np.testing.assert_allclose(second.plain_logits([1, 2, 3]), clean, atol=1e-3)
        assert not rearranged.advice(), "no other build would change that"


def test_matrices_of_a_single_block_are_left_as_they_are(
    own_cache: Path,
    tiny_file: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """llama.cpp's AMX multiplies wrongly with them, from 32 tokens on."""
    with_amx(monkeypatch, "good")
    name = prepare(*opening.find(str(tiny_file("llama"))), "q4_0")[0]
    with opening.open_model(name) as loaded:
        assert not loaded.model.in_tiles
    with opening.open_model(str(tiny_file("llama"))) as loaded:
        assert loaded.model.in_tiles, "float32"
    assert rearranged.fit_tiles([(2, 64), (8, 96), (0, 32)])
    assert not rearranged.fit_tiles([(2, 64), (8, 32)])


def test_a_trial_that_dies_is_no_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rearranged, "__name__", "os; os.abort()  # ")
    assert rearranged._try_in_child().startswith("exit code")
