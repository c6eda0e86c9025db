"""GGUFs that other programs keep on this machine: found by name, never copied and never changed.

    ollama:NAME[:TAG]             lmstudio:PUBLISHER/REPO/FILE.gguf
    hf:OWNER/REPO/FILE.gguf       llama.cpp:FILE.gguf

But for Ollama's, the end of a name is enough where only one has it. What lies in a store is read
with suspicion: manifests with bounds, and no link is followed out of the store that it lies in.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from localprobe.errors import LocalprobeError, ModelError, did_you_mean
from localprobe.files.cache import user_path
from localprobe.files.parts import parts_of, split_name
from localprobe.files.textfile import read_text
from localprobe.models.fetch import fetch_from_hub

_MOST_MANIFEST = 1 << 20
_MODEL = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OLLAMA = "registry.ollama.ai"
_OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")
_GONE = "the file that it stands for is not there"
_ON_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)/((?:\w[\w.+-]*/)*\w[\w.+-]*\.gguf)", re.I | re.ASCII)


@dataclass(frozen=True)
class Stored:
    """A GGUF in a store. name: what -m takes. short: what tables call it.

    path: of its first part. trouble: why it cannot be used; empty where nothing is known of.
    """

    name: str
    short: str
    path: Path
    trouble: str = ""


@dataclass(frozen=True)
class Store:
    """title: as in a sentence. roots: where it may lie, and looks at all that lies in one."""

    prefix: str
    title: str
    roots: Callable[[], list[Path]]
    look: Callable[[Store, Path], Iterator[Stored]]

    def models(self) -> list[Stored]:
        """All that is in it, by name; of several by one name, the first that can be used."""
        found: dict[str, Stored] = {}
        for root in dict.fromkeys(self.roots()):
            if _is_there(root):
                for each in self.look(self, root):
                    known = found.get(each.name)
                    if known is None or (known.trouble and not each.trouble):
                        found[each.name] = each
        return sorted(found.values(), key=lambda each: each.name)

    def stored(self, root: Path, path: Path, name: str, short: str = "") -> Stored:
        """One of its files, which must not lead out of it."""
        found = Stored(f"{self.prefix}:{name}", short or split_name(path)[0], path)
        trouble = _trouble(root, path, self.title)
        if not trouble:
            try:
                parts = parts_of(path)
            except ModelError as error:
                trouble = str(error)
            else:
                troubles = (_trouble(root, part, self.title) for part in parts)
                trouble = next(filter(None, troubles), "")
        return Stored(found.name, found.short, path, trouble)


def _trouble(root: Path, path: Path, title: str) -> str:
    try:
        target = path.resolve(strict=True)
        inside = target.is_relative_to(root.resolve())
    except FileNotFoundError:
        return _GONE
    except (OSError, RuntimeError) as error:  # the latter: links in a circle
        return f"it cannot be read ({getattr(error, 'strerror', None) or 'links in a circle'})"
    if not inside:
        return f"it is a link that leads out of {title}; if you trust it, give its path"
    return "" if target.is_file() else "it is no file"


def stores() -> dict[str, Store]:
    """The stores that are known, by the prefix of their models' names."""
    known = (
        Store("ollama", "Ollama's store", _ollama_roots, _look_at_ollama),
        Store("lmstudio", "LM Studio's folder", _lmstudio_roots, _look_at_files),
        Store("llama.cpp", "llama.cpp's cache", _llama_cpp_roots, _look_at_files),
        Store("hf", "the Hugging Face cache", _hub_roots, _look_at_hub),
    )
    return {store.prefix: store for store in known}


def stored_models() -> list[Stored]:
    """All GGUFs of all stores, by store and name; those that cannot be used, too."""
    return [each for store in stores().values() for each in store.models()]


def is_stored_name(name: str) -> bool:
    """Whether a name asks for what is in a store: ollama:…, lmstudio:…, llama.cpp:… or hf:…"""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in stores() and not Path(name).is_file()


def find_stored(name: str) -> Stored:
    """The model of that name; hf:OWNER/REPO/FILE.gguf is fetched where it is not there yet.

    Raises LocalprobeError (ModelError, FetchError) where there is none, or none that can be used.
    """
    prefix, _, wanted = name.partition(":")
    store = stores()[prefix]
    known = store.models()
    found = _matching(prefix, wanted, known)
    found = [each for each in found if not each.trouble] or found
    if len(found) > 1:
        names = " or ".join(each.name for each in found[:3])
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise LocalprobeError(f"{name} may be {names}{more}; say which")
    if found and not found[0].trouble:
        return found[0]
    on_hub = _ON_HUB.fullmatch(wanted) if prefix == "hf" else None
    if on_hub and (not found or found[0].trouble == _GONE):  # which the hub's client mends
        return _fetched(store, name, on_hub[1], on_hub[2])
    if found:
        raise ModelError(f"{found[0].name} cannot be used: {found[0].trouble}")
    raise LocalprobeError(f"{store.title} has no model {name!r}; {_hint(store, wanted, known)}")


def named_in_stores(name: str) -> list[str]:
    """What may be meant by a name that lacks its store, as llama3.2:1b or a file's name does."""
    found: list[str] = []
    near: list[str] = []
    for store in stores().values():
        known = [each for each in store.models() if not each.trouble]
        found += [each.name for each in _matching(store.prefix, name, known)]
        if ":" in name:  # as ollma:llama3.2
            near += get_close_matches(name, [each.name for each in known], n=2, cutoff=0.7)
    return (found or near)[:2]


def _matching(prefix: str, wanted: str, known: Iterable[Stored]) -> list[Stored]:
    whole = f"{prefix}:{wanted}".casefold()
    if prefix == "ollama":
        if ":" not in wanted.rpartition("/")[2]:
            whole += ":latest"
        return [each for each in known if each.name.casefold() == whole]
    # Any part of a model is the whole of it, as the files of llama.cpp are given.
    first = re.sub(r"-\d{5}-of-(\d{5})\.gguf$", r"-00001-of-\1.gguf", whole)
    exact = [each for each in known if each.name.casefold() == first]
    end = "/" + first.partition(":")[2].removesuffix(".gguf")
    return exact or [each for each in known if _is_called(each, end)]


def _is_called(stored: Stored, end: str) -> bool:
    """By the end of its name, its ending and which part it is aside; or by its folders.

    end: with a slash before it, in lower case.
    """
    place = "/" + stored.name.partition(":")[2].casefold()
    folder, _, file = place.rpartition("/")
    ends = (place.removesuffix(".gguf"), f"{folder}/{split_name(Path(file))[0]}")
    return any(each.endswith(end) for each in ends) or f"{end}/" in place


def _hint(store: Store, wanted: str, known: list[Stored]) -> str:
    if store.prefix == "hf" and wanted.count("/") < 2:
        return "from the hub, a file is fetched by its full name: hf:OWNER/REPO/FILE.gguf"
    names = [each.name for each in known if not each.trouble]
    if names:
        return did_you_mean(f"{store.prefix}:{wanted}", names)
    return f"nothing is in {', '.join(map(str, store.roots()))}"


def _fetched(store: Store, name: str, repo: str, file: str) -> Stored:
    place = Path(file)
    stem, number, count = split_name(place)
    files = [
        place.with_name(f"{stem}-{at:05}-of-{count:05}{place.suffix}").as_posix()
        for at in range(1, count + 1)
    ]
    if number == count == 1:
        files = [file]
    root = store.roots()[0]
    paths = [fetch_from_hub(name, repo, each, root) for each in files]
    found = store.stored(root, paths[0], f"{repo}/{files[0]}")
    if found.trouble:
        raise ModelError(f"{name} cannot be used: {found.trouble}")
    return found


# Where they are


def _roots(chosen: str | None, *usual: Path) -> list[Path]:
    return [user_path(chosen)] if chosen else list(usual)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise LocalprobeError("nothing says where your home folder is; set HOME") from None


def _ollama_roots() -> list[Path]:
    usual = [_home() / ".ollama" / "models"]
    if sys.platform == "linux":
        usual.append(_OLLAMA_SERVICE)
    return _roots(os.environ.get("OLLAMA_MODELS"), *usual)


def _lmstudio_roots() -> list[Path]:
    homes = [_home() / ".lmstudio", _home() / ".cache" / "lm-studio"]
    pointer = _small(_home() / ".lmstudio-home-pointer").strip()
    if pointer and Path(pointer).is_absolute():
        homes.insert(0, Path(pointer))
    moved = (_setting(home / "settings.json", "downloadsFolder") for home in homes)
    chosen = [Path(each) for each in moved if each and Path(each).is_absolute()]
    return list(dict.fromkeys([*chosen, *(home / "models" for home in homes)]))


def _llama_cpp_roots() -> list[Path]:
    if sys.platform == "darwin":
        cache = _home() / "Library" / "Caches"
    elif sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")
    return _roots(os.environ.get("LLAMA_CACHE"), cache / "llama.cpp")


def _hub_roots() -> list[Path]:
    given = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    home = os.environ.get("HF_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "huggingface"
    return _roots(given, (user_path(home) if home else cache) / "hub")


def _small(path: Path) -> str:
    """What is in a small text file; nothing where it cannot be read."""
    try:
        return read_text(path, most=_MOST_MANIFEST)
    except LocalprobeError:
        return ""


def _setting(path: Path, key: str) -> str:
    try:
        value = json.loads(_small(path) or "{}")[key]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return value if isinstance(value, str) else ""


# What is in them


def _is_there(path: Path) -> bool:
    """Where a user may look."""
    try:
        return path.exists()
    except OSError:
        return False


def _look_at_files(store: Store, root: Path) -> Iterator[Stored]:
    for path in _files(root):
        name = path.relative_to(root).as_posix()
        if path.is_dir():
            found = store.stored(root, path, name)
            if not path.resolve().is_relative_to(root.resolve()):
                yield found
        elif path.suffix.lower() == ".gguf" and not _is_later_part(path):
            yield store.stored(root, path, name)


def _is_later_part(path: Path) -> bool:
    stem, number, count = split_name(path)
    first = path.with_name(f"{stem}-{1:05}-of-{count:05}{path.suffix}")
    return number > 1 and _is_there(first)


def _look_at_hub(store: Store, root: Path) -> Iterator[Stored]:
    for folder in sorted(root.glob("models--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/")
        for revision in _revisions(folder):
            for path in _files(revision):
                if path.suffix.lower() == ".gguf" and not _is_later_part(path):
                    yield store.stored(
                        root, path, f"{repo}/{path.relative_to(revision).as_posix()}"
                    )


def _revisions(folder: Path) -> list[Path]:
    """What the main branch was when it was last asked for; then the others, latest first."""
    main = _small(folder / "refs" / "main").strip()
    there = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    return sorted(there, key=lambda path: (path.name != main, -path.stat().st_mtime))


def _look_at_ollama(store: Store, root: Path) -> Iterator[Stored]:
    manifests = root / "manifests"
    for path in _files(manifests):
        host, *spaces, tag = path.relative_to(manifests).parts
        if not spaces:
            continue
        if host == _OLLAMA:
            spaces = spaces[1:] if spaces[0] == "library" and len(spaces) > 1 else spaces
        else:
            spaces = [host, *spaces]
        name = f"{'/'.join(spaces)}:{tag}"
        try:
            blob = _blob(root, path, store.title)
        except _DamagedError as error:
            yield Stored(f"ollama:{name}", name, path, str(error))
        else:
            yield store.stored(root, blob, name, name)


class _DamagedError(Exception):
    """What is wrong with a manifest."""


def _blob(root: Path, manifest: Path, title: str) -> Path:
    """Where the weights are that a manifest of Ollama names."""
    trouble = _trouble(root, manifest, title)
    if trouble:
        raise _DamagedError(trouble)
    try:
        text = read_text(manifest, most=_MOST_MANIFEST)
    except LocalprobeError as error:
        raise _DamagedError(f"its manifest is damaged ({error})") from None
    try:
        layers = json.loads(text)["layers"]
        kinds = [(layer["mediaType"], layer["digest"]) for layer in layers]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise _DamagedError(f"its manifest is damaged ({manifest})") from None
    if any(kind == _ADAPTER for kind, _ in kinds):
        raise _DamagedError("it is a model with an adapter, which localprobe does not apply")
    digests = [digest for kind, digest in kinds if kind == _MODEL]
    if not digests:
        raise _DamagedError("it has no GGUF")
    if len(digests) > 1:
        raise _DamagedError("it is in several files, which localprobe cannot join")
    found = _DIGEST.fullmatch(digests[0]) if isinstance(digests[0], str) else None
    if found is None:
        raise _DamagedError(f"its manifest is damaged ({manifest})")
    # Of old versions: as in the manifest.
    blobs = root / "blobs"
    named = blobs / f"sha256-{found[1]}"
    old = blobs / f"sha256:{found[1]}"
    return old if not _is_there(named) and _is_there(old) else named


def _files(root: Path) -> Iterator[Path]:
    """What is below a folder, but for what is hidden: files, and links to files and folders.

    Links are not followed, so that nothing is walked twice or for ever.
    """
    for folder, names, files in os.walk(root):
        links = [name for name in names if Path(folder, name).is_symlink()]
        names[:] = sorted(name for name in names if not name.startswith(".") and name not in links)
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield Path(folder, name)
