"""A map and a lens in the terminal: tokens down, layers across."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from localprobe.experiments.attention import Attention, Look
from localprobe.experiments.lens import Lens
from localprobe.experiments.map import TokenMap
from localprobe.report.map_words import (
    both,
    clean_line,
    explained,
    probability,
    share_of,
    what_it_found,
    what_the_lens_shows,
)
from localprobe.report.terminal import (
    answered,
    bar,
    clipped,
    heat,
    layer_table,
    shortened,
    speaks_unicode,
    visible,
)

_RAMP, _PLAIN_RAMP = "·░▒▓█", ".:=*#"
_STEPS = (0.1, 0.25, 0.5, 0.75)
_WIDEST, _LABEL, _SHORT_LABEL = 3, 16, 10
_NOT_FINITE, _UNSEEN = "?", -1.0


def map_text(console: Console, found: TokenMap) -> list[Text]:
    """The map, its legend, and what it shows in words."""
    heading = Text(explained(found))
    clean = Text(clean_line(found), style="bold")
    grid = heat_map(console, found.tokens, found.layers, found.effect())
    words = [Text(line) for line in what_it_found(found)]
    return [heading, clean, Text(), *grid, legend(console, share_of(found)), Text(), *words]


def lens_text(console: Console, found: Lens) -> list[Text | Table]:
    """P of the followed token everywhere, and what the last token says, layer by layer."""
    what = probability(found.token)
    shown = found.where(_STEPS[0])
    labels = [found.tokens[position] for position in shown]
    grid = heat_map(console, labels, found.layers, found.token_probs[:, shown])
    if hidden := len(found.tokens) - len(shown):
        others = "1 other token" if hidden == 1 else f"{hidden} other tokens"
        grid.append(Text(f"{others}: {what} < {_STEPS[0]:.0%} at every layer", style="dim"))
    heading = Text(f"logit lens: {what} by the norm and the output matrix on each state")
    return [heading, Text(), *grid, legend(console, what), Text(), Text(what_the_lens_shows(found))]


def lens_table(console: Console, found: Lens) -> Table:
    """What the last token says by layer: the likeliest tokens, and the one that is followed."""
    table = layer_table()
    kept = found.top_ids.shape[2]
    top = max(1, min(kept, (console.width - 26) // 12))
    if top < kept:
        table.caption = f"no room for {kept - top} more of them: see --json"
        table.caption_justify = "left"
    room = max(10, (console.width - 26) // top - 2)
    for place in range(top):
        table.add_column("the last token says" if not place else f"{place + 1}.", no_wrap=True)
    name = visible(found.token.strip(" "))
    followed = shortened(Text(f"P({name})" if name else probability(found.token)), 14)
    table.add_column(followed, justify="right", no_wrap=True)
    table.add_column("rank", justify="right", no_wrap=True)
    for row, layer in enumerate(found.layers):
        cells = []
        ids, probs = found.top_ids[row, -1, :top], found.top_probs[row, -1, :top]
        for token, share in zip(ids, probs, strict=True):
            said = shortened(answered(found.vocabulary[int(token)]), room - 5)
            said.pad_right(max(0, min(room, 16) - 5 - said.cell_len))
            cells.append(Text.assemble(said, f" {share:.2f}"))
        share, rank = found.token_probs[row, -1], found.token_ranks[row, -1]
        style = "bold green" if rank == 1 else ""
        table.add_row(str(layer), *cells, Text(f"{share:.2f}", style=style), f"{rank:,}")
    return table


def attention_text(
    console: Console,
    found: Attention,
    weights: NDArray[np.float32],
    layer: int | None,
    head: int | None,
) -> list[Text]:
    """Query tokens down, key tokens across. weights: (n_tokens, n_tokens)."""
    of = [
        "the mean over layers" if layer is None else f"layer {layer}",
        "the mean over heads" if head is None else f"head {head}",
    ]
    numbered = [f"{place:>3} {text}" for place, text in enumerate(found.tokens)]
    keys = np.arange(len(numbered))
    # What comes later is not seen, and not shown.
    seen = np.where(np.tri(len(keys), dtype=bool), weights, _UNSEEN).T
    grid = heat_map(console, numbered, keys, seen, head="key")
    title = Text(f"attention of each token (down) to those up to it (across): {', '.join(of)}")
    return [title, Text(), *grid, legend(console, "of a token's attention")]


def looks_table(console: Console, looks: Sequence[Look]) -> Table:
    table = layer_table()
    table.add_column("head", justify="right")
    table.add_column("weight")
    for look in looks:
        drawn = bar(look.weight, 20, unicode=speaks_unicode(console))
        share = Text(f"{look.weight:.2f} ").append(drawn, style=heat(look.weight))
        table.add_row(str(look.layer), str(look.head), share)
    return table


def title_line(found: TokenMap, seen: Lens) -> Text:
    return Text(both(found, seen), style="bold")


def heat_map(
    console: Console,
    labels: Sequence[str],
    layers: NDArray[np.int_],
    shares: NDArray[np.float64],
    *,
    head: str = "layer",
    mark: Callable[[Console, float, int], Text] | None = None,
) -> list[Text]:
    """Lines: one a token, with a mark for each layer. shares: (n_layers, n_tokens), 0 … 1.

    mark: of a share and its width; then shares may be below 0, too.
    Where the terminal is too narrow for all layers, neighbours share a mark, that of the largest.
    """
    shown = [visible(label) for label in labels]
    most = _LABEL if console.width >= 60 else _SHORT_LABEL
    label_width = min(most, max([len("layer") - 1, *(cell_len(label) for label in shown)]))
    room = console.width - label_width - 2
    each = -(-len(layers) // room) if room < len(layers) else 1
    starts = list(range(0, len(layers), each))
    width = max(1, min(_WIDEST, room // len(starts)))
    lines = [_axis(head, [int(layers[start]) for start in starts], label_width + 2, width, room)]
    for token, label in enumerate(labels):
        line = clipped(label, label_width)
        line.pad_right(label_width - line.cell_len + 2)
        for start in starts:
            some = shares[start : start + each, token]
            known = some[np.isfinite(some)]
            share = float("nan")
            if len(known):
                share = float(known.max() if mark is None else known[np.abs(known).argmax()])
            line.append_text((mark or _mark)(console, share, width))
        line.rstrip()
        lines.append(line)
    if each > 1:
        what = "layers" if head == "layer" else "tokens"
        lines.append(Text(f"each column: {each} {what}, by the largest of them", style="dim"))
    return lines


def legend(console: Console, what: str) -> Text:
    """What the marks mean."""
    text = Text()
    names = [f"< {step:.0%}" for step in _STEPS] + [f"≥ {_STEPS[-1]:.0%}"]
    if not speaks_unicode(console):
        names[-1] = f">= {_STEPS[-1]:.0%}"
    for level, name in enumerate(names):
        text.append_text(_mark(console, (0, *_STEPS)[level], 1)).append(f" {name}  ")
    return text.append(what)


def _axis(head: str, layers: Sequence[int], indent: int, width: int, room: int) -> Text:
    """Numbers of layers over their columns, as many as there is room for."""
    line = head.ljust(indent)
    free = indent
    for place, layer in enumerate(layers):
        start = indent + place * width
        number = str(layer)
        if start >= free and start + len(number) <= indent + room:
            line = line.ljust(start) + number
            free = start + max(len(number) + 2, 4)
    return Text(line, style="dim")


def _mark(console: Console, share: float, width: int) -> Text:
    if np.isnan(share):
        return Text(_NOT_FINITE * width)
    if share == _UNSEEN:
        return Text(" " * width)
    ramp = _RAMP if speaks_unicode(console) else _PLAIN_RAMP
    level = sum(share >= step for step in _STEPS)
    if level == 0:
        # A full row of marks would hide the few that say something.
        return Text(ramp[0].ljust(width) if width > 1 else ramp[0], style="dim")
    return Text(ramp[level] * width, style=heat(share))
