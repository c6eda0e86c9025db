"""What a shell may put in the place of a word that was begun. Nothing heavy is loaded for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def models(begun: str) -> list[str]:
    from localprobe.models import registry
    from localprobe.models.prepare import prepared_models

    return _beginning(begun, [*registry.entries(), *(name for name, _ in prepared_models())])


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


def _after_commas(begun: str, known: Callable[[], Iterable[str]]) -> list[str]:
    """As in --patch freeze,sk: the last one, and not what is named before it."""
    before, comma, last = begun.rpartition(",")
    there = before.split(",")
    return [before + comma + name for name in _beginning(last, known()) if name not in there]


def _beginning(begun: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(begun)]
