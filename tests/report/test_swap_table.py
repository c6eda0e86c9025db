"""What is said of a swap is true of its rows."""

from __future__ import annotations

import pytest

from localprobe.experiments.swap import Parting, SwapRow, flip_layer
from localprobe.report.tables import swap_legend, swap_summary

OLD, NEW, NO = "original", "modified", "neither"


@pytest.mark.parametrize(
    ("follows", "expected"),
    [
        ((NEW, NO, OLD, OLD), "flip layer: 2 (50% of depth); from there on all follow France"),
        ((NEW, OLD, NO, OLD), "flip layer: 3 (75% of depth); from there on all follow France"),
        ((OLD, OLD, OLD, OLD), "flip layer: 0 (0% of depth); from there on all follow France"),
        (
            (OLD, OLD, OLD, NO),
            "no flip: at layer 3, the last one shown, the answer follows neither",
        ),
        ((NEW, NEW, NEW, NEW), "no flip: at layer 3, the last one shown, the answer follows Italy"),
    ],
)
def test_the_flip(follows: tuple[str, ...], expected: str) -> None:
    rows = [SwapRow(i, "", 0.5, 0.5, each, ()) for i, each in enumerate(follows)]
    assert swap_summary(rows, flip_layer(rows), "France", "Italy", 4) == expected


def test_layers_that_are_not_shown() -> None:
    rows = [SwapRow(2, "", 0.5, 0.5, OLD, ())]
    assert swap_summary(rows, 2, "France", "Italy", 4).endswith("follow France, as far as shown")


def test_p_and_follows_are_defined() -> None:
    legend = swap_legend(Parting((), 5, 7, "", " Paris", " Rome"))
    assert legend == (
        "P: of ` Paris` and of ` Rome`, the first tokens of the answers; follows: whose token is "
        "the likeliest of all, or neither"
    )
    later = swap_legend(Parting((3,), 5, 0, " The\n", " Paris", ""))
    assert later == (
        "P: of ` Paris` and of (end), in which the answers differ, after ` The\\n`, which they "
        "share; follows: whose way the answer goes up to there, or neither"
    )
