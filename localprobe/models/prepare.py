"""Other weight types of a model: NAME@type, made once, kept in the cache.

The weight type decides the speed on a CPU. Requantised weights are other weights: numbers change
slightly, so such a model has a name of its own, and its manifest says what it was made from.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from localprobe.errors import LocalprobeError, ModelError, did_you_mean
from localprobe.files.cache import cache_dir, sha256_of, write_atomically
from localprobe.models import registry

_NEXT_TO_NOTHING = 1 << 20
TYPES = ("q8_0", "q4_0", "bf16", "f16", "f32")


@dataclass(frozen=True)
class Manifest:
    """What a prepared model was made from, and with what."""

    source: str
    source_sha256: str
    type: str
    sha256: str
    llama_cpp_python: str


def prepared_path(name: str) -> Path:
    """Where the model called NAME@type lies once it has been prepared."""
    return cache_dir() / "prepared" / f"{name}.gguf"


def check_type(kind: str) -> None:
    """Raise LocalprobeError for a weight type that no model can be prepared with."""
    if kind not in TYPES:
        raise LocalprobeError(f"unknown weight type {kind!r}; {did_you_mean(kind, TYPES)}")


def prepare(name: str, source: Path, source_sha256: str, kind: str) -> tuple[str, Path]:
    """Convert a model; its new name and file. A file that is there already is kept.

    Raises LocalprobeError for an unknown type, ModelError where llama.cpp cannot convert it.
    """
    check_type(kind)
    from localprobe.llama.quantizing import quantize

    new_name = f"{name}@{kind}"
    path = prepared_path(new_name)
    known = registry.entries().get(name)
    if known and known.sha256 != source_sha256:
        raise LocalprobeError(
            f"{name} is the name of another model in models.toml; rename {source} to prepare it"
        )
    if path.exists() and read_manifest(path).source_sha256 == source_sha256:
        return new_name, path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=path.parent) as folder:
        made = Path(folder) / "model.gguf"
        try:
            quantize(source, made, kind)
        except ModelError:
            if shutil.disk_usage(folder).free < _NEXT_TO_NOTHING:
                raise LocalprobeError(
                    f"no space left in {path.parent} for {new_name}; free some, or set "
                    "LOCALPROBE_CACHE to another disk"
                ) from None
            raise
        manifest = Manifest(name, source_sha256, kind, sha256_of(made), version("llama-cpp-python"))
        made.replace(path)
    write_atomically(_manifest_path(path), json.dumps(asdict(manifest), indent=1))
    return new_name, path


def read_manifest(path: Path) -> Manifest:
    """The manifest of a prepared model. Raises LocalprobeError where it is lost or broken."""
    try:
        return Manifest(**json.loads(_manifest_path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        name = path.stem
        raise LocalprobeError(
            f"the manifest of {name} is lost or broken; delete {path} and prepare it again"
        ) from None


def prepared_models() -> list[tuple[str, Path]]:
    """Names and files of the models that were prepared."""
    return sorted((path.stem, path) for path in (cache_dir() / "prepared").glob("*.gguf"))


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")
