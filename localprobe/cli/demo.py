"""`localprobe demo`: three experiments, and in plain words what one is looking at."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from rich.text import Text

from localprobe.api import Model, lens, swap, token_map
from localprobe.cli.commands import run_and_show, show_swap
from localprobe.cli.maps import bar, show_map
from localprobe.engine.layers import parse_layers
from localprobe.experiments.recipe import recipe
from localprobe.report.map_view import title_line
from localprobe.report.terminal import stdout_console, visible, with_bar
from localprobe.tasks.capitals import TEMPLATE

_SWAP_WORDS = ("France", "Italy")

_BEFORE_MAP = """\
1. A map. The model reads a question about France, and each token is hidden from its last one, from
one layer on: which of them does it still need to say Paris? Dark is where the answer is lost.
"""

_BEFORE_SWAP = """\
2. A swap. The model reads a question about France. While it does so, what it holds for the word
France at one layer is overwritten with what it holds for Italy in the same question about Italy.
At low layers the answer follows the swap: the model has not used the word yet. At high layers it
does not: what later tokens needed of the word, they have already taken.
"""

_BEFORE_SWEEP = """\
3. A sweep. Everything that the tokens before the last one hold is damaged from one layer on, and
the model goes on. random: noise of the same size; shuffle: the same numbers in another order;
freeze: no further change; skip: later blocks do not attend at all. The table shows which share
of the capitals that the model knows it still gets right. Low in the table means late in the
model: where the score is high again, the model no longer needs what it holds for earlier tokens.
"""


def run(model: Model, *, short: bool = False) -> None:
    """All three on a model. short: a quarter of the layers, half the examples."""
    text = TEMPLATE.replace("{country}", _SWAP_WORDS[0])
    step = 8 if short else 2
    layers = f"{(model.n_layer - 1) % step}::{step}"
    _explain(_BEFORE_MAP)
    console = stdout_console()
    console.print(Text(f"prompt: {visible(text)}"))
    which = layers if short else "all"
    found = token_map(model, text, layers=which, progress=bar)
    show_map(console, found)
    console.print(title_line(found, lens(model, text, layers=which)))

    print()
    _explain(_BEFORE_SWAP)
    swapped = swap(model, text, *_SWAP_WORDS, layers=layers, max_tokens=4, watch=with_bar)
    show_swap(swapped, model.n_layer)

    print()
    _explain(_BEFORE_SWEEP)
    shown = recipe("demo")
    (experiment,) = shown.experiments
    if short:
        chosen = parse_layers(experiment.layers, model.n_layer)[::4]
        fewer = (experiment.n or 2) // 2
        experiment = replace(experiment, layers=",".join(map(str, chosen)), n=fewer)
    run_and_show(model, experiment, None, batch=0, recipe_name=shown.name, json=False)
    print()
    _explain("Now yours: localprobe map --help, localprobe swap --help, localprobe sweep --help")


def _explain(text: str) -> None:
    console = stdout_console()
    width = min(console.width, 88)
    console.print(Text("\n".join(textwrap.wrap(text, width)), style="italic"))
    console.print()
