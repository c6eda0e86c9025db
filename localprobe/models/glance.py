"""What can be said of a GGUF at a glance: by its header alone, without llama.cpp."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from localprobe.errors import ModelError
from localprobe.files.cache import known_of_file, known_sha256, remembered_of_place
from localprobe.files.foreign import printable
from localprobe.files.parts import joint_sha256, parts_of, total_size
from localprobe.models.header import FILE_TYPES, Header, read_header
from localprobe.models.known import KNOWN


@dataclass(frozen=True)
class Glance:
    """architecture and file_type are empty where the header cannot be read, or does not say.

    can_probe: what checks found when it was used; not tried yet: False where the header shows that
    it cannot be, else None. reason: why not. known: whether it is of an architecture that works.
    """

    architecture: str
    file_type: str
    size: int
    can_probe: bool | None
    reason: str
    known: bool


def glance(path: Path) -> Glance:
    """Of a model's first part. Raises OSError or ModelError where a file of it is gone."""
    parts = parts_of(path)
    size = total_size(path)

    def look() -> str:
        return json.dumps(asdict(_look(path, size)))

    # What is remembered is that of one file.
    seen = remembered_of_place(path, "header", look) if len(parts) == 1 else look()
    try:
        found = Glance(**json.loads(seen))
    except (ValueError, TypeError):
        found = _look(path, size)
    verdict = _verdict(parts)
    if found.can_probe is None and verdict is not None:
        return replace(found, can_probe=not verdict, reason=verdict)
    return found


def _look(path: Path, size: int) -> Glance:
    try:
        header = read_header(path)
    except ModelError as error:
        reason = str(error).replace(f"{path} cannot be used: ", "")
        return Glance("", "", size, False, reason, known=False)
    architecture = header.metadata["general.architecture"]
    assert isinstance(architecture, bytes)
    name = printable(architecture.decode(errors="replace"), 40)
    number = header.metadata.get("general.file_type")
    file_type = FILE_TYPES.get(number, "") if isinstance(number, int) else ""
    reason = _why_not(header, name)
    return Glance(name, file_type, size, False if reason else None, reason, name in KNOWN)


def _why_not(header: Header, architecture: str) -> str:
    if not any(tensor.name == "token_embd.weight" for tensor in header.tensors):
        return "it has no embeddings of tokens: it is no language model, or only a piece of one"
    if "bert" in architecture or header.metadata.get(f"{architecture}.attention.causal") is False:
        return "it is an embedding model: it gives vectors for texts, and no next token"
    return ""


def _verdict(parts: tuple[Path, ...]) -> str | None:
    """What the self-check found, if it is remembered: why not, or an empty text."""
    digests = [digest for digest in map(known_sha256, parts) if digest]
    if len(digests) < len(parts):
        return None
    found = known_of_file(joint_sha256(digests), "what can be done, ")
    return min((json.loads(each)["refused"] for each in found), default=None)
