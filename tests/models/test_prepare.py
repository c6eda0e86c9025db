from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest

from localprobe.engine.full import FullEngine
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.model import Model
from localprobe.models import opening as models
from localprobe.models.change import Change, change
from localprobe.models.opening import open_model
from localprobe.models.prepare import (
    Manifest,
    measured,
    prepare,
    prepared_models,
    prepared_path,
    read_manifest,
)

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
    assert (manifest["source_type"], manifest["quantized"]) == ("all F32", "")


def test_of_several_that_want_a_model_at_once_one_makes_it(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    """As shards do that are started together, and on Windows a file in use cannot be replaced."""
    name, path, digest = models.find(str(tiny_file("llama")))
    told: list[str] = []
    ready = Barrier(4)

    def wants() -> tuple[str, Path]:
        ready.wait()
        return prepare(name, path, digest, "f16", tell=told.append)

    with ThreadPoolExecutor(4) as threads:
        found = {each.result() for each in [threads.submit(wants) for _ in range(4)]}
    assert found == {("llama@f16", prepared_path("llama@f16"))}
    assert told == ["converting llama to f16 ..."]


def test_a_file_at_a_type_is_what_was_prepared_of_that_file(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    """0.2.0 said of FILE.gguf@type that it was not prepared, and to run what had been run."""
    for folder, arch in (("a", "llama"), ("b", "qwen2")):
        Path(folder).mkdir()
        shutil.copy(tiny_file(arch), f"{folder}/m.gguf")
    with pytest.raises(ModelError, match=r"run: localprobe models prepare a/m\.gguf --type f16"):
        models.find("a/m.gguf@f16")
    assert prepare(*models.find("a/m.gguf"), "f16")[0] == "m@f16"
    # Of the same stem, and not the same file.
    with pytest.raises(ModelError, match=r"b/m\.gguf@f16 has not been prepared; run"):
        models.find("b/m.gguf@f16")
    digest = models.find("b/m.gguf")[2]
    assert prepare(*models.find("b/m.gguf"), "f16")[0] == f"m-{digest[:8]}@f16"
    for given, arch in (("a/m.gguf@f16", "llama"), ("b/m.gguf@F16", "qwen2"), ("m@f16", "llama")):
        name, path, _ = models.find(given)
        assert path == prepared_path(name)
        with Model(path) as model:
            assert model.info.architecture == arch
    # Under whatever name the file goes by now, nothing is made twice.
    Path("b/m.gguf").rename("n.gguf")
    assert models.find("n.gguf@f16")[0] == f"m-{digest[:8]}@f16"
    assert prepare(*models.find("n.gguf"), "f16")[0] == f"m-{digest[:8]}@f16"
    assert len(prepared_models()) == 2
    with pytest.raises(ModelError, match="prepared of one of this name is -m m@f16"):
        models.find("b/m.gguf@f16")
    with pytest.raises(ModelError, match=r"there is no model file o\.gguf$"):
        models.find("o.gguf@f16")
    # And of what was prepared, again.
    assert prepare(*models.find("a/m.gguf@f16"), "f32")[0] == "m@f16@f32"
    assert models.find("a/m.gguf@f16@f32")[0] == models.find("m@f16@f32")[0] == "m@f16@f32"


def test_what_was_quantized_before_is_written_down(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    def made(given: str, kind: str) -> Manifest:
        return read_manifest(prepare(*models.find(given), kind)[1])

    assert made(str(tiny_file("llama")), "q8_0").quantized == ""
    again = made("llama@q8_0", "f32")
    assert (again.source_type, again.quantized) == ("Q8_0", "Q8_0")
    # Floats that were quantized once do not hide it.
    last = made("llama@q8_0@f32", "f16")
    assert (last.source_type, last.quantized) == ("all F32", "Q8_0")
    with open_model("llama@q8_0@f32@f16") as loaded:
        source = models.model_record(loaded)["source"]
    assert (source["name"], source["quantized"]) == ("llama@q8_0@f32", "Q8_0")
    assert source["sha256"] == models.find("llama@q8_0@f32")[2]


TEXT = "The Danube is the second longest river in Europe, after the Volga. " * 5


def test_the_change_is_that_of_plain_passes(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    source = tiny_file("llama")
    _, path = prepare(*models.find(str(source)), "q4_0")
    seen: list[int] = []

    def watched(decodes: Iterator[None], total: int) -> Iterator[None]:
        for number, each in enumerate(decodes, 1):
            seen[:] = [number, total]
            yield each

    found = measured(path, source, TEXT, watched).change
    assert found is not None
    assert seen == [16, 16]
    kept, divergences = [], []
    with Model(source, threads=1) as one, Model(path, threads=1) as other:
        tokens = one.tokenize(TEXT)[:200]
        for n in range(1, 201):
            shares = []
            for model in (one, other):
                logits = model.plain_logits(tokens[:n]).astype(np.float64)
                powers = np.exp(logits - logits.max())
                shares.append(powers / powers.sum())
            kept.append(shares[0].argmax() == shares[1].argmax())
            divergences.append((shares[0] * np.log(shares[0] / shares[1])).sum())
    assert (found.n, found.kept) == (200, np.mean(kept))
    assert found.kl == pytest.approx(np.mean(divergences), rel=1e-3)
    assert found.kl > 1e-3
    assert 0 < found.kept < 1
    # It is kept, and not measured again.
    assert measured(path, Path("gone.gguf"), TEXT, watched).change == found


def test_the_same_weights_change_nothing(tiny_file: Callable[[str], Path], own_cache: Path) -> None:
    assert change(tiny_file("llama"), tiny_file("llama"), TEXT) == Change(200, 1.0, 0.0)


def test_manifests_of_before_there_were_figures(
    tiny_file: Callable[[str], Path], own_cache: Path
) -> None:
    source = tiny_file("llama")
    _, path = prepare(*models.find(str(source)), "f16")
    file = path.with_suffix(".json")
    data = json.loads(file.read_text(encoding="utf-8"))
    for key in ("source_type", "quantized", "change"):
        del data[key]
    file.write_text(json.dumps(data), encoding="utf-8")
    assert (read_manifest(path).change, read_manifest(path).source_type) == (None, "")
    assert models.find("llama@f16")[1] == path
    assert measured(path, source, TEXT, lambda decodes, total: decodes).change is not None
    assert read_manifest(path).source_type == "all F32"
    for broken in ({"n": 1, "kept": "1", "kl": 0}, {"n": 1}, [], {"n": 1, "kept": 0.5, "kl": -1}):
        file.write_text(json.dumps({**data, "change": broken}), encoding="utf-8")
        with pytest.raises(LocalprobeError, match="lost or broken; run: localprobe models remove"):
            read_manifest(path)


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
