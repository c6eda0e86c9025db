"""A model by name or path: found, fetched, hashed, vetted, loaded, checked.

with open_model("smollm2-135m") as probe:
    probe.model.tokenize("...")
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localprobe.engine.full import FullEngine
from localprobe.engine.proof import check_resume
from localprobe.engine.resume import BATCH_SIZE, ResumeEngine
from localprobe.errors import FetchError, LocalprobeError, ModelError, did_you_mean
from localprobe.files.cache import remembered_of_file, sha256_of, user_path
from localprobe.files.parts import joint_sha256, parts_of, split_name, total_size
from localprobe.llama.backend import has_gpu
from localprobe.llama.check import check
from localprobe.llama.memory import check_fits
from localprobe.llama.model import Model
from localprobe.llama.threads import Others
from localprobe.models import registry
from localprobe.models.fetch import fetch
from localprobe.models.prepare import (
    check_type,
    manifest_of,
    prepared_from,
    prepared_models,
    prepared_path,
    read_manifest,
)
from localprobe.models.stores import find_stored, is_stored_name, named_in_stores
from localprobe.models.vetting import vet

_NAMED_BY_HASH = re.compile(r"(?:sha256[-:])?([0-9a-f]{64})")


@dataclass(frozen=True)
class LoadedModel:
    """A model that has passed the self-check. name: as in models.toml, or the file's stem."""

    name: str
    sha256: str
    model: Model


def model_record(loaded: LoadedModel) -> dict[str, Any]:
    """What a model is, as JSON. source: of one that was prepared, what it was made from."""
    info = loaded.model.info
    record: dict[str, Any] = {
        "name": loaded.name,
        "path": str(loaded.model.path),
        "sha256": loaded.sha256,
        "architecture": info.architecture,
        "n_layer": info.n_layer,
        "n_embd": info.n_embd,
        "file_type": info.file_type,
    }
    made = manifest_of(loaded.model.path)
    if made is not None:
        record["source"] = {
            "name": made.source,
            "sha256": made.source_sha256,
            "file_type": made.source_type,
            "quantized": made.quantized,
            "change": None if made.change is None else asdict(made.change),
        }
    return record


def find(
    name: str,
    *,
    on_gpu: bool = False,
    warn: Callable[[str], object] = lambda _message: None,
) -> tuple[str, Path, str]:
    """Name, file and SHA-256 of a model that llama.cpp can be given: see `locate` and `vet`.

    warn: is told where it will be slow since memory is short.
    """
    name, path, digest = locate(name)
    if not on_gpu:
        # Before it is tried: where memory runs out, systems stop programs.
        warning = check_fits(total_size(path), f"the model {path}", "take a smaller one")
        if warning:
            warn(warning)
    vet(path, digest)
    return name, path, digest


def locate(name: str) -> tuple[str, Path, str]:
    """Name, file and SHA-256 of a model given by name, by the path of a .gguf file or as `stores`
    name it.

    Of a model in several files: the first of them, and a SHA-256 of those of all.
    NAME@type and FILE.gguf@type are what was prepared of them. A known model is fetched when it is
    not in the cache yet.
    """
    file = _as_file(name)
    if file is not None:
        return *file, _hash(file[1])
    if "@" in name:
        return _find_prepared(prepared_name(name))
    entry = registry.entry(name, named_in_stores)
    path = fetch(entry)
    digest = _hash(path)
    if digest != entry.sha256:
        aside = path.with_name(path.name + ".bad")
        path.replace(aside)
        raise FetchError(
            f"the cached file {path} has SHA-256 {digest}, models.toml says {entry.sha256}; it was "
            f"moved to {aside.name}; to fetch it again, run: localprobe models pull {name}"
        )
    return name, path, digest


def _as_file(name: str) -> tuple[str, Path] | None:
    """The file that a name is the path of, or that a store has by it, and what it is called.

    None where it is no such name. Raises LocalprobeError (ModelError, FetchError) where it is gone.
    """
    if is_stored_name(name):
        if "@" in name and not name.lower().endswith(".gguf"):
            return None
        found = find_stored(name)
        return found.short, found.path
    path = user_path(name) if name.startswith("~") else Path(name)
    if path.suffix.lower() != ".gguf" and not path.is_file():
        return None
    if not path.is_file():
        stored = named_in_stores(name)
        hint = f"; did you mean {' or '.join(stored)}?" if stored else ""
        raise ModelError(f"there is no model file {path}{hint}")
    return split_name(path)[0], parts_of(path)[0]


def prepared_name(name: str) -> str:
    """The name of a prepared model that was given as NAME@type or as FILE.gguf@type.

    Raises LocalprobeError where nothing was prepared so.
    """
    base, _, kind = name.rpartition("@")
    kind = kind.lower()
    usual = f"{base}@{kind}"
    known = dict(prepared_models())
    if not base.lower().endswith(".gguf") and usual in known:
        return usual
    check_type(kind)
    stem = f"{split_name(Path(base))[0]}@{kind}"
    is_path = base.lower().endswith(".gguf") and not is_stored_name(base)
    if is_path and not user_path(base).is_file() and stem in known:
        raise ModelError(
            f"there is no model file {base}; what was prepared of one of this name is -m {stem}"
        )
    file = _as_file(base)
    path = file[1] if file else prepared_path(prepared_name(base)) if "@" in base else None
    found = None if path is None else prepared_from(_hash(path), kind)
    if found is None:
        typed = f'"{base}"' if " " in base else base
        raise ModelError(
            f"{usual} has not been prepared; run: localprobe models prepare {typed} --type {kind}"
        )
    return found


def _find_prepared(name: str) -> tuple[str, Path, str]:
    path = prepared_path(name)
    digest, made = _hash(path), read_manifest(path)
    again = f"run: localprobe models remove {name}, and prepare it again"
    if digest != made.sha256:
        raise ModelError(f"{path} is not what was prepared; {again}")
    known = registry.entries().get(name.rpartition("@")[0])
    if known and known.sha256 != made.source_sha256:
        raise ModelError(f"{path} was not made from the {known.name} of models.toml; {again}")
    return name, path, digest


RESUME, FULL = "resume", "full"


def choose_engine(
    loaded: LoadedModel,
    name: str = RESUME,
    batch_size: int = BATCH_SIZE,
    *,
    tell: Callable[[str], object] = lambda _message: None,
) -> tuple[FullEngine, str]:
    """The engine of that name; where resuming was not proved exact on this model, whole passes.

    tell: is told what is done at a model's first use, before it is.
    Also gives why it is not the one asked for, or an empty text.
    """
    if name not in (RESUME, FULL):
        raise LocalprobeError(f"unknown engine {name!r}; {did_you_mean(name, (RESUME, FULL))}")
    noise, reason = _noise(loaded, tell)
    if name == FULL:
        return FullEngine(loaded.model, noise), ""
    if noise is None:
        return FullEngine(loaded.model), reason
    return ResumeEngine(loaded.model, batch_size, noise), ""


def _noise(loaded: LoadedModel, tell: Callable[[str], object]) -> tuple[float | None, str]:
    """That of resuming, in logits; None, and why, where it was not proved exact on this model."""
    if not loaded.model.can_leave_out:
        return None, "this build of llama-cpp-python marks what is to be computed in another way"

    def run() -> str:
        tell(f"measuring {loaded.name}, once ...")
        try:
            with _any_length(loaded.model):
                return check_resume(loaded.model).hex()
        except ModelError as error:
            return str(error)

    found = remembered_of_file(loaded.sha256, f"exact, noise, {loaded.model.devices}", run)
    try:
        noise = float.fromhex(found)
    except (ValueError, OverflowError):
        return None, found
    return (noise, "") if 0 <= noise < math.inf else (None, found)


@contextmanager
def open_model(
    name: str,
    *,
    threads: int = 0,
    gpu_layers: int = 0,
    ctx: int = 0,
    warn: Callable[[str], object] = lambda _message: None,
    tell: Callable[[str], object] = lambda _message: None,
) -> Iterator[LoadedModel]:
    """Load a model and make sure, once per file, that localprobe can probe it.

    warn: is told where it will be slow since memory is short; tell: since others are at work.
    Raises LocalprobeError (ModelError, FetchError) when it cannot be had or cannot be probed.
    """
    if gpu_layers and not has_gpu():
        raise LocalprobeError(
            "--gpu-layers needs a llama-cpp-python that was built for a GPU (see the README)"
        )
    others = Others()
    name, path, digest = find(name, on_gpu=bool(gpu_layers), warn=warn)
    with Model(path, threads=threads, gpu_layers=gpu_layers, ctx=ctx) as model:
        reason = why_not(model, digest)
        if reason:
            raise ModelError(f"{path} cannot be probed: {reason}")
        if threads == 0 and (advice := others.advice()):
            tell(advice)
        yield LoadedModel(name, digest, model)


def why_not(model: Model, digest: str) -> str:
    """Why this model cannot be probed; empty when it can. Remembered per file and engine."""

    def run() -> str:
        try:
            with _any_length(model):
                check(model)
        except ModelError as error:
            return str(error)
        return ""

    return remembered_of_file(digest, f"states, {model.devices}", run)


@contextmanager
def _any_length(model: Model) -> Iterator[None]:
    """For checks: what they find is remembered, whatever --ctx was."""
    asked, model.ctx = model.ctx, model.info.n_ctx_train
    try:
        yield
    finally:
        model.ctx = asked


def _hash(path: Path) -> str:
    parts = parts_of(path)
    try:
        digests = [sha256_of(part) for part in parts]
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}") from None
    for part, digest in zip(parts, digests, strict=True):
        # Ollama and the hub's client name what they keep by its content.
        told = _NAMED_BY_HASH.fullmatch(part.resolve().name)
        if told and told[1] != digest:
            raise ModelError(
                f"{part} is damaged: its SHA-256 is {digest}, which its name says should be "
                f"{told[1]}"
            )
    return joint_sha256(digests)
