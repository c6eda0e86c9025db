from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from localprobe.engine.full import FullEngine
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.model import Model
from localprobe.models import opening as models
from localprobe.models.opening import open_model
from localprobe.models.prepare import prepare, prepared_models, prepared_path

PROMPT = [3, 14, 15, 92, 65]


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
def test_a_prepared_model_is_usable_by_its_name(
    kind: str, tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    name, path, digest = models.find(str(tiny_file("llama")))
    new_name, new_path = prepare(name, path, digest, kind)
    assert new_name == f"llama@{kind}"
    assert prepared_models() == [(new_name, new_path)]
    with open_model(new_name) as loaded, Model(path) as original:
        logits = FullEngine(loaded.model).answer(PROMPT, max_tokens=1).logits
        expected = FullEngine(original).answer(PROMPT, max_tokens=1).logits
        assert loaded.name == new_name
        assert loaded.model.info.file_type.lower().endswith(kind)
    share = np.abs(logits - expected).max() / np.abs(expected).max()
    assert share <= {"f32": 1e-6, "f16": 5e-3, "bf16": 5e-2}[kind]
    assert (share == 0) == (kind == "f32")


def test_the_manifest_names_the_source(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    name, path, digest = models.find(str(tiny_file("llama")))
    _, new_path = prepare(name, path, digest, "f16")
    manifest = json.loads(new_path.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["source_sha256"] == digest
    assert manifest["sha256"] == models.find("llama@f16")[2]
    before = new_path.stat().st_mtime_ns
    prepare(name, path, digest, "f16")
    assert new_path.stat().st_mtime_ns == before
    prepare(name, tiny_file("qwen2"), "another source", "f16")
    assert new_path.stat().st_mtime_ns != before


def test_a_file_with_the_name_of_a_known_model_is_not_taken_for_it(
    tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tiny_file("llama")
    stranger = Path("smollm2-135m.gguf")
    stranger.write_bytes(file.read_bytes())
    name, path, digest = models.find(str(stranger))
    with pytest.raises(LocalprobeError, match="the name of another model in models"):
        prepare(name, path, digest, "f16")
    assert prepared_models() == []
    # Also where it was prepared before the name was known.
    with monkeypatch.context() as patch:
        patch.setattr("localprobe.models.registry.entries", dict)
        prepare(name, path, digest, "f16")
    with pytest.raises(ModelError, match=r"was not made from the smollm2-135m of models\.toml"):
        models.find("smollm2-135m@f16")


def test_what_is_not_there_or_was_changed(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    with pytest.raises(LocalprobeError, match="did you mean q8_0"):
        models.find("llama@q8")
    with pytest.raises(ModelError, match="models prepare llama --type f16"):
        models.find("llama@f16")
    name, path, digest = models.find(str(tiny_file("llama")))
    with pytest.raises(LocalprobeError, match="did you mean q8_0"):
        prepare(name, path, digest, "q8")
    _, new_path = prepare(name, path, digest, "f16")
    new_path.write_bytes(new_path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="not what was prepared"):
        models.find("llama@f16")
    new_path.with_suffix(".json").write_text("{}", encoding="utf-8")
    with pytest.raises(LocalprobeError, match="lost or broken"):
        models.find("llama@f16")


def test_nothing_is_left_of_a_conversion_that_fails(own_cache: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing")
    with pytest.raises(ModelError, match="could not convert"):
        prepare("broken", broken, "digest", "f16")
    assert list(prepared_path("broken@f16").parent.iterdir()) == []


def test_a_full_disk_is_named(
    tiny_file: Callable[[str], Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path, _kind: str) -> None:
        target.write_bytes(b"GGUF")
        raise ModelError("llama.cpp could not convert it (ggml wrote too little)")

    name, path, digest = models.find(str(tiny_file("llama")))
    monkeypatch.setattr("localprobe.llama.quantizing.quantize", full)
    with pytest.raises(ModelError, match="could not convert"):
        prepare(name, path, digest, "f16")
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=0))
    with pytest.raises(LocalprobeError, match=r"no space left in .* for llama@f16"):
        prepare(name, path, digest, "f16")
    assert prepared_models() == []
    assert list(prepared_path("llama").parent.iterdir()) == []
