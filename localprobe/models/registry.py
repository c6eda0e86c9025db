"""models.toml: which models are known by name, and where each comes from.

The list that comes with localprobe is added to by a models.toml in the configuration folder and
by one in the working directory; later ones win.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.files.cache import cache_dir, config_dir
from localprobe.files.resources import resource
from localprobe.files.tomlfile import TomlFile

DEFAULT_FILE = "smollm2-135m"
DEFAULT_MODEL = f"{DEFAULT_FILE}@bf16"
"""Its weights, unpacked when first used. llama.cpp multiplies Q4_1 with activations rounded
to 8 bits, and slowly; unpacked they are several times as fast on most CPUs, and logits are nearer
to those of the file's weights in float32 (a test says by how much)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+-]*(/[A-Za-z0-9_.][A-Za-z0-9 ._+-]*)*")
_FORMS = {
    "wheel": (
        re.compile(
            r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
            r"==([0-9]+!)?[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?"
        ),
        "like name==1.0",
    ),
    "member": (_PATH, "the path of a file in the wheel"),
    "hf": (re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII), "like owner/name"),
    "revision": (_PATH, "a branch, a tag or a commit"),
    "file": (_PATH, "the path of a file in the repository"),
}


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel on a Python package index, or its parts in several, in their order.

    parts: requirements like name==1.0, each with the path of its member.
    """

    parts: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return ", ".join(f"{member} in the wheel {wheel}" for wheel, member in self.parts)


@dataclass(frozen=True)
class HubSource:
    """A file in a repository of the Hugging Face hub."""

    repo: str
    revision: str
    file: str

    def __str__(self) -> str:
        return f"{self.file} of {self.repo} at {self.revision} on the Hugging Face hub"


@dataclass(frozen=True)
class Prompting:
    """How to ask a model: a template, or so many solved ones in front of a task's own prompt."""

    template: str | None = None
    shots: int | None = None

    def __str__(self) -> str:
        return f"{self.shots} shots" if self.template is None else repr(self.template)


@dataclass(frozen=True)
class Entry:
    """One model of models.toml. size: bytes of the GGUF, for display and progress bars.

    prompts: by task, which prompt suits it better than the task's own, if one is known.
    """

    name: str
    architecture: str
    source: WheelSource | HubSource
    sha256: str
    license: str
    size: int
    note: str
    prompts: Mapping[str, Prompting] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the GGUF lies once it has been fetched."""
        return cache_dir() / "models" / f"{self.name}-{self.sha256[:12]}.gguf"


def entries() -> dict[str, Entry]:
    """Every known model, by name. Raises LocalprobeError for a broken models.toml."""
    known = _read(resource("models.toml"))
    for path in (config_dir() / "models.toml", Path("models.toml")):
        if path.is_file():
            known.update(_read(path))
    return known


def entry(name: str, meant: Callable[[str], Iterable[str]] = lambda _name: ()) -> Entry:
    """The model of that name. Raises LocalprobeError with the near misses for an unknown one.

    meant: what else may have been meant by it, if anything.
    """
    known = entries()
    if name not in known:
        others = list(meant(name))
        hint = f"did you mean {' or '.join(others)}?" if others else did_you_mean(name, known)
        raise LocalprobeError(
            f"unknown model {name!r}: neither a name in models.toml nor a .gguf file; {hint}"
        )
    return known[name]


def _read(path: Path) -> dict[str, Entry]:
    file = TomlFile(path)
    return {name: _entry(file, name, table) for name, table in file.data.items()}


_COMMON: Mapping[str, type] = {
    "architecture": str,
    "sha256": str,
    "license": str,
    "size": int,
    "note": str,
}
_WHEEL: Mapping[str, type] = {"wheel": str, "member": str}
_HUB: Mapping[str, type] = {"hf": str, "revision": str, "file": str}


def _entry(file: TomlFile, name: str, table: Any) -> Entry:
    if not isinstance(table, dict):
        raise file.error(f"{name!r} must be a table: [{name}]", key=name)
    if not _NAME.fullmatch(name):
        raise file.error(f"the model name {name!r} may hold letters, digits, . _ and -", name)
    if ("wheel" in table) == ("hf" in table):
        raise file.error(f"the model {name} needs one source, either wheel or hf", name)
    wanted = {**_COMMON, **(_WHEEL if "wheel" in table else _HUB)}
    table, prompts = dict(table), table.get("prompts", {})
    table.pop("prompts", None)
    for key, value in table.items():
        if key not in wanted:
            hint = did_you_mean(key, [*wanted, "prompts"])
            raise file.error(f"unknown key {key!r}; {hint}", name, key)
        in_parts = key in _WHEEL and isinstance(value, list) and value
        if any(type(each) is not wanted[key] for each in (value if in_parts else [value])):
            kind = "a whole number" if wanted[key] is int else "a text"
            raise file.error(f"{key} must be {kind}", name, key)
    for key in wanted:
        if key not in table:
            raise file.error(f"the model {name} lacks the key {key!r}", name)
    if not _SHA256.fullmatch(table["sha256"]):
        raise file.error("sha256 must be 64 hexadecimal digits in lower case", name, "sha256")
    if not 0 < table["size"] < 2**50:
        raise file.error("size must be the number of bytes of the GGUF", name, "size")
    for key, (pattern, meaning) in _FORMS.items():
        # These go to pip and to the hub's client, and name files: nothing else may hide in them.
        for text in _listed(table.get(key, [])):
            if not (pattern.fullmatch(text) and ".." not in text.split("/")):
                raise file.error(f"{key} must be {meaning}, not {text!r}", name, key)
    if "wheel" in table:
        wheels, members = _listed(table["wheel"]), _listed(table["member"])
        if len(wheels) != len(members):
            raise file.error("wheel and member must be of the same length", name, "member")
        source: WheelSource | HubSource = WheelSource(tuple(zip(wheels, members, strict=True)))
    else:
        source = HubSource(table["hf"], table["revision"], table["file"])
    return Entry(
        name=name,
        source=source,
        prompts=_prompts(file, name, prompts),
        **{key: table[key] for key in _COMMON},
    )


_PROMPTING: Mapping[str, type] = {"template": str, "shots": int}


def _prompts(file: TomlFile, name: str, table: Any) -> dict[str, Prompting]:
    """Which tasks there are, and what a template of theirs must hold, is for them to say."""
    if not isinstance(table, dict):
        raise file.error(f"prompts must be tables: [{name}.prompts.TASK]", name, "prompts")
    found = {}
    for task, settings in table.items():
        place = f"{name}.prompts.{task}"
        if not isinstance(settings, dict):
            raise file.error(f"{task!r} must be a table: [{place}]", f"{name}.prompts", task)
        for key, value in settings.items():
            if key not in _PROMPTING:
                hint = did_you_mean(key, _PROMPTING)
                raise file.error(f"unknown key {key!r}; {hint}", place, key)
            if type(value) is not _PROMPTING[key]:
                kind = "a whole number" if _PROMPTING[key] is int else "a text"
                raise file.error(f"{key} must be {kind}", place, key)
        if len(settings) != 1:
            raise file.error(f"{place} needs one of template and shots", place)
        found[task] = Prompting(**settings)
    return found


def prompts_of(*digests: str) -> Mapping[str, Prompting]:
    """By task, the prompts that suit the known model with one of these SHA-256, if it is one."""
    for each in entries().values():
        if each.sha256 in digests:
            return each.prompts
    return {}


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
