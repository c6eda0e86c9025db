"""The pictures of what interventions do, in light and dark:

python docs/pictures/draw.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

TOKENS = ("The", "capital", "of", "France", "is")
LAYERS = 4
K = 2
"""The layer that things are done at."""
CHOSEN = 3
"""The token that is swapped or hidden."""

_BOX_W, _BOX_H, _STEP_X, _STEP_Y, _LEFT, _TOP = 72, 34, 104, 74, 76, 66
_N_BARS = 7
_STYLE = """
    text { font: 14px sans-serif; fill: #1f2328; }
    .page { fill: #ffffff; stroke: #d0d7de; }
    .box { fill: #eef3f8; stroke: #6e7781; }
    .bar { fill: #3b6ea5; }
    .written .box { fill: #ffd8b0; stroke: #b54708; stroke-width: 2; }
    .written .bar { fill: #b54708; }
    .after .box { fill: #fff1e3; stroke: #b5824f; }
    .after .bar { fill: #b5824f; }
    .up { stroke: #6e7781; stroke-width: 1.5; }
    .look { stroke: #3b6ea5; stroke-width: 1.2; opacity: 0.55; }
    .small { font-size: 12px; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .page { fill: #161b22; stroke: #3d444d; }
      .box { fill: #1f2a37; stroke: #8b949e; }
      .bar { fill: #79b0ea; }
      .written .box { fill: #5a2e0c; stroke: #f0883e; }
      .written .bar { fill: #ffb77c; }
      .after .box { fill: #33261a; stroke: #b08963; }
      .after .bar { fill: #cfa77f; }
      .up { stroke: #8b949e; }
      .look { stroke: #79b0ea; }
    }
"""

Bars = tuple[int, ...]
State = tuple[str, Bars]
"""clean, written or after; and what it looks like."""
Shown = Callable[[int, int], State]
"""The state at a layer of a token."""


def clean_bars(layer: int, token: int) -> Bars:
    return _drawn(layer, token)


def _drawn(*seed: int) -> Bars:
    random = Random(str(seed))
    return tuple(random.randint(4, _BOX_H - 8) for _ in range(_N_BARS))


def _is_past(token: int) -> bool:
    return token < len(TOKENS) - 1


def clean(layer: int, token: int) -> State:
    return "clean", clean_bars(layer, token)


def _computed(layer: int, token: int) -> State:
    """From what is not as it was."""
    return ("after", _drawn(7, layer, token)) if layer > K else clean(layer, token)


def _written_once(layer: int, token: int, bars: Bars) -> State:
    return ("written", bars) if layer == K else _computed(layer, token)


def random(layer: int, token: int) -> State:
    if not _is_past(token):
        return _computed(layer, token)
    return _written_once(layer, token, _drawn(99, token))


def shuffle(layer: int, token: int) -> State:
    if not _is_past(token):
        return _computed(layer, token)
    bars = list(clean_bars(K, token))
    Random(token).shuffle(bars)
    return _written_once(layer, token, tuple(bars))


def freeze(layer: int, token: int) -> State:
    if not _is_past(token):
        return _computed(layer, token)
    return clean(layer, token) if layer < K else ("written", clean_bars(K - 1, token))


def inject(layer: int, token: int) -> State:
    if token == CHOSEN:
        return _written_once(layer, token, _drawn(5, 5))
    return clean(layer, token) if token < CHOSEN else _computed(layer, token)


def knockout(layer: int, token: int) -> State:
    return clean(layer, token) if _is_past(token) else _computed(layer, token)


def _everyone(layer: int, token: int) -> bool:
    return True


def _below(layer: int, token: int) -> bool:
    return layer < K


def _all_but_one(layer: int, token: int) -> bool:
    return layer < K or token != CHOSEN


PICTURES: dict[str, tuple[str, Shown, Callable[[int, int], bool]]] = {
    "clean": ("The model, left alone", clean, _everyone),
    "random": ("random at layer 2: noise of the same length", random, _everyone),
    "shuffle": ("shuffle at layer 2: the same numbers, in another order", shuffle, _everyone),
    "freeze": ("freeze from layer 2 on: what was held at layer 1 stays", freeze, _everyone),
    "skip": ("skip from layer 2 on: nobody looks at anybody", _computed, _below),
    "inject": ("swap at layer 2: held for Italy, in another prompt", inject, _everyone),
    "knockout": ("knockout from layer 2 on: France is not looked at", knockout, _all_but_one),
}
"""Name: what it says, the states, and whether the last token looks at a token in a block."""


def svg(title: str, shown: Shown, looks: Callable[[int, int], bool]) -> str:
    width, height = _LEFT + _STEP_X * len(TOKENS) + 8, _TOP + _STEP_Y * (LAYERS + 1) + 6
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">',
            f"  <title>{title}</title>",
            f"  <style>{_STYLE}  </style>",
            f'  <rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" '
            'rx="8"/>',
            f'  <text x="16" y="28">{title}</text>',
            *_lines(looks),
            *_boxes(shown),
            *_names(),
            "</svg>\n",
        ]
    )


def _place(layer: int, token: int) -> tuple[int, int]:
    """The middle of a state; that of the answer is one layer above the last."""
    x = _LEFT + _STEP_X * token + _STEP_X // 2
    return x, _TOP + _STEP_Y * (LAYERS - layer) + _BOX_H // 2


def _lines(looks: Callable[[int, int], bool]) -> Iterator[str]:
    last = len(TOKENS) - 1
    for layer in range(LAYERS):
        for token in range(len(TOKENS)):
            x, y = _place(layer, token)
            if _is_past(token) and looks(layer, token):
                to_x, to_y = _place(layer + 1, last)
                yield (
                    f'  <line class="look" x1="{x}" y1="{y - _BOX_H // 2}" '
                    f'x2="{to_x - _BOX_W // 2}" y2="{to_y}"/>'
                )
            if layer < LAYERS - 1 or token == last:
                above = _place(layer + 1, token)[1] + _BOX_H // 2
                yield f'  <line class="up" x1="{x}" y1="{y - _BOX_H // 2}" x2="{x}" y2="{above}"/>'


def _boxes(shown: Shown) -> Iterator[str]:
    for layer in range(LAYERS):
        for token in range(len(TOKENS)):
            kind, bars = shown(layer, token)
            x, y = _place(layer, token)
            left, bottom = x - _BOX_W // 2, y + _BOX_H // 2
            yield f'  <g class="{kind}">'
            yield (
                f'    <rect class="box" x="{left}" y="{bottom - _BOX_H}" width="{_BOX_W}" '
                f'height="{_BOX_H}" rx="5"/>'
            )
            for number, bar in enumerate(bars):
                yield (
                    f'    <rect class="bar" x="{left + 8 + 8 * number}" y="{bottom - 3 - bar}" '
                    f'width="6" height="{bar}"/>'
                )
            yield "  </g>"


def _names() -> Iterator[str]:
    for layer in range(LAYERS):
        yield f'  <text class="small" x="16" y="{_place(layer, 0)[1] + 4}">layer {layer}</text>'
    for token, text in enumerate(TOKENS):
        x, y = _place(0, token)
        yield f'  <text x="{x}" y="{y + _BOX_H // 2 + 22}" text-anchor="middle">{text}</text>'
    x, y = _place(LAYERS, len(TOKENS) - 1)
    yield f'  <text x="{x}" y="{y + 5}" text-anchor="middle">answer</text>'


def pictures() -> dict[str, str]:
    """File name: content."""
    return {f"{name}.svg": svg(*parts) for name, parts in PICTURES.items()}


if __name__ == "__main__":
    for name, text in pictures().items():
        Path(__file__).with_name(name).write_text(text, encoding="utf-8", newline="\n")
