"""Whether other weights of a model would be much faster here, where that is worth knowing.

What types of weights cost on this machine is measured once per file and number of threads, and
remembered; what was not measured is not claimed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from localprobe.errors import LocalprobeError
from localprobe.files.cache import known_of_file, remember_of_file, this_machine
from localprobe.llama import rearranged
from localprobe.llama.devices import build
from localprobe.llama.memory import free_memory
from localprobe.llama.model import Model
from localprobe.llama.threads import checked
from localprobe.models import registry
from localprobe.models.opening import LoadedModel
from localprobe.models.prepare import TYPES, manifest_of, prepared_from, prepared_path
from localprobe.models.speed import ROWS, TypeSpeed, fastest, own_speed, speeds

WORTH_SECONDS, WORTH_TIMES = 60.0, 2.0
_SHARE = 0.03
"""Of the time that a run takes, what may go into measuring whether it need."""
_MADE = 2.0
"""Weights of a type take about as long to be made as to be timed."""
_MEASURED_ROWS = 6 * ROWS
"""Rows through a block that timing the file's own weights takes."""
_PASSES = 3
_WHOLE_ROWS = _PASSES * ROWS
"""Rows through all blocks that timing whole passes takes."""


@dataclass(frozen=True)
class Faster:
    """Weights with which the same work takes at least WORTH_TIMES less time.

    name: what they are called with -m; command: what makes them first, empty where they are there.
    kept: where it is known, the share of the likeliest next tokens that stay.
    """

    type: str
    times: float
    name: str
    command: str = ""
    kept: float | None = None

    def __str__(self) -> str:
        kept = "" if self.kept is None else f", {self.kept:.1%} of next tokens stay"
        first = f"{self.command}, then " if self.command else ""
        return (
            f"with {self.type} weights this would be about {self.times:.1f} times as fast here "
            f"(other weights, other numbers{kept}): {first}-m {self.name}"
        )


@dataclass(frozen=True)
class _Speeds:
    own: float
    types: tuple[TypeSpeed, ...]


def remember(digest: str, threads: int, own: float, found: Sequence[TypeSpeed]) -> None:
    """What `own_speed` and `speeds` found of a file on this machine."""
    record = {"own": own, "types": [asdict(each) for each in found]}
    remember_of_file(digest, _what(threads), json.dumps(record))


def _what(threads: int) -> str:
    return f"speeds on {this_machine()} by build {build()} with {checked(threads)} threads"


def _remembered(digest: str, threads: int) -> _Speeds | None:
    for found in known_of_file(digest, _what(threads)):
        try:
            record = json.loads(found)
            types = tuple(TypeSpeed(**each) for each in record["types"])
            if float(record["own"]) > 0 and types:
                return _Speeds(float(record["own"]), types)
        except (ValueError, TypeError, KeyError):
            continue
    return None


def faster(loaded: LoadedModel, typed: str, threads: int, work: float, few: float) -> Faster | None:
    """Weights that would take at most half the time, if more than a minute is at stake.

    typed: what the model was asked for by. work: what is to be done, in rows through a block. few:
    what of that are decodes of few rows; other weights are taken to leave that as it is.
    The model must be at rest. Measuring takes a few hundredths of the time that is at stake.
    """
    model = loaded.model
    if model.placement is not None or not work:
        return None
    known = _remembered(loaded.sha256, threads) or _measured(loaded, threads, work)
    if known is None:
        return None
    try:
        best = fastest(list(known.types), free_memory())
    except LocalprobeError:
        return None
    if known.own < WORTH_TIMES * best.ms or work / model.n_layer * 2 * known.own < _MS:
        return None
    called = _called(loaded, typed, best.type)
    if called is None:
        return None
    whole = _whole(model)
    share = 1 - few / work
    # A part takes no longer than the whole: where it seems to, others were at work meanwhile.
    saved = max(0.0, min(known.own, whole) - best.ms)
    left = 1 - share * saved / whole
    if work / model.n_layer * whole < _MS or left * WORTH_TIMES > 1:
        return None
    return Faster(best.type, 1 / left, *called)


def better_build(loaded: LoadedModel, work: float) -> str:
    """What another build of llama.cpp would bring, if more than a minute is at stake; else empty.

    work: as for `faster`.
    """
    model = loaded.model
    if model.placement is not None or not re.match("I?Q", model.info.file_type):
        return ""
    rows = work / model.n_layer
    # Timing whole passes is next to nothing against the work, or not worth it.
    if rows * _SHARE < _WHOLE_ROWS or not (advice := rearranged.advice()):
        return ""
    return advice if rows * _whole(model) >= _MS else ""


_MS = 1000 * WORTH_SECONDS


def _measured(loaded: LoadedModel, threads: int, work: float) -> _Speeds | None:
    """What types cost here, if finding out is next to nothing against the work."""
    if work * _SHARE < _MEASURED_ROWS:
        return None
    start = time.perf_counter()
    own = own_speed(loaded.model.path, threads)
    took = time.perf_counter() - start
    if own is None:
        return None
    expected = work / loaded.model.n_layer * own / 1000
    # Attention and all the rest may take as long as the multiplications.
    if 2 * expected < WORTH_SECONDS or _SHARE * expected < _MADE * len(TYPES) * took:
        return None
    found = speeds(loaded.model.path, threads)
    own = min(own, own_speed(loaded.model.path, threads) or own)
    remember(loaded.sha256, threads, own, found)
    return _Speeds(own, tuple(found))


def _whole(model: Model) -> float:
    """Milliseconds a row of a whole pass over as many rows as types are timed with."""
    tokens = [number % model.info.n_vocab for number in range(min(ROWS, model.ctx))]
    taken = []
    for _ in range(_PASSES):
        start = time.perf_counter()
        model.plain_logits(tokens)
        taken.append(time.perf_counter() - start)
    return 1000 * min(taken) / len(tokens)


def _called(loaded: LoadedModel, typed: str, kind: str) -> tuple[str, str, float | None] | None:
    """What the model in that type is called, what makes it, and the share of tokens it keeps.

    None where there is no line to type: it has that type, or nobody knows what it was made from.
    """
    made = manifest_of(loaded.model.path)
    digest = loaded.sha256 if made is None else made.source_sha256
    if made is not None and made.type == kind:
        return None
    there = prepared_from(digest, kind)
    if there is not None:
        change = None
        if made is None and (other := manifest_of(prepared_path(there))) is not None:
            change = other.change
        return _quoted(there), "", None if change is None else change.kept
    if made is not None:
        source = registry.entries().get(made.source)
        if source is None or source.sha256 != digest:
            return None
        typed = made.source
    making = f"localprobe models prepare {_quoted(typed)} --type {kind}"
    return _quoted(f"{typed}@{kind}"), making, None


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
