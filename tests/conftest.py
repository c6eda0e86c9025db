"""Fixtures: tiny models (session), a private cache, and the real default model."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before OpenMP is loaded: threads of several processes that wait for one another in loops, each
    # on every core, take the cores from those that compute.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
from helpers import tiny, workers
from helpers.dequantise import dequantise
from hypothesis import settings

from localprobe import api
from localprobe.engine.full import FullEngine
from localprobe.engine.resume import ResumeEngine
from localprobe.llama import rearranged, rpc
from localprobe.llama.model import Model
from localprobe.models import opening as models

# The same in every run: what is new is looked for by the thorough one. A busy machine is no error.
settings.register_profile("default", max_examples=50, derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=1500, deadline=None)
settings.load_profile("default")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole stretches of the tests for each process, so that few make the same models."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


ARCHITECTURES = (
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "gptneox",
)
PARALLEL = ("falcon", "phi2", "command-r")
"""Attention and feed-forward side by side behind one norm."""
BESIDE = ("gemma4",)
"""Blocks are given more than the state: inputs of their own, and keys and values of others."""
HYBRIDS = ("jamba",)
"""By whole passes alone."""


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """arch -> the path of a tiny GGUF of that architecture."""
    folder = tmp_path_factory.mktemp("tiny")
    made: dict[str, Path] = {}

    def file(arch: str) -> Path:
        if arch not in made:
            made[arch] = tiny.write(tiny.build(arch), folder / f"{arch}.gguf")
        return made[arch]

    return file


@pytest.fixture(scope="session")
def tiny_engine(tiny_file: Callable[[str], Path]) -> Iterator[Callable[[str], FullEngine]]:
    """arch -> an engine over a loaded tiny model."""
    engines: dict[str, FullEngine] = {}

    def engine(arch: str) -> FullEngine:
        if arch not in engines:
            engines[arch] = FullEngine(Model(tiny_file(arch), threads=1))
        return engines[arch]

    yield engine
    for each in engines.values():
        each.model.close()


@pytest.fixture(scope="session")
def resume_engine(tiny_file: Callable[[str], Path]) -> Iterator[Callable[[str], ResumeEngine]]:
    """arch -> a resume engine, of three prompts a decode, with a model of its own."""
    engines: dict[str, ResumeEngine] = {}

    def engine(arch: str) -> ResumeEngine:
        if arch not in engines:
            engines[arch] = ResumeEngine(Model(tiny_file(arch), threads=1), batch_size=3)
        return engines[arch]

    yield engine
    for each in engines.values():
        each.model.close()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a working directory without a models.toml.

    The home folder, where other programs keep their models, is tmp_path/home.
    """
    cache = tmp_path / "cache"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("LOCALPROBE_CACHE", str(cache))
    monkeypatch.setattr("localprobe.models.registry.config_dir", lambda: tmp_path / "config")
    monkeypatch.setattr("localprobe.models.stores._home", lambda: tmp_path / "home")
    monkeypatch.setattr("localprobe.models.stores._OLLAMA_SERVICE", tmp_path / "service")
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(work)
    return cache


@pytest.fixture
def as_in_the_manual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that lie as in the file: in AMX's layout they round otherwise, and attention is then
    chosen otherwise, too.
    """
    monkeypatch.setattr(rearranged, "is_safe", lambda: False)


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The real default model, fetched once into the user's cache."""
    return models.find("smollm2-135m")[1]


@pytest.fixture(scope="session")
def float32_model(default_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with float32 weights."""
    path = tmp_path_factory.mktemp("float32") / "smollm2-f32.gguf"
    dequantise(default_model, path)
    return path


@pytest.fixture(scope="session")
def rpc_library() -> Iterator[None]:
    """An install that can use workers and be one; compiled where it cannot by itself."""
    try:
        path = workers.library()
    except workers.CannotBuildError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"llama.cpp's RPC cannot be compiled here: {error}")
    with pytest.MonkeyPatch.context() as patched:
        if path is not None:
            patched.setenv(rpc.LIBRARY, str(path))
        rpc._library.cache_clear()
        yield
    rpc._library.cache_clear()


@pytest.fixture(scope="session")
def two_workers(rpc_library: None) -> Iterator[tuple[workers.Worker, workers.Worker]]:
    """Two workers on loopback, with a thread each. Whoever kills one starts its own."""
    started: list[workers.Worker] = []
    try:
        started += [workers.Worker()]
        started += [workers.Worker()]
        yield started[0], started[1]
    finally:
        for worker in started:
            worker.kill()


@pytest.fixture(scope="session")
def coverage() -> ModuleType:
    """The script that measures in full how often intervals hold the truth."""
    path = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny_file: Callable[[str], Path]) -> Iterator[api.Model]:
    """A tiny Llama; by whole passes: `slow`."""
    with api.Model(tiny_file("llama"), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def slow(tiny_file: Callable[[str], Path]) -> Iterator[api.Model]:
    with api.Model(tiny_file("llama"), threads=1, engine="full") as opened:
        yield opened
