"""What two runs were run with otherwise, in words for a reader.

`manifest.differences` is its strict counterpart: it decides whether a run can be gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localprobe.files.foreign import printable
from localprobe.runs.manifest import Manifest

_OWN: Mapping[object, str] = {None: "the task's own"}
# Key -> what it is called, and what is said for a value that is no word.
_EXPERIMENT: Mapping[str, tuple[str, Mapping[object, str]]] = {
    "interventions": ("interventions", {}),
    "layers": ("layers", {}),
    "n": ("examples asked for", {None: "all"}),
    "seed": ("seed", {}),
    "metric": ("metric", _OWN),
    "all_examples": ("examples used", {True: "all", False: "those the clean model gets right"}),
    "max_tokens": ("longest answer in tokens", _OWN),
    "max_prompt_tokens": ("longest article in tokens", _OWN),
    "template": ("template", _OWN),
    "shots": ("solved ones in front", _OWN),
    "data": ("data", _OWN),
    "digits": ("digits", _OWN),
    "chat": ("chat template", {True: "on", False: "off"}),
    "shard": ("shard", {}),
    "patience": ("lost layers in a row that end it", {None: "any number"}),
    "check": ("share tried below", {None: "all"}),
    "keep": ("share that survives", {None: "0.9"}),
    "until_width": ("layers of the interval to end at", {}),
    "adaptive": ("examples", {None: "as many at each layer", True: "until a layer is sure"}),
    "width": ("width of the intervals to end at", {}),
}
_MACHINERY = {
    "localprobe": "localprobe",
    "llama_cpp_python": "llama-cpp-python",
    "numpy": "numpy",
    "engine": "engine",
    "devices": "devices",
    "batch": "prompts in one decode",
}


def in_words(one: Manifest, other: Manifest) -> list[str]:
    """As "seed 0, not 3": what the first run has, and what the other. The model aside."""
    mine, theirs = one.data["experiment"], other.data["experiment"]
    found = []
    for key in dict.fromkeys([*_EXPERIMENT, *mine, *theirs]):
        what, values = _EXPERIMENT.get(key, (printable(key).replace("_", " "), {}))
        found.append((what, *(_shown(each.get(key), values) for each in (mine, theirs))))
    for key, what in _MACHINERY.items():
        found.append((what, *(_shown(each.data.get(key), {}) for each in (one, other))))
    return [f"{what} {left}, not {right}" for what, left, right in found if left != right]


def _shown(value: Any, words: Mapping[object, str]) -> str:
    if value is None or isinstance(value, bool):
        return words.get(value, "none" if value is None else str(value).lower())
    if isinstance(value, list):
        return printable(", ".join(map(str, value)), 60)
    if isinstance(value, dict) and {"file", "sha256"} <= value.keys():
        # By its hash: the same data may lie under another name.
        return f"with SHA-256 {printable(str(value['sha256']), 12)}"
    has_spaces = isinstance(value, str) and (value.split() != [value])
    return printable(repr(value) if has_spaces else str(value), 60)
