"""`localprobe demo`: two experiments, and in plain words what one is looking at."""

from __future__ import annotations

import textwrap

from rich.text import Text

from localprobe.commands import show_swap
from localprobe.layers import parse_layers
from localprobe.models import LoadedModel, choose_engine
from localprobe.recipe import shipped_recipe
from localprobe.report.sweep_view import SweepView
from localprobe.report.terminal import stdout_console, with_bar
from localprobe.swap import Swap, plan_swap
from localprobe.sweep import Sweep
from localprobe.tasks import task_by_name
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


def run(loaded: LoadedModel, *, short: bool = False) -> None:
    """Both experiments on a loaded model. short: a quarter of the layers, half the examples."""
    model = loaded.model
    engine, _ = choose_engine(loaded)
    thinning = 4 if short else 1

    _explain(_BEFORE_SWAP)
    text = TEMPLATE.replace("{country}", _SWAP_WORDS[0])
    layers = parse_layers("::2", model.n_layer)[::thinning]
    swap = Swap(engine, plan_swap(model, text, *_SWAP_WORDS), layers, max_tokens=4)
    show_swap(text, _SWAP_WORDS, swap, swap.rows(with_bar), model.n_layer)

    print()
    _explain(_BEFORE_SWEEP)
    recipe = shipped_recipe("demo")
    sweep = Sweep(
        engine,
        task_by_name(recipe.task),
        recipe.interventions,
        parse_layers(recipe.layers, model.n_layer)[::thinning],
        n=recipe.n // 2 if short else recipe.n,
        seed=recipe.seed,
    )
    SweepView(sweep, model.n_layer, f"{recipe.task} · {loaded.name}").run()
    print()
    _explain("Now yours: localprobe swap --help, localprobe sweep --help, localprobe models")


def _explain(text: str) -> None:
    console = stdout_console()
    width = min(console.width, 88)
    console.print(Text("\n".join(textwrap.wrap(text, width)), style="italic"))
    console.print()
