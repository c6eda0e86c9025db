"""Finding a transition, against a whole sweep of the same examples and against PyTorch.

    python benchmarks/transition.py                                 # against the sweep, 60 examples
    python benchmarks/transition.py --peer                          # against PyTorch, 20 examples
    python benchmarks/transition.py --examples 5 --peer             # the short form

freeze, skip and random on capitals, asked as `--prompts model` does, by the first examples that the
model answers right, and all those tried on the way to them: clean passes included. `transition`
does them before and after the sweep, and its time is the mean of both; what both find is printed
beside it. The long form takes a sweep's time, a quarter of an hour or so.

--peer: PyTorch in bfloat16 on the weights of the same GGUF (needs torch, transformers and
accelerate, as `peers.py`), all layers of an example and an intervention as one batch; localprobe
by `transition`, before and after. Both score the first token, generate nothing, and find by
themselves which examples the clean model answers right. Of several -m, the first one's weights are
PyTorch's.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from apart import Apart

from localprobe.api import Model
from localprobe.experiments.experiment import Experiment, encoder
from localprobe.experiments.sweep import Sweep
from localprobe.models import opening
from localprobe.models.registry import DEFAULT_MODEL
from localprobe.report.transition import between
from localprobe.runs.descent import PATIENCE
from localprobe.runs.tally import KEPT, Tally
from localprobe.runs.transitions import Limits
from localprobe.tasks.base import FIRST_TOKEN, Example, Task
from localprobe.tasks.matching import begins

PATCHES = ("freeze", "skip", "random")


class Some:
    """Some of a task's examples."""

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._task, self._examples = task, examples

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def examples(self) -> Sequence[Example]:
        return self._examples


@dataclass
class Timed:
    """One way of finding transitions: how long it takes, and what it has found."""

    name: str
    turn: Callable[[Sequence[Example]], None]
    transition: Callable[[str], int | None]
    limits: Callable[[str], Limits | None] = lambda _patch: None
    n_cells: Callable[[], int] = lambda: 0
    n_used: Callable[[], int] = lambda: 0
    seconds: float = 0.0

    def take(self, examples: Sequence[Example]) -> Timed:
        start = time.perf_counter()
        self.turn(examples)
        self.seconds = time.perf_counter() - start
        return self


def ours(model: Model, experiment: Experiment, name: str) -> Timed:
    """By a sweep, or by a transition where the experiment has patience."""
    engine, task = model.engine(), experiment.build_task()
    whole = experiment.sweep(engine)
    tally = Tally(whole.tally.columns, whole.metric, {}, descent=whole.tally.descent, kept=KEPT)

    def turn(examples: Sequence[Example]) -> None:
        sweep = Sweep(
            engine,
            Some(task, examples),
            PATCHES,
            range(model.n_layer),
            encoder=encoder(engine, chat=False),
            metric=experiment.metric,
            descent=tally.descent,
        )
        for row in sweep.run():
            if row is not None:
                tally.add(row)

    return Timed(
        name,
        turn,
        tally.transition,
        tally.limits,
        lambda: tally.n_rows - tally.clean.n,
        lambda: tally.baseline.n,
    )


@dataclass
class Theirs:
    """PyTorch: how many examples held at each layer."""

    peers: Apart
    model: Model
    right: dict[str, list[int]] = field(default_factory=dict)
    n: int = 0

    def turn(self, examples: Sequence[Example]) -> None:
        text, n_layer = self.model.loaded.model, self.model.n_layer
        for example in examples:
            prompt = text.tokenize(example.prompt)

            def holds(patch: str, layers: list[int]) -> list[bool]:
                found = self.peers("next_tokens", "PyTorch bfloat16", prompt, patch, layers)  # noqa: B023
                said = (text.detokenize([token]) for token in found)
                return [begins(each, example.answers) for each in said]  # noqa: B023

            if not all(holds("", [0])):
                continue
            self.n += 1
            for patch in PATCHES:
                first = 1 if patch == "freeze" else 0
                counts = self.right.setdefault(patch, [0] * n_layer)
                for layer, held in enumerate(holds(patch, list(range(first, n_layer))), first):
                    counts[layer] += held

    def transition(self, patch: str) -> int | None:
        found = None
        for layer, right in reversed(list(enumerate(self.right[patch]))):
            if right < KEPT * self.n - 1e-9:
                break
            found = layer
        return found


def tried_for(model: Model, experiment: Experiment, n: int) -> list[Example]:
    """The first examples of the task, up to the n-th that the model answers right."""
    engine, task, found = model.engine(), experiment.build_task(), list[Example]()
    used = 0
    examples = task.examples()
    for start in range(0, len(examples), engine.batch_size):
        some = examples[start : start + engine.batch_size]
        runs = engine.clean(
            [model.loaded.model.tokenize(example.prompt) for example in some],
            [],
            max_tokens=task.max_tokens,
            stops=[lambda text, each=each: task.is_settled(text, [each]) for each in some],
        )
        for example, run in zip(some, runs, strict=True):
            found.append(example)
            used += any(task.score(run.answer.text, example).values())
            if used == n:
                return found
    raise SystemExit(f"the model answers only {used} right")


def against_the_sweep(name: str, n: int) -> None:
    with Model(name) as model:
        asked = model.prompted(Experiment("capitals", PATCHES, prompts="model"))
        down = Experiment("capitals", PATCHES, template=asked.template, patience=PATIENCE)
        tried = tried_for(model, asked, n)
        ours(model, down, "to learn the graphs").take(tried)
        quick = ours(model, down, "transition").take(tried)
        sweep = ours(model, asked, "whole sweep").take(tried)
        again = ours(model, down, "transition").take(tried)
        quick.seconds = (quick.seconds + again.seconds) / 2
    print(f"{name}, asked {asked.template!r}: {quick.n_used()} right of {len(tried)} tried")
    for patch in PATCHES:
        one, other = sweep.transition(patch), quick.transition(patch)
        limits = quick.limits(patch)
        print(
            f"{patch:<8} whole sweep {one} (95 % {between(sweep.limits(patch))}), transition "
            f"{other} (95 % {between(limits)}), {_apart(one, other)}; the interval "
            f"{'has' if _holds(limits, one) else 'LACKS'} the sweep's"
        )
    print(f"answers: {sweep.n_cells()} and {quick.n_cells()}")
    _print_times(sweep, quick)


def against_pytorch(names: Sequence[str], n: int) -> None:
    gguf = opening.find(names[0])[1]
    peers = Apart("torch_peer", "Peers", gguf, os.cpu_count(), ("bfloat16",), lens=False)
    with ExitStack() as stack:
        models = [stack.enter_context(Model(name)) for name in names]
        asked = models[0].prompted(Experiment("capitals", PATCHES, prompts="model"))
        down = Experiment(
            "capitals", PATCHES, template=asked.template, metric=FIRST_TOKEN, patience=PATIENCE
        )
        tried = tried_for(models[0], down, n)
        torch_way = Theirs(peers, models[0])
        pytorch = Timed(
            "PyTorch bfloat16, one batch",
            torch_way.turn,
            torch_way.transition,
            n_used=lambda: torch_way.n,
        )
        for model in models:
            ours(model, down, "to learn the graphs").take(tried)
        Theirs(peers, models[0]).turn(tried[:1])
        both = list(zip(models, names, strict=True))
        quick = [ours(model, down, f"localprobe, {name}").take(tried) for model, name in both]
        pytorch.take(tried)
        for (model, name), each in zip(both, quick, strict=True):
            again = ours(model, down, name).take(tried)
            each.seconds = (each.seconds + again.seconds) / 2
    print(f"{peers('about')}; {len(tried)} examples tried, first token")
    for each in [pytorch, *quick]:
        found = ", ".join(f"{patch} {each.transition(patch)}" for patch in PATCHES)
        print(f"{each.name:<36} {each.n_used()} right; {found}")
    for each in quick:
        _print_times(pytorch, each)


def _apart(one: int | None, other: int | None) -> str:
    if one is None or other is None:
        return "the same" if one == other else "NOT the same"
    return f"{other - one:+d}"


def _holds(limits: Limits | None, layer: int | None) -> bool:
    if limits is None or layer is None or limits.low is None:
        return limits is not None and layer is None and limits.high is None
    return limits.low <= layer and (limits.high is None or layer <= limits.high)


def _print_times(slow: Timed, fast: Timed) -> None:
    print(
        f"{slow.name} {slow.seconds:.1f} s, {fast.name} {fast.seconds:.1f} s: "
        f"{slow.seconds / fast.seconds:.2f} times"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-m", "--model", action="append", help="of localprobe; may be repeated")
    parser.add_argument("--examples", type=int, help="that the model answers right (60; 20)")
    parser.add_argument("--peer", action="store_true", help="against PyTorch, not the sweep")
    options = parser.parse_args()
    names = options.model or [DEFAULT_MODEL]
    if options.peer:
        against_pytorch(names, options.examples or 20)
    else:
        for name in names:
            against_the_sweep(name, options.examples or 60)


if __name__ == "__main__":
    main()
