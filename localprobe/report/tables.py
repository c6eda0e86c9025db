"""Tables of one prompt, of models and of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from localprobe.experiments.bench import BenchResult
from localprobe.experiments.swap import Parting, SwapRow
from localprobe.report.score_table import limits
from localprobe.report.terminal import (
    GAP,
    LAYER_WIDTH,
    MIN_WIDTH,
    answered,
    bar,
    clipped,
    heat,
    layer_table,
    new_table,
    shortened,
    speaks_unicode,
    visible,
)
from localprobe.runs.tally import MODIFIED, ORIGINAL, SWAP

_SHARE_WIDTH = 13
_NUMBER_WIDTH = 4


def swap_table(console: Console, rows: Sequence[SwapRow], old: str, new: str) -> Table:
    """Per layer: the answer, both probabilities as number and bar, and which one it follows."""
    follows_width = max(len("follows"), min(12, max(cell_len(visible(w)) for w in (old, new))))
    fixed = LAYER_WIDTH + follows_width + 4 * GAP
    with_bars = console.width - fixed - 2 * _SHARE_WIDTH >= MIN_WIDTH
    share_width = _SHARE_WIDTH if with_bars else _NUMBER_WIDTH
    answer_width = max(MIN_WIDTH, min(40, console.width - fixed - 2 * share_width))
    table = layer_table()
    table.add_column("answer", width=answer_width, no_wrap=True)
    for whose_share in ("original", "modified"):
        title = f"P({whose_share if with_bars else whose_share[0]})"
        table.add_column(title, width=share_width, no_wrap=True)
    table.add_column("follows", width=follows_width, no_wrap=True)
    whose = {ORIGINAL: old, MODIFIED: new}
    for row in rows:
        table.add_row(
            str(row.layer),
            shortened(answered(row.text), answer_width),
            _share(console, row.p_original, with_bars),
            _share(console, row.p_modified, with_bars),
            clipped(whose.get(row.follows, row.follows), follows_width),
        )
    return table


def _share(console: Console, share: float, with_bar: bool) -> Text:
    if not with_bar:
        return Text(f"{share:.2f}")
    drawn = bar(share, 8, unicode=speaks_unicode(console))
    return Text(f"{share:.2f} ").append(drawn, style=heat(share))


def shown_token(text: str) -> str:
    """A token in a sentence: ` Paris`; an end token has no text."""
    return f"`{visible(text)}`" if text else "(end)"


def swap_legend(parting: Parting) -> str:
    """What P and follows mean, in a line."""
    old, new = shown_token(parting.text_original), shown_token(parting.text_modified)
    if parting.shared:
        after = shown_token(parting.text_shared)
        return (
            f"P: of {old} and of {new}, in which the answers differ, after {after}, which they "
            "share; follows: whose way the answer goes up to there, or neither"
        )
    return (
        f"P: of {old} and of {new}, the first tokens of the answers; follows: whose token is the "
        "likeliest of all, or neither"
    )


def swap_summary(
    rows: Sequence[SwapRow], flip: int | None, old: str, new: str, n_layer: int
) -> str:
    """From which layer on every row shown follows the original."""
    layers, word = [row.layer for row in rows], visible(old)
    if flip is None:
        followed = visible(new) if rows[-1].follows == MODIFIED else "neither"
        return f"no flip: at layer {layers[-1]}, the last one shown, the answer follows {followed}"
    beyond = limits(SWAP, flip, layers, n_layer)
    place = f"{flip} ({flip / n_layer:.0%} of depth)"
    return f"flip layer: {place}; from there on all follow {word}{beyond}"


def bench_table(result: BenchResult) -> Table:
    """Per intervention: both engines, their ratio, the floor, and how much of it is reached."""
    table = new_table("intervention")
    for header in ("full s", "resume s", "ratio", "floor s", "efficiency"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in [*result.patches, result.together]:
        table.add_row(
            each.patch,
            f"{each.full_s:.2f}",
            f"{each.resume_s:.3f}",
            f"{each.ratio:.1f}",
            f"{each.floor_s:.3f}",
            f"{each.efficiency:.2f}",
        )
    return table


def facts(pairs: Sequence[tuple[str, str]]) -> Table:
    """Names and values, one pair a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(visible(value), overflow="fold"))
    return table
