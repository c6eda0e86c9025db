"""`localprobe demo`: two experiments, and in plain words what one is looking at."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from rich.text import Text

from localprobe.api import Model, swap
from localprobe.cli.commands import run_and_show, show_swap
from localprobe.engine.layers import parse_layers
from localprobe.experiments.recipe import recipe
from localprobe.report.terminal import stdout_console, with_bar
from localprobe.tasks.capitals import TEMPLATE

_SWAP_WORDS = ("France", "Italy")

_BEFORE_SWAP = """\
1. A swap. The model reads a question about France. While it does so, what it holds for the word
France at one layer is overwritten with what it holds for Italy in the same question about Italy.
At low layers the answer follows the swap: the model has not used the word yet. At high layers it
does not: what later tokens needed of the word, they have already taken.
"""

_BEFORE_SWEEP = """\
2. A sweep. Everything that the tokens before the last one hold is damaged from one layer on, and
the model goes on. random: noise of the same size; shuffle: the same numbers in another order;
freeze: no further change; skip: later blocks do not attend at all. The table shows which share
of the capitals that the model knows it still gets right. Low in the table means late in the
model: where the score is high again, the model no longer needs what it holds for earlier tokens.
"""


def run(model: Model, *, short: bool = False) -> None:
    """Both experiments on a model. short: a quarter of the layers, half the examples."""
    _explain(_BEFORE_SWAP)
    text = TEMPLATE.replace("{country}", _SWAP_WORDS[0])
    step = 8 if short else 2
    layers = f"{(model.n_layer - 1) % step}::{step}"
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
    _explain("Now yours: localprobe swap --help, localprobe sweep --help, localprobe models")


def _explain(text: str) -> None:
    console = stdout_console()
    width = min(console.width, 88)
    console.print(Text("\n".join(textwrap.wrap(text, width)), style="italic"))
    console.print()
