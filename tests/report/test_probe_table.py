"""What a probe's table shows, how wide, and what its sentences claim."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from localprobe.experiments.probe import Draw, ProbeRow
from localprobe.report.probe_table import probe_legend, probe_summary, probe_table
from localprobe.report.terminal import answered

N_LAYER = 4


def row(patch: str, layer: int, p_clean: float | None, *, is_clean: bool = False) -> ProbeRow:
    text = " Paris\n and a long rest of an answer" if is_clean else " Rome\n and so on and so on"
    return ProbeRow(
        patch, layer, "(not finite)" if p_clean is None else text, (), p_clean, is_clean
    )


def drawn(patch: str, layer: int, *shares: float) -> ProbeRow:
    draws = tuple(Draw(i, " x", share, share > 0.5) for i, share in enumerate(shares))
    mean, whole = sum(shares) / len(shares), all(draw.is_clean for draw in draws)
    return ProbeRow(patch, layer, " x", (), mean, whole, draws)


ROWS = [
    *(drawn("random", layer, 0.12, 0.98) for layer in range(3)),
    drawn("random", 3, 0.75, 1.0),
    *(row("freeze", layer, 0.25, is_clean=layer > 1) for layer in range(1, 4)),
    *(row("skip", layer, None if layer == 0 else 0.5) for layer in range(4)),
]


def shown(columns: int, rows: list[ProbeRow] = ROWS, encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    console = Console(file=out, width=columns, color_system=None, highlight=False)
    console.print(probe_legend(console, rows, "` Paris`"), markup=False)
    console.print(probe_table(console, rows))
    console.print(probe_summary(rows, N_LAYER))
    out.seek(0)
    return out.read()


def line(text: str, start: str) -> list[str]:
    (found,) = [each for each in text.splitlines() if each.startswith(start)]
    return found.split()


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 120, 200])
def test_no_line_is_wider_and_no_row_is_two(columns: int) -> None:
    text = shown(columns)
    assert max(map(len, text.splitlines())) <= columns
    assert [each.split()[0] for each in text.splitlines() if each.startswith("    ")] == list(
        "0123"
    )


def test_numbers_marks_and_answers() -> None:
    text = shown(80)
    assert line(text, "layer") == ["layer", "random", "×2", "freeze", "skip"]
    assert line(text, "    1")[1:6] == ["0.55", "███▉", "12–98", "1/2", "0.25"]
    assert line(text, "    3")[4:7] == ["2/2", "0.25✓", "█▎"]
    assert "Paris" in text.splitlines()[-5]
    assert line(text, "    0")[5:] == ["–", "(not", "finite)"]


def test_every_mark_is_a_row_with_the_clean_answer() -> None:
    """Without colour, and without the unicode sign, too."""
    singles = [row("freeze", layer, 0.5, is_clean=layer in (1, 3)) for layer in range(4)]
    for columns in (20, 40, 80):
        for encoding, mark in (("utf-8", "✓"), ("ascii", "*")):
            text = shown(columns, singles, encoding)
            marked = [line(text, f"    {layer}") for layer in range(4)]
            assert [mark in "".join(each) for each in marked] == [False, True, False, True]


def test_what_is_left_out_is_said() -> None:
    assert "no room" not in shown(120)
    assert "no room for ranges, counts" not in shown(80)
    narrow = " ".join(shown(30).split())
    assert "no room for answers, ranges, counts: see --json, or take fewer --patch" in narrow
    least = " ".join(shown(20).split())
    assert "no room for P, answers, ranges, counts" in least
    assert "·: it is another" in least


def test_the_summary_claims_what_the_rows_say() -> None:
    said = str(probe_summary(ROWS, N_LAYER)).splitlines()
    assert said == [
        "random survives from layer 3 on (75% of depth), in all 2 draws",
        "freeze survives from layer 2 on (50% of depth)",
        "skip   another answer at layer 3, the last one shown",
        "–: freeze is defined from layer 1 on",
    ]


def test_the_summary_says_where_not_all_layers_are_shown() -> None:
    said = str(probe_summary([row("freeze", 2, 0.5, is_clean=True)], N_LAYER))
    assert said == "freeze survives from layer 2 on (50% of depth), as far as shown"
    every = [row("freeze", layer, 0.5, is_clean=True) for layer in range(1, 4)]
    assert str(probe_summary(every, N_LAYER)).endswith("(25% of depth)")
    some = [drawn("random", 3, 0.1, 0.2, 0.9)]
    said = str(probe_summary(some, N_LAYER))
    assert said == "random another answer at layer 3, the last one shown, in 2 of 3 draws"


def test_an_answer_of_spaces_is_no_end() -> None:
    assert [answered(text).plain for text in ("", " ", "  ", " a ")] == [
        "(end)",
        "(space)",
        "(space)",
        "a",
    ]
