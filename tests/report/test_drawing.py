"""Matplotlib as itself, for as long as something is drawn; and without it, a sentence."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import pytest

from localprobe.cli.app import main
from localprobe.errors import LocalprobeError
from localprobe.report.drawing import loaded, unstyled


def test_what_is_set_elsewhere_comes_back() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    log = logging.getLogger("matplotlib")
    with matplotlib.rc_context({"font.size": 77.0}):
        with pytest.raises(KeyError), unstyled():
            assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"] < 77
            assert not log.isEnabledFor(logging.ERROR)
            warnings.warn("Glyph 1 missing from font(s) of ours", UserWarning, stacklevel=1)
            raise KeyError
        assert matplotlib.rcParams["font.size"] == 77
    assert log.isEnabledFor(logging.ERROR)


def test_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LocalprobeError, match="figures need matplotlib; run: pip install"):
        loaded()
    assert main(["plot", str(tmp_path), "-o", "figure.png"]) == 2
    assert "figures need matplotlib" in capsys.readouterr().err
