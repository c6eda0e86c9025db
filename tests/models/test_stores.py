"""Models of other programs: a fake home with their stores, good and damaged."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import home as homes

from localprobe.errors import FetchError, LocalprobeError, ModelError
from localprobe.files.parts import parts_of
from localprobe.models import opening as models
from localprobe.models.glance import glance
from localprobe.models.header import FILE_TYPES
from localprobe.models.prepare import prepare
from localprobe.models.removal import cached, remove
from localprobe.models.stores import find_stored, stored_models

GOOD = {
    "ollama:hf.co/owner/repo-GGUF:Q4_K_M": "llama",
    "ollama:someone/tuned:v2": "llama",
    "ollama:tiny:1b": "qwen2",
    "ollama:tiny:latest": "llama",
    "lmstudio:publisher/big-00001-of-00004.gguf": "llama",
    "lmstudio:publisher/tiny-GGUF/half.gguf": "",
    "lmstudio:publisher/tiny-GGUF/no.gguf": "",
    "lmstudio:publisher/tiny-GGUF/other.gguf": "qwen2",
    "lmstudio:publisher/tiny-GGUF/tiny-F32.gguf": "llama",
    "llama.cpp:owner_repo_tiny.gguf": "llama",
    "hf:gpt2/gpt2.gguf": "llama",
    "hf:owner/tiny-GGUF/sub/other.gguf": "qwen2",
    "hf:owner/tiny-GGUF/tiny.gguf": "llama",
}
DAMAGED = "its manifest is damaged"
TROUBLED = {
    "ollama:adapted:latest": "an adapter",
    "ollama:binary:latest": DAMAGED,
    "ollama:deep:latest": DAMAGED,
    "ollama:empty:latest": "no GGUF",
    "ollama:gone:latest": "is not there",
    "ollama:half:latest": DAMAGED,
    "ollama:list:latest": DAMAGED,
    "ollama:number:latest": DAMAGED,
    "ollama:odd:latest": DAMAGED,
    "ollama:text:latest": DAMAGED,
    "lmstudio:lost/lost-00001-of-00002.gguf": "one of 2 parts",
}
OF_LINKS = {
    "ollama:escaped:latest": "leads out of Ollama's store",
    "ollama:led:latest": "leads out of Ollama's store",
    "lmstudio:linked": "leads out of LM Studio's folder",
    "lmstudio:publisher/tiny-GGUF/led.gguf": "leads out of LM Studio's folder",
    "lmstudio:publisher/tiny-GGUF/round.gguf": "links in a circle",
    "hf:owner/tiny-GGUF/gone.gguf": "is not there",
    "hf:owner/tiny-GGUF/led.gguf": "leads out of the Hugging Face cache",
}


@pytest.fixture
def home(own_cache: Path, tmp_path: Path, tiny_file: Callable[[str], Path]) -> Path:
    homes.fill(tmp_path / "home", tiny_file("llama"), tiny_file("qwen2"))
    return tmp_path / "home"


def test_all_that_is_there_is_found_and_nothing_is_changed(home: Path) -> None:
    before = homes.state(home)
    found = {each.name: each for each in stored_models()}
    troubled = {**TROUBLED, **(OF_LINKS if homes.LINKS else {})}
    assert {name for name, each in found.items() if not each.trouble} == set(GOOD)
    assert {name for name, each in found.items() if each.trouble} == set(troubled)
    for name, trouble in troubled.items():
        assert trouble in found[name].trouble
        if name != "hf:owner/tiny-GGUF/gone.gguf":  # that one would be fetched
            with pytest.raises(ModelError, match=f"{re.escape(name)} cannot be used: .*{trouble}"):
                find_stored(name)
    for name, architecture in GOOD.items():
        assert glance(found[name].path).architecture == architecture
    assert homes.state(home) == before


def test_they_are_opened_by_name(home: Path, tiny_file: Callable[[str], Path]) -> None:
    before = homes.state(home)
    digests = {arch: homes.sha256(tiny_file(arch)) for arch in ("llama", "qwen2")}
    for name, architecture in GOOD.items():
        if architecture and "big" not in name:
            short, path, digest = models.locate(name)
            assert digest == digests[architecture], name
            assert short == (name.removeprefix("ollama:") if "ollama" in name else path.stem)
    assert len(parts_of(models.locate("lmstudio:publisher/big-00001-of-00004.gguf")[1])) == 4
    for name in ("ollama:tiny", "hf:owner/tiny-GGUF/tiny.gguf", "lmstudio:big"):
        with models.open_model(name, threads=1) as opened:
            assert opened.model.info.architecture == "llama"
    assert homes.state(home) == before


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ollama:tiny", "ollama:tiny:latest"),
        ("ollama:Tiny:1B", "ollama:tiny:1b"),
        ("ollama:hf.co/owner/repo-gguf:q4_k_m", "ollama:hf.co/owner/repo-GGUF:Q4_K_M"),
        ("lmstudio:other", "lmstudio:publisher/tiny-GGUF/other.gguf"),
        ("lmstudio:tiny-gguf/other.gguf", "lmstudio:publisher/tiny-GGUF/other.gguf"),
        ("lmstudio:big", "lmstudio:publisher/big-00001-of-00004.gguf"),
        ("lmstudio:big-00003-of-00004.gguf", "lmstudio:publisher/big-00001-of-00004.gguf"),
        ("llama.cpp:owner_repo_tiny", "llama.cpp:owner_repo_tiny.gguf"),
        ("hf:gpt2", "hf:gpt2/gpt2.gguf"),
        ("hf:other.gguf", "hf:owner/tiny-GGUF/sub/other.gguf"),
    ],
)
def test_what_is_unmistakable_is_enough(home: Path, name: str, meant: str) -> None:
    assert find_stored(name).name == meant


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ollama:tin", r"Ollama's store has no model 'ollama:tin'; did you mean ollama:tiny:"),
        ("ollama:../../x", "Ollama's store has no model"),
        ("ollama:", "Ollama's store has no model"),
        ("lmstudio:tiny-GGUF", r"may be lmstudio:publisher/tiny-GGUF/half.gguf or .* say which"),
        ("lmstudio:../x.gguf", "LM Studio's folder has no model"),
        ("hf:owner/new", "by its full name: hf:OWNER/REPO/FILE.gguf"),
        ("hf:../../x.gguf", "by its full name|no model"),
        ("tiny:1b", "did you mean ollama:tiny:1b"),
        ("olama:tiny:1b", "did you mean ollama:tiny:1b"),
        ("tiny-F32", "did you mean lmstudio:publisher/tiny-GGUF/tiny-F32.gguf"),
        ("other.gguf", r"no model file other.gguf; did you mean lmstudio:\S+ or hf:\S+\?"),
        ("ollama:tiny@q5_0", "unknown weight type 'q5_0'"),
        ("ollama:tiny@q4_0", "run: localprobe models prepare ollama:tiny --type q4_0"),
    ],
)
def test_what_is_not_there(home: Path, name: str, message: str) -> None:
    with pytest.raises(LocalprobeError, match=message):
        models.locate(name)


def test_where_there_are_no_stores(own_cache: Path) -> None:
    assert stored_models() == []
    with pytest.raises(LocalprobeError, match=r"nothing is in .*\.ollama.models"):
        models.locate("ollama:tiny")
    Path("ollama:tiny" if os.name != "nt" else "tiny").write_bytes(b"mine")
    if os.name != "nt":  # a file of that very name is meant, as it was before
        assert models.locate("ollama:tiny")[1] == Path("ollama:tiny")


def test_places_that_the_environment_names(
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_file: Callable[[str], Path],
) -> None:
    model = tiny_file("llama")
    homes.manifest(tmp_path / "o", "registry.ollama.ai/library/m/latest", homes.sha256(model))
    homes.blob(tmp_path / "o", model)
    homes.llama_cpp(tmp_path / "c", model)
    homes.hub(tmp_path / "h" / "hub", model, model)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "o"))
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "h"))
    settings = tmp_path / "home" / ".lmstudio" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'{{"downloadsFolder": "{(tmp_path / "l").as_posix()}"}}', encoding="utf-8")
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "m.gguf").write_bytes(b"GGUF")
    names = {each.name for each in stored_models() if not each.trouble}
    assert {"ollama:m:latest", "llama.cpp:owner_repo_tiny.gguf", "lmstudio:m.gguf"} < names
    assert "hf:gpt2/gpt2.gguf" in names
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nowhere"))
    settings.write_text("{", encoding="utf-8")
    names = {each.name.partition(":")[0] for each in stored_models()}
    assert names == {"ollama", "llama.cpp"}


def test_a_blob_is_opened_by_its_path(home: Path) -> None:
    blob = find_stored("ollama:tiny").path
    assert blob.suffix == ""
    assert models.find(str(blob))[1:] == models.find("ollama:tiny")[1:]


def test_a_blob_that_is_not_what_its_name_says(home: Path) -> None:
    blob = find_stored("ollama:tiny").path
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged: its SHA-256 is"):
        models.locate("ollama:tiny")


def test_of_two_revisions_that_of_the_main_branch_is_taken(home: Path) -> None:
    name = "hf:owner/tiny-GGUF/tiny.gguf"
    assert find_stored(name).path.parent.name == "a" * 40
    refs = home / ".cache" / "huggingface" / "hub" / "models--owner--tiny-GGUF" / "refs"
    (refs / "main").write_text("b" * 40, encoding="utf-8")
    assert find_stored(name).path.parent.name == "b" * 40


def test_what_is_prepared_of_them(home: Path) -> None:
    before = homes.state(home)
    name, path = prepare(*models.find("ollama:tiny"), "q8_0")
    assert name == "tiny_latest@q8_0"
    for each in ("ollama:tiny@q8_0", "ollama:tiny:latest@Q8_0", name):
        assert models.find(each)[:2] == (name, path)
    # Of the same weights in another store, it is the same.
    assert models.find("hf:owner/tiny-GGUF/tiny.gguf@q8_0")[:2] == (name, path)
    with pytest.raises(LocalprobeError, match="belongs to another program"):
        cached("ollama:tiny")
    remove(cached("ollama:tiny@q8_0"))
    assert not path.exists()
    assert homes.state(home) == before


def test_what_a_glance_says(
    own_cache: Path,
    tmp_path: Path,
    tiny_file: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_file("llama").read_bytes())
    seen = glance(path)
    assert (seen.architecture, seen.file_type) == ("llama", FILE_TYPES[0])
    assert (seen.size, seen.can_probe, seen.reason) == (path.stat().st_size, None, "")
    with models.open_model(str(path), threads=1):
        pass
    assert glance(path).can_probe is True
    cut = path.read_bytes()[:-1000]
    path.write_bytes(cut)
    seen = glance(path)
    assert (seen.can_probe, seen.size) == (False, len(cut))
    assert seen.reason.startswith("it is truncated")

    def refuses(*_: object, **__: object) -> None:
        raise ModelError("it has no states")

    monkeypatch.setattr(models, "check", refuses)
    other = tiny_file("qwen2")
    assert glance(other).can_probe is None
    with pytest.raises(ModelError), models.open_model(str(other), threads=1):
        pass
    assert (glance(other).can_probe, glance(other).reason) == (False, "it has no states")


class Hub(types.ModuleType):
    """The hub's client, stood in for: keeps files as it does, and remembers what it was asked."""

    def __init__(self, content: bytes) -> None:
        super().__init__("huggingface_hub")
        self.content = content
        self.asked: list[tuple[str, str]] = []

    def hf_hub_download(self, repo: str, file: str, *, cache_dir: Path) -> str:
        self.asked.append((repo, file))
        folder = cache_dir / f"models--{repo.replace('/', '--')}"
        digest = hashlib.sha256(self.content).hexdigest()
        place = folder / "snapshots" / ("d" * 40) / file
        place.parent.mkdir(parents=True)
        if homes.LINKS:
            (folder / "blobs").mkdir()
            (folder / "blobs" / digest).write_bytes(self.content)
            place.symlink_to(folder / "blobs" / digest)
        else:
            place.write_bytes(self.content)
        return str(place)


def test_from_the_hub_into_its_cache(
    home: Path, monkeypatch: pytest.MonkeyPatch, tiny_file: Callable[[str], Path]
) -> None:
    hub = Hub(tiny_file("llama").read_bytes())
    name = "hf:owner/new-GGUF/sub/new.Q8_0.gguf"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        FetchError, match=r'needs an optional extra: pip install "localprobe\[hf\]"'
    ):
        models.locate(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setenv("LOCALPROBE_OFFLINE", "1")
    with pytest.raises(FetchError, match="told to stay offline"):
        models.locate(name)
    models.locate("hf:owner/tiny-GGUF/tiny.gguf")
    assert hub.asked == []
    monkeypatch.delenv("LOCALPROBE_OFFLINE")
    short, path, digest = models.locate(name)
    assert (short, digest) == ("new.Q8_0", homes.sha256(tiny_file("llama")))
    assert path.is_relative_to(home)
    assert models.locate(name)[1] == path
    assert hub.asked == [("owner/new-GGUF", "sub/new.Q8_0.gguf")]
