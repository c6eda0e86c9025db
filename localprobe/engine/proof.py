"""Resuming held equal to whole passes, on a model that is new to this machine.

Proved: the same rows in the same cells, computed whole and in part, give the same bits (on devices
other than the CPU, where a graph that is cut elsewhere may round otherwise, nearly the same).
Measured: how far the engines are apart for another reason. They do not compute the same rows in
one decode, other shapes use other kernels, and these round quantized activations otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from localprobe.engine.full import CLEAN, Answer, CleanRun, FullEngine, Stop
from localprobe.engine.interventions import (
    Donor,
    FloatArray,
    Intervention,
    by_name,
    kinds,
    random_states,
)
from localprobe.engine.regions import STEP
from localprobe.engine.resume import ResumeEngine
from localprobe.errors import LocalprobeError, ModelError
from localprobe.llama.batch import Batch, Row
from localprobe.llama.graph import Graph, Part
from localprobe.llama.model import EXACT, FLASH, Model
from localprobe.llama.residual import Keep
from localprobe.llama.tiles import TILE

_LONG, _SHORT = 36, 3
"""Rows of the prompts that are proved with. From 32 rows on, devices take over work of others."""
_NOISE_LENGTH, _NOISE_PROMPTS = 21, 8
_ANSWER = 2
"""Tokens generated where prompts are compared in company and alone."""
_TOLERANCE = 1e-3
"""As a share of the logits' spread, where not every bit has to be the same."""

_TEXT = """\
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of
Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair, we
had everything before us, we had nothing before us, we were all going direct to Heaven, we were all
going direct the other way. Call me Ishmael. Some years ago, never mind how long precisely, having
little or no money in my purse, and nothing particular to interest me on shore, I thought I would
sail about a little and see the watery part of the world. It is a way I have of driving off the
spleen, and regulating the circulation. In the beginning the capital of France was Paris; the sum
of 12 and 30 is 42, and water boils at 100 degrees.
"""
"""Dickens, Melville, and a little of what tasks ask."""


def check_resume(model: Model) -> float:
    """By how much the lead of the likeliest token was seen to differ from whole passes, at most.

    Raises ModelError where a part of the graph gives other numbers than the whole of it.
    """
    text = _text(model)
    layers = sorted({0, model.n_layer // 2, model.n_layer - 1})
    # Large decodes and small ones take turns: what one leaves behind must not reach the other.
    for layer in layers:
        for length in (_LONG, _SHORT):
            _Proof(model, text[: min(length, model.info.n_ctx_train)], layer).run()
    return max(_between_engines(model, text, layers), _in_company(model, text))


def moved_by_flash(model: Model) -> float:
    """By how much flash attention was seen to move the lead of the likeliest token, at most.

    That of clean passes over real text, each prompt alone. The cache is emptied.
    """
    moved, before = 0.0, model.attention
    length = min(_NOISE_LENGTH, model.info.n_ctx_train)
    text = _text(model)
    prompts = [text[length * q : length * (q + 1)] for q in range(_NOISE_PROMPTS)]
    logits: dict[str, list[FloatArray]] = {}
    try:
        for way in (EXACT, FLASH):
            model.attention = way
            logits[way] = [model.plain_logits(prompt) for prompt in prompts]
    finally:
        model.attention = before
    for one, other in zip(logits[EXACT], logits[FLASH], strict=True):
        moved = max(moved, _turned(one, other))
    return moved


class _Proof:
    """A prompt at a layer: parts of the graph against the whole of it."""

    def __init__(self, model: Model, tokens: Sequence[int], layer: int) -> None:
        self._model, self._tokens, self._layer = model, tokens, layer
        end = len(tokens)
        self._past, self._newest = self._rows(0, end - 1), self._rows(end - 1, end)
        self._all = self._rows(0, end)

    def run(self) -> None:
        """Raise ModelError where one of them is not equal."""
        self._model.reserve(len(self._tokens))
        self._from_the_layer()
        self._with_the_past_held()
        self._with_some_rows_held()
        if not self._model.verdict.attention:
            self._without_attention()
        self._with_the_blocks_below()

    def _from_the_layer(self) -> None:
        damage = _Damage([self._layer])
        whole = self._whole(self._all, damage)
        self._compare("go on from it", whole, self._resumed(self._all, damage))

    def _with_the_past_held(self) -> None:
        damage = _Damage(range(self._layer, self._model.n_layer))
        keep = Keep([self._layer])
        self._whole(self._past, damage)
        whole = self._model.decode(self._newest, keep)
        self._wipe()
        self._store(lambda graph: graph.keys_and_values(self._layer, damage.states.__getitem__))
        self._compare("hold its past", whole, self._resumed(self._newest, keep, wipe=False))

    def _with_some_rows_held(self) -> None:
        held = [len(self._tokens) // 2]
        damage = _Damage(range(self._layer, self._model.n_layer), held)
        whole = self._whole(self._all, damage)
        self._wipe()
        later = {k: (held, damage.states[k][held]) for k in sorted(damage.layers)[1:]}
        found = self._part(
            self._all, lambda graph: graph.from_layer(self._layer, damage.first_written, later)
        )
        self._compare("hold some rows", whole, found)

    def _without_attention(self) -> None:
        keep = Keep([self._layer], attention_off_from=self._layer)
        whole = self._whole(self._newest, keep)
        self._wipe()
        states = keep.states[self._layer]
        found = self._part(self._newest, lambda graph: graph.without_attention(self._layer, states))
        self._compare("leave attention out", whole, found)

    def _with_the_blocks_below(self) -> None:
        damage = _Damage([self._layer])
        self._whole(self._past, damage)
        whole = self._model.decode(self._newest, CLEAN)
        self._wipe()
        self._store(lambda graph: graph.below(self._layer))
        self._model.forget(0, 0)
        self._resumed(self._past, damage, wipe=False)
        self._compare("fill the blocks below it", whole, self._model.decode(self._newest, CLEAN))

    def _rows(self, start: int, end: int) -> Batch:
        return Batch([Row(self._tokens[p], p, (0,), p == end - 1) for p in range(start, end)])

    def _wipe(self) -> None:
        # What the whole pass has left in the cells must not stand in for what a part leaves out.
        self._model.clear(wipe=True)

    def _whole(self, rows: Batch, edit: _Damage | Keep) -> FloatArray:
        self._wipe()
        return self._model.decode(rows, edit)

    def _part(self, rows: Batch, part: Callable[[Graph], Part]) -> FloatArray:
        return self._model.decode_part(rows, part)

    def _store(self, part: Callable[[Graph], Part]) -> None:
        # Where only the cache is filled, there are no logits to look at.
        self._model.decode_part(self._past, part, want_logits=False)

    def _resumed(self, rows: Batch, seen: _Damage | Keep, *, wipe: bool = True) -> FloatArray:
        """From the layer on, with the states that the whole pass had there."""
        if wipe:
            self._wipe()
        states = seen.states[self._layer]
        return self._part(rows, lambda graph: graph.from_layer(self._layer, states))

    def _compare(self, what: str, whole: FloatArray, part: FloatArray) -> None:
        allowed = 0.0 if self._model.on_cpu else _TOLERANCE * float(whole.max() - whole.min())
        if not np.abs(whole - part).max() <= allowed:
            raise ModelError(
                f"resuming at layer {self._layer} gives other logits than whole passes "
                f"(where it has to {what})"
            )


class _Damage:
    """An edit that writes noise to every row at one layer, and the same at others above it.

    held: the only rows that are written to at the others; all if None. states: layer -> what was
    written there.
    """

    attention_off_from: int | None = None

    def __init__(self, layers: Iterable[int], held: Sequence[int] | None = None) -> None:
        self.layers = frozenset(layers)
        self._held = held
        self.states: dict[int, FloatArray] = {}

    @property
    def first_written(self) -> FloatArray:
        return self.states[min(self.states)]

    def apply(self, layer: int, states: FloatArray) -> FloatArray:
        if not self.states:
            self.states[layer] = random_states(states, seed=0, example=0, layer=0, start=0)
            return self.states[layer]
        written = self.first_written
        if self._held is not None:
            written = states.copy()
            written[self._held] = self.first_written[self._held]
        self.states[layer] = written
        return written


def _between_engines(model: Model, text: Sequence[int], layers: Sequence[int]) -> float:
    """How far resuming is from whole passes, where each decodes rows as it likes best."""
    full, resume = FullEngine(model), ResumeEngine(model)
    prompts = [text[:4], [text[0], *text[4:6]]]
    no_stops: list[Stop | None] = [None, None]
    runs = _finite(resume.clean(prompts, layers, max_tokens=1, stops=no_stops))
    noise = 0.0
    for kind in _one_of_each_way(full, Donor(runs[0].states, (1,), (2,))):
        defined = [layer for layer in layers if layer >= kind.first_layer]
        cells = resume.run(
            runs, [kind, kind], defined, max_tokens=1, examples=[0, 1], stops=no_stops
        )
        for i, layer, answer in list(cells):
            if not answer.is_finite:
                raise ModelError(f"resuming at layer {layer} gives no finite logits")
            expected = full.answer(
                prompts[i], max_tokens=1, intervention=kind, layer=layer, example=i
            )
            noise = max(noise, _turned(expected.logits, answer.logits))
    return noise


def _in_company(model: Model, text: Sequence[int]) -> float:
    """How far prompts that share a decode are from the same ones alone.

    Where a prompt's cells lie decides in which order its attention is summed up. In quantized
    models that turns up in some prompts and then by far more than the last digit, most of all
    where states are damaged.
    """
    # Wherever llama.cpp puts them: as far apart as on another processor.
    resume = ResumeEngine(model, plain=True)
    length = min(_NOISE_LENGTH, model.info.n_ctx_train - 1)
    prompts = [text[length * q : length * (q + 1)] for q in range(_NOISE_PROMPTS)]
    ways = _damages(resume)
    layers = sorted({model.n_layer // 2, model.n_layer - 1})
    together, _ = _answers(resume, prompts, range(len(prompts)), ways, layers)
    noise = 0.0
    for q, prompt in enumerate(prompts):
        for cell, alone in _answers(resume, [prompt], [q], ways, layers)[0].items():
            if alone.is_finite and together[cell].is_finite:
                noise = max(noise, _turned(alone.logits, together[cell].logits))
    return noise


def keeps_bits(model: Model) -> bool:
    """Whether what shares a decode, each in its region, has the bits that it has alone.

    That is, prompts, and layers of one.

    Clean and changed, over real text in prompts of several lengths that begin alike. A sum made in
    another order is seen: of the millions of numbers that are rounded to 8 bits on the way, some
    fall to the other side.
    """
    text, resume = _text(model), ResumeEngine(model, keeps_bits=True)
    by_itself = ResumeEngine(model, 1, keeps_bits=True)
    most = min(2 * STEP + 1, model.info.n_ctx_train - _ANSWER)
    lengths = [most - 11, most - 3, most, most - 12]
    if model.attention == FLASH and model.info.n_ctx_train >= 2 * TILE:
        lengths += [TILE + 17, TILE + 6]
    prompts = [[*text[:STEP], *text[15 * q :]][:length] for q, length in enumerate(lengths)]
    donor = Donor(_clean(resume, prompts[:1], _ANSWER)[0].states, (1,), (0,))
    middle = max(1, model.n_layer // 2)
    ways, layers = _one_of_each_way(resume, donor), [middle - 1, middle]
    together, states = _answers(resume, prompts, range(len(prompts)), ways, layers, _ANSWER)
    for q, prompt in enumerate(prompts):
        alone, own = _answers(by_itself, [prompt], [q], ways, layers, _ANSWER)
        if not all(np.array_equal(states[q][layer], found) for layer, found in own[0].items()):
            return False
        for cell, one in alone.items():
            other = together[cell]
            same = one.all_tokens == other.all_tokens and one.margin == other.margin
            if not (same and np.array_equal(one.logits, other.logits)):
                return False
    return True


def _text(model: Model) -> list[int]:
    """Tokens of English; of a vocabulary that has none of it, any."""
    wanted = _NOISE_LENGTH * _NOISE_PROMPTS
    try:
        found = model.tokenize(_TEXT, begin=False)
    except LocalprobeError:
        found = []
    step = model.info.n_vocab // 8
    return [*found, *((step * p + p // 8) % model.info.n_vocab for p in range(wanted))][:wanted]


def _one_of_each_way(engine: FullEngine, donor: Donor) -> list[Intervention]:
    """The first intervention of each way of leaving blocks out that the model allows."""
    ways: dict[tuple[bool, ...], Intervention] = {}
    for kind in kinds():
        if engine.why_not(kind.name):
            continue
        way = kind.needs_donor, kind.holds_past, kind.attention_off
        ways.setdefault(way, by_name(kind.name, 0, donor))
    return list(ways.values())


def _damages(engine: FullEngine) -> list[Intervention]:
    """Those that damage every past token, and all blocks go on from there."""
    plain = (each for each in kinds() if not (each.needs_donor or each.holds_past))
    return [by_name(each.name, 0) for each in plain if not engine.why_not(each.name)]


def _answers(
    engine: ResumeEngine,
    prompts: Sequence[Sequence[int]],
    examples: Sequence[int],
    ways: Sequence[Intervention],
    layers: Iterable[int],
    max_tokens: int = 1,
) -> tuple[dict[tuple[str, int, int], Answer], list[Mapping[int, FloatArray]]]:
    """By intervention, layer and example: of clean passes, and of some that are not.

    Also the clean states of each prompt, by layer.
    """
    runs = _clean(engine, prompts, max_tokens)
    found = {("clean", 0, q): run.answer for q, run in zip(examples, runs, strict=True)}
    for kind in ways:
        for i, layer, answer in engine.run(
            runs,
            [kind] * len(runs),
            [layer for layer in layers if layer >= kind.first_layer],
            max_tokens=max_tokens,
            examples=examples,
            stops=[None] * len(prompts),
        ):
            found[kind.name, layer, examples[i]] = answer
    return found, [run.states for run in runs]


def _clean(
    engine: ResumeEngine, prompts: Sequence[Sequence[int]], max_tokens: int
) -> list[CleanRun]:
    stops: list[Stop | None] = [None] * len(prompts)
    layers = range(engine.model.n_layer)
    return _finite(engine.clean(prompts, layers, max_tokens=max_tokens, stops=stops))


def _finite(runs: list[CleanRun]) -> list[CleanRun]:
    if not all(run.answer.is_finite for run in runs):
        raise ModelError("resuming gives no finite logits")
    return runs


def _turned(one: FloatArray, other: FloatArray) -> float:
    """By how much the likeliest token's lead over the next one differs between two logits."""
    second, first = np.argsort(one)[-2:]
    return abs(float((one[first] - one[second]) - (other[first] - other[second])))
