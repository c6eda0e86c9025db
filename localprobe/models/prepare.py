"""Other weight types of a model: NAME@type, made once, kept in the cache.

The weight type decides the speed on a CPU. Requantised weights are other weights, and none of what
a quantized source lost comes back: such a model has a name of its own, and its manifest says what
it was made from and how much that changed.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from localprobe.errors import LocalprobeError, ModelError, did_you_mean
from localprobe.files.cache import cache_dir, forget_file, sha256_of, write_atomically
from localprobe.models import registry
from localprobe.models.change import Change, Watch, change
from localprobe.models.header import read_header

_NEXT_TO_NOTHING = 1 << 20
TYPES = ("q8_0", "q4_0", "bf16", "f16", "f32")

_UNQUANTIZED = (0, 1, 24, 25, 26, 27, 28, 30)
"""ggml's numbers of the types whose every weight is a number of its own."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared model was made from, and with what.

    source_type: the file type of the source. quantized: the first quantized type that the weights
    went through, empty where there is none. change: from the source, None until it is measured.
    Manifests of before these were written down have none of the three.
    """

    source: str
    source_sha256: str
    type: str
    sha256: str
    llama_cpp_python: str
    source_type: str = ""
    quantized: str = ""
    change: Change | None = None


def prepared_path(name: str) -> Path:
    """Where the model called NAME@type lies once it has been prepared."""
    return _folder() / f"{name}.gguf"


def check_type(kind: str) -> None:
    """Raise LocalprobeError for a weight type that no model can be prepared with."""
    if kind not in TYPES:
        raise LocalprobeError(f"unknown weight type {kind!r}; {did_you_mean(kind, TYPES)}")


def prepare(
    name: str,
    source: Path,
    source_sha256: str,
    kind: str,
    *,
    tell: Callable[[str], object] = lambda _message: None,
) -> tuple[str, Path]:
    """Convert a model; its new name and file. What was made from the same file is kept.

    tell: is told that it is converted, where it has to be.
    Raises LocalprobeError for an unknown type, ModelError where llama.cpp cannot convert it.
    """
    check_type(kind)
    known = registry.entries().get(name)
    if known and known.sha256 != source_sha256:
        raise LocalprobeError(
            f"{name} is the name of another model in models.toml; rename {source} to prepare it"
        )
    # A known name is that of the known file alone; others may be the stems of several files.
    # Ollama's are called NAME:TAG, which is no file's name everywhere.
    called = re.sub(r"[/:]", "_", name)
    new_name = f"{name}@{kind}" if known else _free_name(called, source_sha256, kind)
    path = prepared_path(new_name)
    if not _is_made(path, source_sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may want a model at once: one of them makes it.
        with FileLock(cache_dir() / f".{new_name}.lock"):
            if not _is_made(path, source_sha256):
                tell(f"converting {name} to {kind} ...")
                _make(path, name, source, source_sha256, kind)
    return new_name, path


def _is_made(path: Path, source_sha256: str) -> bool:
    return path.exists() and read_manifest(path).source_sha256 == source_sha256


def _make(path: Path, name: str, source: Path, source_sha256: str, kind: str) -> None:
    from localprobe.llama.quantizing import quantize

    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-", dir=path.parent) as folder:
        made = Path(folder) / "model.gguf"
        try:
            quantize(source, made, kind)
        except ModelError:
            if shutil.disk_usage(folder).free < _NEXT_TO_NOTHING:
                raise LocalprobeError(
                    f"no space left in {path.parent} for {path.stem}; free some, or set "
                    "LOCALPROBE_CACHE to another disk"
                ) from None
            raise
        manifest = Manifest(
            name,
            source_sha256,
            kind,
            sha256_of(made),
            version("llama-cpp-python"),
            *_types(source),
        )
        forget_file(made, "")  # under this name it is gone at once
        # First, since another process may open the model as soon as it is there.
        _write(path, manifest)
        made.replace(path)


def measured(path: Path, source: Path, text: str, watch: Watch) -> Manifest:
    """The manifest of a prepared model, with its change from the source measured, once.

    Raises LocalprobeError where that cannot be measured.
    """
    manifest = read_manifest(path)
    if manifest.change is None:
        if not manifest.source_type:
            source_type, quantized = _types(source)
            manifest = replace(manifest, source_type=source_type, quantized=quantized)
        manifest = replace(manifest, change=change(source, path, text, watch))
        _write(path, manifest)
    return manifest


def _free_name(name: str, source_sha256: str, kind: str) -> str:
    """NAME@type; where that was made from another file of this name, NAME-hash@type.

    What was made already keeps its name, whatever the file was called then.
    """
    usual, other = f"{name}@{kind}", f"{name}-{source_sha256[:8]}@{kind}"
    made = list(_made_from(source_sha256, kind))
    for each in (usual, other, *made):
        if each in made:
            return each
    if not prepared_path(usual).exists():
        return usual
    read_manifest(prepared_path(usual))  # one that is broken is told of, not passed by
    return other


def _types(source: Path) -> tuple[str, str]:
    """A source's file type, and the first quantized type that its weights went through, if any."""
    from localprobe.llama.quantizing import type_name

    header = read_header(source)
    number = header.metadata.get("general.file_type")
    file_type = type_name(number) if isinstance(number, int) else "unknown type"
    earlier = manifest_of(source)
    if earlier is not None and earlier.quantized:
        return file_type, earlier.quantized
    kinds = {tensor.kind for tensor in header.tensors}
    return file_type, "" if kinds <= set(_UNQUANTIZED) else file_type


def prepared_from(source_sha256: str, kind: str) -> str | None:
    """The name of what was made from a file, if anything was."""
    return next(_made_from(source_sha256, kind), None)


def _made_from(source_sha256: str, kind: str) -> Iterator[str]:
    for name, path in prepared_models():
        manifest = manifest_of(path)
        if manifest and (manifest.source_sha256, manifest.type) == (source_sha256, kind):
            yield name


def read_manifest(path: Path) -> Manifest:
    """The manifest of a prepared model. Raises LocalprobeError where it is lost or broken."""
    try:
        return _manifest(json.loads(_manifest_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        name = path.stem
        raise LocalprobeError(
            f"the manifest of {name} is lost or broken; run: localprobe models remove {name}, and "
            "prepare it again"
        ) from None


def _manifest(data: Any) -> Manifest:
    """Raises TypeError or ValueError where it is none."""
    changed = data.pop("change", None)
    if not all(isinstance(value, str) for value in data.values()):
        raise ValueError
    found = None if changed is None else Change(**changed)
    if found and not (
        type(found.n) is int
        and all(type(each) in (int, float) for each in (found.kept, found.kl))
        and 0 <= found.kept <= 1
        and 0 <= found.kl < math.inf
    ):
        raise ValueError
    return Manifest(**data, change=found)


def manifest_of(path: Path) -> Manifest | None:
    """The manifest of a file, if it is a model that was prepared and its manifest is whole."""
    if path.absolute().parent != _folder().absolute():
        return None
    try:
        return read_manifest(path)
    except LocalprobeError:
        return None


def prepared_models() -> list[tuple[str, Path]]:
    """Names and files of the models that were prepared."""
    return sorted((path.stem, path) for path in _folder().glob("*.gguf"))


def remove_prepared(path: Path) -> None:
    """Delete a prepared model. Raises OSError where it cannot be."""
    path.unlink()
    _manifest_path(path).unlink(missing_ok=True)


def _folder() -> Path:
    return cache_dir() / "prepared"


def _write(path: Path, manifest: Manifest) -> None:
    write_atomically(_manifest_path(path), json.dumps(asdict(manifest), indent=1))


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")
