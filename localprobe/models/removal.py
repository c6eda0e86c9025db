"""What models take of the disk, given back: files of our cache, and what is remembered of them.

Nothing outside the cache is ever removed; names are looked up in it, never made into paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localprobe.errors import LocalprobeError, did_you_mean
from localprobe.files.cache import forget_file
from localprobe.models import registry
from localprobe.models.prepare import TYPES, manifest_of, prepared_models, remove_prepared
from localprobe.models.stores import is_stored_name


@dataclass(frozen=True)
class Cached:
    """A model's files in the cache. digest: the SHA-256 that the model should have, if known."""

    name: str
    files: tuple[Path, ...]
    digest: str
    is_prepared: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.stat().st_size for file in self.files)


def cached_models() -> dict[str, Cached]:
    """All that is in the cache, by name: models that were fetched, then those prepared."""
    found = {}
    for entry in registry.entries().values():
        # Beside it: one that was not as it should be, and was moved aside.
        places = (entry.path, entry.path.with_name(entry.path.name + ".bad"))
        files = tuple(path for path in places if path.is_file())
        if files:
            found[entry.name] = Cached(entry.name, files, entry.sha256, False)
    for name, path in prepared_models():
        made = manifest_of(path)
        found[name] = Cached(name, (path,), made.sha256 if made else "", True)
    return found


def cached(name: str) -> Cached:
    """What is in the cache of a model: a name of models.toml, NAME@type or FILE.gguf@type.

    Raises LocalprobeError where nothing is.
    """
    known = cached_models()
    base, at, kind = name.rpartition("@")
    for each in (name, base + at + kind.lower()):
        if each in known:
            return known[each]
    if base.lower().endswith(".gguf") or (kind.lower() in TYPES and is_stored_name(base)):
        from localprobe.models.opening import prepared_name

        return known[prepared_name(name)]
    if is_stored_name(name):
        raise LocalprobeError(
            f"{name} belongs to another program; localprobe removes only what is in its cache"
        )
    if name.lower().endswith(".gguf") or Path(name).is_file():
        raise LocalprobeError(
            f"{name} is a file of yours; localprobe removes only what is in its cache"
        )
    if name in registry.entries():
        raise LocalprobeError(f"{name} is not in the cache: there is nothing to remove")
    hint = did_you_mean(name, known) if known else "the cache holds none"
    raise LocalprobeError(f"the cache holds no model {name!r}; {hint}")


def remove(model: Cached) -> None:
    """Delete a model's files, and forget what is remembered of them.

    Raises LocalprobeError where a file cannot be deleted, as one that is in use on Windows.
    """
    for file in model.files:
        forget_file(file, model.digest)
        try:
            if model.is_prepared:
                remove_prepared(file)
            else:
                file.unlink()
        except OSError as error:
            raise LocalprobeError(f"cannot remove {file}: {error.strerror or error}") from None
