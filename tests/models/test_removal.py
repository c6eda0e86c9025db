"""Only files of our cache are removed, with what is remembered of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from localprobe.errors import LocalprobeError
from localprobe.models import opening as models
from localprobe.models import registry
from localprobe.models.prepare import prepare, prepared_path
from localprobe.models.registry import DEFAULT_FILE
from localprobe.models.removal import cached, cached_models, remove


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def remembered(cache: Path, name: str) -> str:
    return (cache / name).read_text(encoding="utf-8")


def test_a_prepared_model_and_what_is_remembered_of_it(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    source = tiny_file("llama")
    name, path, digest = models.find(str(source))
    for kind in ("f16", "f32"):
        prepare(name, path, digest, kind)
        models.find(f"llama@{kind}")
    gone, kept = models.find("llama@f16"), models.find("llama@f32")
    assert gone[2] in remembered(own_cache, "checks.json")
    found = cached("llama@f16")
    assert found.size == gone[1].stat().st_size
    assert cached(f"{source}@f16") == cached("llama@F16") == found
    remove(found)
    assert {"llama@f32.gguf", "llama@f32.json"} == files(own_cache / "prepared")
    for memo in ("hashes.json", "checks.json"):
        text = remembered(own_cache, memo)
        assert gone[2] not in text
        assert str(gone[1]) not in text
        assert kept[2] in text
        assert digest in text
    assert source.is_file()
    assert models.find("llama@f32") == kept
    with pytest.raises(LocalprobeError, match="has not been prepared"):
        models.find("llama@f16")


def test_a_fetched_model_and_what_was_moved_aside(own_cache: Path) -> None:
    entry = registry.entry(DEFAULT_FILE)
    entry.path.parent.mkdir(parents=True)
    aside = entry.path.with_name(entry.path.name + ".bad")
    entry.path.write_bytes(b"12345")
    aside.write_bytes(b"123")
    found = cached(DEFAULT_FILE)
    assert (found.size, found.is_prepared) == (8, False)
    remove(found)
    assert files(own_cache) == set()
    with pytest.raises(LocalprobeError, match="is not in the cache: there is nothing to remove"):
        cached(DEFAULT_FILE)


def test_one_whose_manifest_is_lost_can_be_removed(own_cache: Path) -> None:
    path = prepared_path("m@f16")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    (own_cache / "checks.json").write_text(json.dumps({"abc vetted": "good"}), encoding="utf-8")
    remove(cached("m@f16"))
    assert cached_models() == {}
    assert "abc vetted" in remembered(own_cache, "checks.json")


def test_nothing_outside_the_cache_is_removed(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    mine = Path("mine.gguf")
    mine.write_bytes(tiny_file("llama").read_bytes())
    Path("stranger@f16.gguf").write_bytes(b"GGUF")
    (own_cache / "prepared").mkdir(parents=True)
    to_here = os.path.relpath("stranger@f16", own_cache / "prepared")
    for name in ("mine.gguf", str(mine.absolute()), "mine", to_here, "../models/x", "", "*"):
        with pytest.raises(LocalprobeError):
            cached(name)
    with pytest.raises(LocalprobeError, match=r"mine\.gguf is a file of yours"):
        cached("mine.gguf")
    with pytest.raises(LocalprobeError, match="the cache holds none"):
        cached("llama@f16")
    prepare(*models.find("mine.gguf"), "f16")
    with pytest.raises(LocalprobeError, match="did you mean mine@f16"):
        cached("mine@f17")
    assert mine.is_file()
    assert Path("stranger@f16.gguf").is_file()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_of_a_link_only_the_link_is_removed(own_cache: Path) -> None:
    mine = Path("mine.gguf").absolute()
    mine.write_bytes(b"GGUF")
    path = prepared_path("m@f16")
    path.parent.mkdir(parents=True)
    path.symlink_to(mine)
    remove(cached("m@f16"))
    assert not path.is_symlink()
    assert mine.read_bytes() == b"GGUF"
