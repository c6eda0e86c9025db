"""Data flows one way: who may import whom, and who knows llama.cpp."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import localprobe

PACKAGE = Path(localprobe.__file__).parent

MAY_IMPORT = {
    "errors": set[str](),
    "files": {"errors"},
    "llama": {"errors", "files"},
    "engine": {"errors", "llama"},
    "prompts": {"errors", "files", "llama"},
    "tasks": {"errors", "files"},
    "models": {"errors", "files", "llama", "engine"},
    "runs": {"errors", "files", "engine"},
    "experiments": {"errors", "files", "llama", "engine", "prompts", "tasks", "runs"},
    "api": {"errors", "files", "engine", "prompts", "models", "runs", "experiments"},
    "report": {"errors", "files", "llama", "engine", "models", "runs", "experiments", "api"},
    "cli": {
        *("errors", "files", "llama", "engine", "prompts", "tasks"),
        *("models", "runs", "experiments", "api", "report"),
    },
    "__main__": {"cli"},
    "__init__": {"api", "errors"},
}
CTYPES_OF_WINDOWS = "models/vetting.py"
"""Which asks Windows for no dialogue when its child crashes."""


def rooms() -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        wing = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        yield wing, file


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} imports by a relative name"
            if node.module == "localprobe":
                yield from (f"localprobe.{name.name}" for name in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


@pytest.mark.parametrize("wing", MAY_IMPORT)
def test_a_wing_imports_only_those_below_it(wing: str) -> None:
    for its_wing, file in rooms():
        if its_wing != wing:
            continue
        for module in imported(file):
            parts = module.split(".")
            if parts[0] != "localprobe" or len(parts) < 2 or parts[1] == "__version__":
                continue
            assert parts[1] in MAY_IMPORT[wing] | {wing}, f"{file} imports {module}"


def test_every_wing_has_its_place_and_nothing_runs_in_a_circle() -> None:
    assert {wing for wing, _ in rooms()} == MAY_IMPORT.keys()
    order = list(MAY_IMPORT)
    for wing, below in MAY_IMPORT.items():
        if wing != "__init__":
            assert all(order.index(other) < order.index(wing) for other in below)


def test_only_llama_knows_llama_cpp_and_ctypes() -> None:
    for wing, file in rooms():
        for module in imported(file):
            if module.split(".")[0] in ("llama_cpp", "ctypes") and wing != "llama":
                assert file.relative_to(PACKAGE).as_posix() == CTYPES_OF_WINDOWS, module


def test_each_wing_says_what_it_is_for() -> None:
    for file in PACKAGE.glob("*/__init__.py"):
        text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
        assert all(word in text for word in ("In:", "Out:", "Must not know:")), file


def test_runs_are_read_without_llama_cpp() -> None:
    code = "import sys, localprobe.runs.results; assert 'llama_cpp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
