"""A home folder as other programs leave it: stores with models in them, whole and damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from helpers import tiny

LINKS = os.name != "nt"
"""Whether they can be made without rights of their own."""


def fill(home: Path, model: Path, other: Path) -> None:
    """All stores, with two models that work, and what can be wrong with others."""
    ollama(home / ".ollama" / "models", model, other)
    lmstudio(home / ".lmstudio" / "models", model, other)
    llama_cpp(home / ".cache" / "llama.cpp", model)
    hub(home / ".cache" / "huggingface" / "hub", model, other)


def ollama(root: Path, model: Path, other: Path) -> None:
    blob(root, model)
    manifest(root, "registry.ollama.ai/library/tiny/latest", sha256(model))
    manifest(root, "registry.ollama.ai/library/tiny/1b", blob(root, other))
    manifest(root, "registry.ollama.ai/someone/tuned/v2", sha256(model))
    manifest(root, "hf.co/owner/repo-GGUF/Q4_K_M", sha256(model))
    # And what is to be passed by.
    manifest(root, "registry.ollama.ai/library/gone/latest", "0" * 64)
    manifest(root, "registry.ollama.ai/library/odd/latest", "../../../../etc/passwd")
    manifest(root, "registry.ollama.ai/library/adapted/latest", sha256(model), adapter=True)
    places = root / "manifests" / "registry.ollama.ai" / "library"
    for name, text in {
        "half": '{"layers": [',
        "list": "[]",
        "deep": "[" * 200_000,
        "empty": '{"layers": []}',
        "number": '{"layers": 7}',
        "text": '{"layers": ["model"]}',
        "binary": "\udcff",
    }.items():
        (places / name).mkdir()
        data = text.encode(errors="surrogateescape")
        (places / name / "latest").write_bytes(data)
    (root / "manifests" / ".DS_Store").write_bytes(b"\0")
    if LINKS:
        outside = root.parent / "outside.gguf"
        shutil.copy(model, outside)
        manifest(root, "registry.ollama.ai/library/escaped/latest", "1" * 64)
        (root / "blobs" / f"sha256-{'1' * 64}").symlink_to(outside)
        (places / "led").mkdir()
        (places / "led" / "latest").symlink_to(outside)


def lmstudio(root: Path, model: Path, other: Path) -> None:
    repo = root / "publisher" / "tiny-GGUF"
    repo.mkdir(parents=True)
    shutil.copy(model, repo / "tiny-F32.gguf")
    shutil.copy(other, repo / "other.gguf")
    (repo / "half.gguf").write_bytes(model.read_bytes()[:5000])
    (repo / "no.gguf").write_bytes(b"not a model")
    (repo / "readme.md").write_text("tiny", encoding="utf-8")
    tiny.write(tiny.build("llama"), root / "publisher" / "big.gguf", part=12)
    (root / "lost").mkdir()
    shutil.copy(model, root / "lost" / "lost-00001-of-00002.gguf")
    if LINKS:
        elsewhere = root.parents[1] / "elsewhere"
        elsewhere.mkdir()
        shutil.copy(model, elsewhere / "m.gguf")
        (root / "linked").symlink_to(elsewhere, target_is_directory=True)
        (repo / "led.gguf").symlink_to(elsewhere / "m.gguf")
        (root / "publisher" / "circle").symlink_to(root, target_is_directory=True)
        (repo / "round.gguf").symlink_to(repo / "round.gguf")


def llama_cpp(root: Path, model: Path) -> None:
    root.mkdir(parents=True)
    shutil.copy(model, root / "owner_repo_tiny.gguf")
    (root / "owner_repo_tiny.gguf.json").write_text("{}", encoding="utf-8")


def hub(root: Path, model: Path, other: Path) -> None:
    """As the hub's client leaves it; where there are no links, it puts files into snapshots."""
    for repo, revision, file, source in (
        ("models--owner--tiny-GGUF", "a" * 40, "tiny.gguf", model),
        ("models--owner--tiny-GGUF", "a" * 40, "sub/other.gguf", other),
        ("models--owner--tiny-GGUF", "b" * 40, "tiny.gguf", other),
        ("models--gpt2", "c" * 40, "gpt2.gguf", model),
    ):
        snapshot = root / repo / "snapshots" / revision / file
        snapshot.parent.mkdir(parents=True, exist_ok=True)
        if LINKS:
            kept = root / repo / "blobs" / sha256(source)
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(source, kept)
            snapshot.symlink_to(kept)
        else:
            shutil.copy(source, snapshot)
    refs = root / "models--owner--tiny-GGUF" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40, encoding="utf-8")
    (root / "models--owner--empty").mkdir()
    (root / "version.txt").write_text("1", encoding="utf-8")
    if LINKS:
        snapshot = root / "models--owner--tiny-GGUF" / "snapshots" / ("a" * 40)
        (snapshot / "gone.gguf").symlink_to(root / "models--owner--tiny-GGUF" / "blobs" / "gone")
        (snapshot / "led.gguf").symlink_to(model)


def blob(root: Path, model: Path) -> str:
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    digest = sha256(model)
    shutil.copy(model, root / "blobs" / f"sha256-{digest}")
    return digest


def manifest(root: Path, place: str, digest: str, *, adapter: bool = False) -> None:
    layers: list[dict[str, Any]] = [
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
        {"mediaType": "application/vnd.ollama.image.license", "digest": f"sha256:{'2' * 64}"},
    ]
    if adapter:
        kind = "application/vnd.ollama.image.adapter"
        layers.append({"mediaType": kind, "digest": f"sha256:{'3' * 64}"})
    path = root / "manifests" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schemaVersion": 2, "layers": layers}), encoding="utf-8")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def state(home: Path) -> dict[str, tuple[int, int, str]]:
    """Everything in it: whether anything was changed is seen by comparing two."""
    return {
        str(path): (
            path.lstat().st_mtime_ns,
            path.lstat().st_size,
            str(path.readlink()) if path.is_symlink() else "",
        )
        for path in home.rglob("*")
    }
