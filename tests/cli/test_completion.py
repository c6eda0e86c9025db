"""What a shell is told to complete a word with."""

from __future__ import annotations

from pathlib import Path

import pytest

from localprobe.cli.app import main


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("localprobe run q", ["quick"]),
        ("localprobe run quick --task sq", ["squad"]),
        ("localprobe sweep --patch freeze,s", ["freeze,shuffle", "freeze,skip", "freeze,swap"]),
        ("localprobe sweep --task ca", ["capitals"]),
        ("localprobe probe x --patch in", ["inject"]),
        ("localprobe tokens x -m smol", ["smollm2-135m"]),
        ("localprobe models info llama", ["llama-2-7b"]),
        ("localprobe sweep --patch zzz", []),
    ],
)
def test_names_are_completed(
    line: str,
    expected: list[str],
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_LOCALPROBE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert main([]) == 0
    assert capsys.readouterr().out.split() == expected
