"""A model by name or path: found, fetched, hashed, vetted, loaded, checked.

with open_model("smollm2-135m") as probe:
    probe.model.tokenize("...")
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localprobe.engine.full import FullEngine
from localprobe.engine.proof import check_resume, keeps_bits, moved_by_flash
from localprobe.engine.resume import BATCH_SIZE, ResumeEngine
from localprobe.engine.tokens_proof import check_hiding, check_hiding_resumed
from localprobe.errors import FetchError, LocalprobeError, ModelError, did_you_mean
from localprobe.files.cache import remembered_of_file, sha256_of, user_path
from localprobe.files.parts import joint_sha256, parts_of, split_name, total_size
from localprobe.llama import rearranged
from localprobe.llama.check import check
from localprobe.llama.devices import Device, chosen, own_devices
from localprobe.llama.memory import check_fits
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.rpc import Workers, endpoints
from localprobe.llama.threads import Others
from localprobe.llama.verdict import Verdict
from localprobe.models import registry
from localprobe.models.fetch import fetch
from localprobe.models.header import read_header
from localprobe.models.placement import AUTO, needs, parse_gpu_layers, place, what_was_chosen
from localprobe.models.prepare import (
    check_type,
    manifest_of,
    prepare,
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
        # As in records of before there was a choice.
        **({"attention": FLASH} if loaded.model.attention == FLASH else {}),
        **({"blocks_on": str(loaded.model.placement)} if loaded.model.placement else {}),
        **_beside(loaded.model.verdict),
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


def known_prompts(loaded: LoadedModel) -> Mapping[str, registry.Prompting]:
    """By task, the prompts that models.toml has for a model, or for what it was prepared from."""
    made = manifest_of(loaded.model.path)
    return registry.prompts_of(loaded.sha256, *([] if made is None else [made.source_sha256]))


def _beside(verdict: Verdict) -> dict[str, Any]:
    """What is written where blocks are given more than the state; nothing of usual models."""
    found: dict[str, Any] = {}
    if verdict.has_inputs:
        # As a hook before a block of the original would: its other arguments stay.
        found["written"] = "state, not per-layer inputs"
    if verdict.shared is not None:
        found["past_shared_from"] = verdict.shared
    if verdict.unread is not None:
        found["past_unread_from"] = verdict.unread
    return found


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
    not in the cache yet, and the default one then prepared.
    """
    file = _as_file(name)
    if file is not None:
        return *file, _hash(file[1])
    if name == registry.DEFAULT_MODEL and not prepared_path(name).exists():
        prepare(*locate(registry.DEFAULT_FILE), name.rpartition("@")[2])
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
    batch_size: int | None = BATCH_SIZE,
    *,
    tell: Callable[[str], object] = lambda _message: None,
) -> tuple[FullEngine, str]:
    """The engine of that name; where resuming was not proved exact on this model, whole passes.

    batch_size: how many prompts may share a decode; None for as many as change no bit of each
    other. Whether any do is found out at a model's first use.
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
    is_exact = loaded.model.attention == EXACT
    # Under flash attention bits have a price, which is paid where they were asked for.
    keeps = (batch_size is None or (is_exact and batch_size != 1)) and _keeps_bits(loaded)
    size = (BATCH_SIZE if keeps else 1) if batch_size is None else batch_size
    if not keeps and loaded.model.on_cpu and is_exact:
        # Company can change more than bits: llama.cpp keeps Chameleon from naming image tokens in
        # the first output of a decode alone.
        size = 1
    return ResumeEngine(loaded.model, size, noise, keeps_bits=keeps), ""


AUTO_ATTENTION = "auto"


def _check_attention(name: str) -> None:
    ways = (EXACT, FLASH, AUTO_ATTENTION)
    if name not in ways:
        raise LocalprobeError(f"unknown attention {name!r}; {did_you_mean(name, ways)}")


def _suited_attention(loaded: LoadedModel, tell: Callable[[str], object]) -> str:
    """FLASH where what it rounds is no more than what these weights round anyway, else EXACT.

    What they round anyway is how far the same prompts are apart in other decodes; measured once.
    """
    model = loaded.model
    if re.search(r"\bF(32|16)\b", model.info.file_type):
        return EXACT
    noise, _ = _noise(loaded, tell)
    if noise is None:
        return EXACT

    def run() -> str:
        try:
            with _any_length(model):
                return moved_by_flash(model).hex()
        except ModelError:
            return "inf"

    moved = remembered_of_file(loaded.sha256, f"moved by flash, {model.checked_on}", run)
    try:
        return FLASH if float.fromhex(moved) <= noise else EXACT
    except (ValueError, OverflowError):
        return EXACT


def why_whole_passes(model: Model) -> str:
    """Why resuming needs no trying with this model; empty where it does."""
    if model.is_recurrent:
        return (
            "it is recurrent: its memory of the past cannot go back to an earlier token, and skip "
            "switches off all that mixes tokens, not attention alone"
        )
    if model.verdict.writing:
        return model.verdict.writing
    if not model.can_leave_out:
        return "this build of llama-cpp-python marks what is to be computed in another way"
    return ""


def _noise(loaded: LoadedModel, tell: Callable[[str], object]) -> tuple[float | None, str]:
    """That of resuming, in logits; None, and why, where it was not proved exact on this model."""
    if reason := why_whole_passes(loaded.model):
        return None, reason

    def run() -> str:
        tell(f"measuring {loaded.name}, once ...")
        try:
            with _any_length(loaded.model):
                return check_resume(loaded.model).hex()
        except ModelError as error:
            return str(error)

    found = remembered_of_file(loaded.sha256, f"exact, noise, {loaded.model.checked_on}", run)
    try:
        noise = float.fromhex(found)
    except (ValueError, OverflowError):
        return None, found
    return (noise, "") if 0 <= noise < math.inf else (None, found)


def _keeps_bits(loaded: LoadedModel) -> bool:
    """Whether prompts that share decodes get the bits that they get alone; tried once per file."""

    def run() -> str:
        try:
            with _any_length(loaded.model):
                return str(keeps_bits(loaded.model))
        except LocalprobeError:
            return str(False)

    found = remembered_of_file(loaded.sha256, f"bits in company, {loaded.model.checked_on}", run)
    return found == str(True)


@dataclass(frozen=True)
class Where:
    """Where a model is to be computed, as a user says it; the CPU, where nothing is said.

    gpu_layers: how many layers, from the last one (the output) on, are not on the CPU; -1: all;
    "auto": as many as there is room for. Not given, it is auto where devices or workers are named.
    names: devices, as `localprobe devices` prints them. rpc: HOST:PORT,… of workers.
    """

    gpu_layers: int | str | None = None
    names: tuple[str, ...] = ()
    rpc: str = ""

    @property
    def workers(self) -> tuple[str, ...]:
        return endpoints(self.rpc)

    @property
    def asked(self) -> int | str:
        if self.gpu_layers is None:
            return AUTO if self.names or self.rpc else 0
        return parse_gpu_layers(self.gpu_layers)

    def devices(self, workers: Workers) -> list[Device]:
        """Those that get a part of the model. Raises LocalprobeError where there are none."""
        if not self.names and self.asked == 0:
            return []
        with workers.watched():
            found = chosen([*workers.devices, *own_devices()], self.names)
        if not found and not self.names and self.asked != AUTO:
            raise LocalprobeError(
                "--gpu-layers needs a llama-cpp-python that was built for a GPU, or workers (see "
                "localprobe devices)"
            )
        return found if self.asked != 0 else []


@contextmanager
def exactly(loaded: LoadedModel) -> Iterator[None]:
    """Attention in float32 for a while: its weights can be read, and its masks written to."""
    model = loaded.model
    way, model.attention = model.attention, EXACT
    try:
        yield
    finally:
        model.attention = way


def why_not_hidden(loaded: LoadedModel, *, resuming: bool) -> str:
    """Why tokens cannot be hidden from the last one in this model; empty when they can.

    resuming: by computing only what changes. Remembered per file and engine.
    """
    check_it = check_hiding_resumed if resuming else check_hiding

    def run() -> str:
        try:
            with _any_length(loaded.model):
                check_it(loaded.model)
        except ModelError as error:
            return str(error)
        return ""

    what = f"{check_it.__name__}, {loaded.model.checked_on}"
    return remembered_of_file(loaded.sha256, what, run)


@contextmanager
def open_model(
    name: str,
    *,
    threads: int = 0,
    where: Where = Where(),
    ctx: int = 0,
    attention: str = AUTO_ATTENTION,
    warn: Callable[[str], object] = lambda _message: None,
    tell: Callable[[str], object] = lambda _message: None,
) -> Iterator[LoadedModel]:
    """Load a model and make sure, once per file, that localprobe can probe it.

    attention: EXACT, FLASH, or AUTO_ATTENTION for what suits its weights.

    warn: is told where it will be slow since memory is short, and what was chosen by itself; tell:
    where others are at work.
    Raises LocalprobeError (ModelError, FetchError) when it cannot be had or cannot be probed.
    """
    _check_attention(attention)
    others = Others()
    with Workers(where.workers) as workers:
        devices = where.devices(workers)
        name, path, digest = find(name, on_gpu=bool(devices), warn=warn)
        placement = None
        if devices:
            needed = needs(read_header(path), ctx)
            with workers.watched():
                placement = place(needed, devices, where.asked)
            if where.asked == AUTO:
                warn(what_was_chosen(placement))
            left = sum(needed.layers[: len(needed.layers) - placement.n_placed])
            what = f"what of {path} is on the CPU"
            if warning := check_fits(left, what, "put more on devices (--gpu-layers)"):
                warn(warning)
        with Model(
            path,
            threads=threads,
            placement=placement,
            workers=workers,
            ctx=ctx,
            tiles=_fits_tiles(path, digest),
        ) as model:
            if reason := judge(model, digest).refused:
                raise ModelError(f"{path} cannot be probed: {reason}")
            # Workers may be on this machine, and are no others.
            if threads == 0 and not where.rpc and (advice := others.advice()):
                tell(advice)
            loaded = LoadedModel(name, digest, model)
            if attention == AUTO_ATTENTION:
                attention = _suited_attention(loaded, tell)
            model.attention = attention
            if attention == FLASH and (reason := judge(model, digest).refused):
                raise ModelError(
                    f"{path} cannot be probed with flash attention: {reason}; "
                    f"take --attention {EXACT}"
                )
            yield loaded


def _fits_tiles(path: Path, digest: str) -> bool:
    def run() -> str:
        every = read_header(path).tensors
        return str(rearranged.fit_tiles((each.kind, each.shape[0]) for each in every))

    return rearranged.has_tiles() and remembered_of_file(digest, "fits tiles", run) == str(True)


def judge(model: Model, digest: str) -> Verdict:
    """What can be done with this model, which it is told, too. Remembered per file and engine."""

    def run() -> str:
        try:
            with _any_length(model):
                found = check(model)
        except ModelError as error:
            found = Verdict(refused=str(error))
        return json.dumps(asdict(found))

    remembered = remembered_of_file(digest, f"what can be done, {model.checked_on}", run)
    model.verdict = Verdict(**json.loads(remembered))
    return model.verdict


@contextmanager
def _any_length(model: Model) -> Iterator[None]:
    """For checks: what they find is remembered, whatever --ctx was."""
    asked, model.ctx = model.ctx, model.most_ctx
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
