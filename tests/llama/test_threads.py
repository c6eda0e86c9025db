"""Threads and cores: how many, and what is said where others want them, too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import localprobe
from localprobe.errors import LocalprobeError
from localprobe.llama import threads


class Clock:
    """A machine of so many cores, of which others take some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int, others: float) -> None:
        self.now, self._others = 0.0, others
        monkeypatch.setattr(threads.os, "cpu_count", lambda: cores)
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(threads.os, "times", lambda: (self.now, 0, 0, 0, 0))
        monkeypatch.setattr(threads.psutil, "cpu_times", self._times)

    def _times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self.now * (1 + self._others), system=0.0, idle=7.0)


@pytest.mark.parametrize(
    ("cores", "others", "advice"),
    [
        (2, 0.0, ""),
        (2, 0.3, ""),
        (2, 0.9, "other programs take 0.9 of this machine's 2 cores; --threads 1 is likely"),
        (2, 2.0, "--threads 1 is likely"),
        (8, 1.0, ""),
        (8, 3.1, "--threads 5 is likely"),
        (8, 9.0, "other programs take 8.0 of this machine's 8 cores; --threads 1 is"),
        (1, 1.0, ""),
    ],
)
def test_advice(cores: int, others: float, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, cores, others)
    watch = threads.Others()
    clock.now = 0.05
    assert watch.advice() == "", "too short to tell"
    clock.now = 2.0
    assert advice in watch.advice() and bool(advice) == bool(watch.advice())


def test_this_machine_is_asked() -> None:
    assert threads._all_seconds() > 0 and threads._own_seconds() > 0


def test_too_many_threads() -> None:
    assert threads.checked(3) == 3 and threads.checked(0) >= 1
    with pytest.raises(LocalprobeError, match="are too many for the"):
        threads.checked(10_000)


@pytest.mark.parametrize(("asked", "told"), [(0, True), (1, False)])
def test_it_is_told_where_all_cores_are_taken(
    asked: int, told: bool, tiny_file, own_cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.Others, "advice", lambda self: "others take them")
    said: list[str] = []
    with localprobe.Model(tiny_file("llama"), threads=asked, tell=said.append):
        assert ("others take them" in said) is told
