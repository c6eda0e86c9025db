"""Weights in layouts of their own are tried before they are trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localprobe.llama import rearranged, weights
from localprobe.llama.model import Model


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    rearranged.is_safe.cache_clear()
    yield
    rearranged.is_safe.cache_clear()


def with_amx(monkeypatch: pytest.MonkeyPatch, verdict: str) -> list[str]:
    """As on a processor with AMX whose trial ends so; what was tried."""
    tried: list[str] = []
    monkeypatch.setattr(rearranged, "other_layouts", lambda: [1, 2])
    monkeypatch.setattr(rearranged, "name_of", lambda layout: [b"", b"AMX", b"CPU_REPACK"][layout])
    monkeypatch.setattr(rearranged, "_try_in_child", lambda: tried.append(verdict) or verdict)
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
        rearranged.is_safe.cache_clear()
        Model(tiny_file("llama"), threads=1).close()
    assert given == [verdict == "good"] * 2
    assert tried == [verdict], "it is remembered"


def test_a_trial_that_dies_is_no_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rearranged, "__name__", "os; os.abort()  # ")
    assert rearranged._try_in_child().startswith("exit code")
