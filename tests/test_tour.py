"""The worked notebook, run on the default model: what it shows is what is found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import notebook

pytest.importorskip("matplotlib")
TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"


@pytest.mark.usefixtures("default_model")
def test_the_tour_shows_what_is_found() -> None:
    """Numbers in tables may be rounded otherwise on another machine; records and claims are not."""
    tour = json.loads(TOUR.read_text("utf-8"))
    shown = [cell["outputs"] for cell in tour["cells"] if cell["cell_type"] == "code"]
    found = notebook.run(tour)
    assert len(found) == len(shown)
    for ours, theirs in zip(found, shown, strict=True):
        assert [each["data"].keys() for each in ours] == [each["data"].keys() for each in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one["data"]["text/plain"] == other["data"]["text/plain"]
            if "text/html" in one["data"]:
                assert_close(one["data"]["text/html"], other["data"]["text/html"])


def assert_close(one: list[str], other: list[str]) -> None:
    """The same words in the same places, and numbers that differ by little."""
    ours, theirs = (re.split(r"(\d+\.\d+)", "".join(each)) for each in (one, other))
    assert len(ours) == len(theirs)
    for mine, its in zip(ours[1::2], theirs[1::2], strict=True):
        # Shares in the table, and the same in percent in its bars.
        assert float(mine) == pytest.approx(float(its), abs=0.05 if float(its) <= 1 else 5)


def test_the_tour_has_no_errors_and_no_paths() -> None:
    text = TOUR.read_text("utf-8")
    assert "Traceback" not in text and str(Path.home()) not in text
    cells: list[dict[str, Any]] = json.loads(text)["cells"]
    shown = [bool(cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]
    # All but the last one, which closes the model.
    assert shown == [True] * (len(shown) - 1) + [False]
