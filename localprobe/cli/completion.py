"""What a shell may put in the place of a word that was begun. Nothing heavy is loaded for it."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator

_ASKED, _WORDS, _AT = "_LOCALPROBE_COMPLETE", "COMP_WORDS", "COMP_CWORD"


@contextlib.contextmanager
def joined_at_colons() -> Iterator[None]:
    """Where bash asks: it cuts ollama:llama3.2 into three words, and completes the last of them."""
    words, at = os.environ.get(_WORDS, "").split("\n"), os.environ.get(_AT, "")
    if os.environ.get(_ASKED) != "complete_bash" or not at.isdecimal() or len(words) <= int(at):
        yield
        return
    joined = words[:1]
    for word in words[1 : int(at) + 1]:
        if word == ":" or joined[-1].endswith(":"):
            joined[-1] += word
        else:
            joined.append(word)
    os.environ.update({_WORDS: "\n".join(joined), _AT: str(len(joined) - 1)})
    before, colon, _ = joined[-1].rpartition(":")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            print(line.removeprefix(before + colon))


def models(begun: str) -> list[str]:
    from localprobe.models import registry
    from localprobe.models.prepare import prepared_models
    from localprobe.models.stores import stored_models

    stored = (each.name for each in stored_models() if not each.trouble)
    prepared = (name for name, _ in prepared_models())
    return _beginning(begun, [*registry.entries(), *prepared, *stored])


def cached_models(begun: str) -> list[str]:
    from localprobe.models import removal

    return _beginning(begun, removal.cached_models())


def recipes(begun: str) -> list[str]:
    from localprobe.files.resources import recipe_files

    return _beginning(begun, [file.stem for file in recipe_files()])


def tasks(begun: str) -> list[str]:
    from localprobe.tasks import NAMES

    return _beginning(begun, NAMES)


def probed_patches(begun: str) -> list[str]:
    from localprobe.engine.interventions import names

    return _after_commas(begun, names)


def swept_patches(begun: str) -> list[str]:
    from localprobe.runs.tally import patches

    return _after_commas(begun, patches)


def devices(begun: str) -> list[str]:
    from localprobe.llama.devices import own_devices

    return _beginning(begun, [device.name for device in own_devices()])


def mapped_patches(begun: str) -> list[str]:
    from localprobe.experiments.map import PATCHES

    return _beginning(begun, PATCHES)


def _after_commas(begun: str, known: Callable[[], Iterable[str]]) -> list[str]:
    """As in --patch freeze,sk: the last one, and not what is named before it."""
    before, comma, last = begun.rpartition(",")
    there = before.split(",")
    return [before + comma + name for name in _beginning(last, known()) if name not in there]


def _beginning(begun: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(begun)]
