"""Resuming held equal to whole passes, on a model that is new to this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from localprobe.engine.full import Answer, CleanRun, FullEngine, Stop
from localprobe.engine.interventions import Donor, FloatArray, Intervention, by_name, kinds, only_at
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import ModelError
from localprobe.llama.model import Model

_CHECK_LENGTH = 21
_CHECK_TOLERANCE = 0.05
"""As a share of the logits' spread. Other batch shapes use other kernels, which round quantized
activations otherwise; a wrong graph is off by far more."""


def check_resume(model: Model) -> float:
    """By how much the lead of the likeliest token was seen to differ from whole passes, at most.

    Every way of leaving blocks out is tried once, at the first, middle and last layer, on two
    short prompts that share a decode. Raises ModelError where the numbers are others, and not the
    same ones rounded in another way.
    """
    full, resume = FullEngine(model), ResumeEngine(model)
    step = model.info.n_vocab // 8
    prompts = [[step, 2 * step, 3 * step, 4 * step], [step, 5 * step, 6 * step]]
    layers = sorted({0, 1, model.n_layer // 2, model.n_layer - 1} & set(range(model.n_layer)))
    no_stops: list[Stop | None] = [None, None]
    runs = _finite(resume.clean(prompts, layers, max_tokens=1, stops=no_stops))
    noise = 0.0
    for kind in _one_of_each_way(Donor(runs[0].states, (1,), (2,))):
        defined = [layer for layer in layers if layer >= kind.first_layer]
        cells = resume.run(
            runs, [kind, kind], defined, max_tokens=1, examples=[0, 1], stops=no_stops
        )
        for i, layer, answer in list(cells):
            expected = full.answer(
                prompts[i], max_tokens=1, intervention=kind, layer=layer, example=i
            ).logits
            spread = float(expected.max() - expected.min())
            if not answer.is_finite:
                raise ModelError(f"resuming at layer {layer} gives no finite logits")
            difference = float(np.abs(answer.logits - expected).max())
            if not difference <= _CHECK_TOLERANCE * spread:
                raise ModelError(f"resuming at layer {layer} gives other logits under {kind.name}")
            noise = max(noise, _turned(expected, answer.logits))
    # Where a prompt's cells lie decides in which order its attention is summed up. In quantized
    # models that turns up in some prompts and then by far more than the last digit, most of all
    # where states are damaged.
    length = min(_CHECK_LENGTH, model.info.n_ctx_train - 1)
    prompts = [[(step * p + q) % model.info.n_vocab for p in range(length)] for q in range(8)]
    together = _next_tokens(resume, prompts, range(8))
    for q, prompt in enumerate(prompts):
        for cell, alone in _next_tokens(resume, [prompt], [q]).items():
            if alone.is_finite and together[cell].is_finite:
                noise = max(noise, _turned(alone.logits, together[cell].logits))
    return noise


def _one_of_each_way(donor: Donor) -> list[Intervention]:
    """The first intervention of each way of leaving blocks out."""
    ways: dict[tuple[bool, ...], Intervention] = {}
    for kind in kinds():
        way = kind.needs_donor, kind.holds_past, kind.attention_off
        ways.setdefault(way, by_name(kind.name, 0, donor))
    held = [only_at(each, [1]) for each in ways.values() if each.holds_past]
    return [*ways.values(), *held]


def _next_tokens(
    engine: ResumeEngine, prompts: Sequence[Sequence[int]], examples: Sequence[int]
) -> dict[tuple[str, int, int], Answer]:
    """By intervention, layer and example: of clean passes, and of some that are damaged."""
    layers = sorted({engine.model.n_layer // 2, engine.model.n_layer - 1})
    stops: list[Stop | None] = [None] * len(prompts)
    runs = _finite(engine.clean(prompts, layers, max_tokens=1, stops=stops))
    found = {("clean", 0, q): run.answer for q, run in zip(examples, runs, strict=True)}
    for each in kinds():
        if each.needs_donor or each.holds_past:
            continue
        kind = by_name(each.name, 0)
        for i, layer, answer in engine.run(
            runs, [kind] * len(runs), layers, max_tokens=1, examples=examples, stops=stops
        ):
            found[kind.name, layer, examples[i]] = answer
    return found


def _finite(runs: list[CleanRun]) -> list[CleanRun]:
    if not all(run.answer.is_finite for run in runs):
        raise ModelError("resuming gives no finite logits")
    return runs


def _turned(one: FloatArray, other: FloatArray) -> float:
    """By how much the likeliest token's lead over the next one differs between two logits."""
    second, first = np.argsort(one)[-2:]
    return abs(float((one[first] - one[second]) - (other[first] - other[second])))
