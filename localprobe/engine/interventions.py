"""The five interventions of Ben Artzy & Schwartz (2024): what each writes, and where.

Pure numpy; knows neither llama.cpp nor tasks. The state at layer k of a token is the input of
block k. "Past tokens" are all tokens of a sequence but its last one, which is never written to.

    random   noise with the norm of the state it replaces, at layer k
    shuffle  the state with its components permuted, at layer k
    freeze   the token's own state at layer k-1, at every layer from k on
    skip     nothing is written; attention contributes nothing from block k on
    inject   states of chosen tokens of another prompt, at layer k

Draws depend on (seed, example, layer, position) alone, so that they do not change with the
order or the choice of layers, nor with how the tokens are batched.

Each says about itself what engines and tables need to know (see `Intervention`), and is known by
its name once it is registered: to add one, write its class here under `@register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from localprobe.engine.generators import generators
from localprobe.errors import LocalprobeError, did_you_mean

FloatArray = NDArray[np.float32]


def random_states(
    past: FloatArray, *, seed: int, example: int, layer: int, start: int
) -> FloatArray:
    """Noise v ~ N(0, I) for every row of `past` (n, n_embd), rescaled to the row's norm.

    start: the position in the sequence of the first row.
    """
    noise, scales = np.empty(past.shape), []
    own = generators((seed, example, layer), start, len(past))
    for state, draw, generator in zip(past.astype(np.float64), noise, own, strict=True):
        generator.standard_normal(out=draw)
        # As np.linalg.norm does it, which takes as long as the draw.
        scales.append(math.sqrt(state @ state) / math.sqrt(draw @ draw))
    noise *= np.array(scales).reshape(-1, 1)
    return noise.astype(np.float32)


def shuffled_states(
    past: FloatArray, *, seed: int, example: int, layer: int, start: int
) -> FloatArray:
    """Every row of `past` (n, n_embd) with its components permuted, one permutation a row."""
    shuffled = past.copy()
    own = generators((seed, example, layer), start, len(past))
    for row, generator in zip(shuffled, own, strict=True):
        generator.shuffle(row)
    return shuffled


def injected_states(
    past: FloatArray, donor: FloatArray, *, at: Sequence[int], donor_at: Sequence[int], start: int
) -> FloatArray:
    """`past` (n, n_embd) with the donor's states (n_donor, n_embd) at the given positions.

    Positions before `start` or beyond the rows at hand are left alone.
    """
    injected = past.copy()
    for position, donor_position in zip(at, donor_at, strict=True):
        if start <= position < start + len(past):
            injected[position - start] = donor[donor_position]
    return injected


@dataclass(frozen=True)
class Edit:
    """One intervention at one layer, in one forward pass.

    layers: the states that `past` has to see.
    past: given a layer and the past tokens' states there (n_past, n_embd), what to write, or None.
    attention_off_from: the first block whose attention contributes nothing.
    """

    layers: frozenset[int] = frozenset()
    past: Callable[[int, FloatArray], FloatArray | None] = lambda layer, past: None
    attention_off_from: int | None = None

    def apply(self, layer: int, states: FloatArray) -> FloatArray | None:
        """New states (n_tokens, n_embd), or None. The last token's row always stays its own."""
        written = self.past(layer, states[:-1])
        return None if written is None else np.concatenate([written, states[-1:]])


@dataclass(frozen=True)
class Donor:
    """What is injected: states of another prompt, layer -> (n_donor, n_embd), and which go where.

    at, donor_at: positions in the prompt and in the donor, pairwise.
    """

    states: Mapping[int, FloatArray] = field(repr=False)
    at: tuple[int, ...]
    donor_at: tuple[int, ...]


class Intervention(Protocol):
    """What an intervention does; `edit` is asked anew for every forward pass.

    Of past tokens it may write the states at layer k and above, of the clean states it may look at
    those of layers k-1 and k, and of attention it may ask that it contributes nothing.
    """

    name: ClassVar[str]
    first_layer: ClassVar[int]
    """The lowest layer at which it is defined."""
    needs_donor: ClassVar[bool]
    """Whether states of another prompt are needed to build one."""
    writes_generated: ClassVar[bool]
    """Whether a generated token is written to once another one follows it."""
    holds_past: ClassVar[bool]
    """Whether past tokens have, in every block from k on, what is written at layer k; else blocks
    k and above compute on from it as usual."""
    attention_off: ClassVar[bool]
    """Whether attention contributes nothing from block k on, and nothing is written."""
    is_drawn: ClassVar[bool]
    """Whether what is written depends on the seed."""

    @classmethod
    def build(cls, seed: int, donor: Donor | None) -> Intervention:
        """One for a seed; donor: where it needs one."""

    def first_row(self, n_tokens: int) -> int:
        """The first row that it changes, of a prompt of so many tokens, for its last one."""

    def held(self) -> tuple[int, ...]:
        """Positions that have, in every block from k on, what is written there at layer k, while
        the others compute on from it as usual. Where all past tokens do: see `holds_past`."""

    def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
        """What to do at `layer` when the first row of the pass stands at position `start`."""


_REGISTERED: dict[str, type[Intervention]] = {}
_Kind = TypeVar("_Kind", bound="type[Intervention]")


def register(kind: _Kind) -> _Kind:
    """Make an intervention known by its name, to engines, recipes, tables and the command line."""
    _REGISTERED[kind.name] = kind
    return kind


def forget(name: str) -> None:
    """Undo `register`."""
    del _REGISTERED[name]


def kinds() -> tuple[type[Intervention], ...]:
    """All that are registered, in that order."""
    return tuple(_REGISTERED.values())


def names(*, with_donor: bool = True) -> tuple[str, ...]:
    """Of all interventions, or of those that need no donor: what a task can be swept with."""
    return tuple(kind.name for kind in kinds() if with_donor or not kind.needs_donor)


def drawn_names() -> tuple[str, ...]:
    """Those whose draws depend on a seed."""
    return tuple(kind.name for kind in kinds() if kind.is_drawn)


def first_layer(name: str) -> int:
    """The lowest layer at which an intervention is defined; 0 for what is none."""
    return _REGISTERED[name].first_layer if name in _REGISTERED else 0


def switches_attention_off(name: str) -> bool:
    """Whether an intervention does; the others write states."""
    return name in _REGISTERED and _REGISTERED[name].attention_off


class Plain:
    """What most interventions are like: from the first row on, at one layer, without a donor."""

    first_layer: ClassVar[int] = 0
    needs_donor: ClassVar[bool] = False
    writes_generated: ClassVar[bool] = True
    holds_past: ClassVar[bool] = False
    attention_off: ClassVar[bool] = False
    is_drawn: ClassVar[bool] = False

    @classmethod
    def build(cls, seed: int, donor: Donor | None) -> Intervention:
        return cls()  # type: ignore[return-value]

    def first_row(self, n_tokens: int) -> int:
        return 0

    def held(self) -> tuple[int, ...]:
        return ()


class _Draw(Protocol):
    def __call__(
        self, past: FloatArray, *, seed: int, example: int, layer: int, start: int
    ) -> FloatArray: ...


@dataclass(frozen=True)
class _Redrawn(Plain):
    """Past tokens' states at the layer are drawn anew."""

    is_drawn: ClassVar[bool] = True
    draw: ClassVar[_Draw]
    seed: int = 0

    @classmethod
    def build(cls, seed: int, donor: Donor | None) -> Intervention:
        return cls(seed)  # type: ignore[return-value]

    def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
        draw, seed = type(self).draw, self.seed

        def past(_layer: int, past: FloatArray) -> FloatArray:
            return draw(past, seed=seed, example=example, layer=layer, start=start)

        return Edit(frozenset([layer]), past)


@register
@dataclass(frozen=True)
class Random(_Redrawn):
    name: ClassVar[str] = "random"
    draw: ClassVar[_Draw] = staticmethod(random_states)


@register
@dataclass(frozen=True)
class Shuffle(_Redrawn):
    name: ClassVar[str] = "shuffle"
    draw: ClassVar[_Draw] = staticmethod(shuffled_states)


@register
@dataclass(frozen=True)
class Freeze(Plain):
    name: ClassVar[str] = "freeze"
    first_layer: ClassVar[int] = 1
    holds_past: ClassVar[bool] = True

    def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
        frozen: FloatArray | None = None

        def past(at_layer: int, past: FloatArray) -> FloatArray | None:
            nonlocal frozen
            if at_layer == layer - 1:
                frozen = past.copy()
                return None
            return frozen

        return Edit(frozenset(range(layer - 1, n_layer)), past)


@register
@dataclass(frozen=True)
class Skip(Plain):
    name: ClassVar[str] = "skip"
    writes_generated: ClassVar[bool] = False
    attention_off: ClassVar[bool] = True

    def first_row(self, n_tokens: int) -> int:
        # Rows do not see each other any more.
        return n_tokens - 1

    def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
        return Edit(attention_off_from=layer)


@register
@dataclass(frozen=True)
class Inject(Plain):
    """donor: layer -> the donor prompt's states there (n_donor, n_embd), for every layer asked."""

    name: ClassVar[str] = "inject"
    needs_donor: ClassVar[bool] = True
    writes_generated: ClassVar[bool] = False
    donor: Mapping[int, FloatArray] = field(repr=False)
    at: tuple[int, ...]
    donor_at: tuple[int, ...]

    @classmethod
    def build(cls, seed: int, donor: Donor | None) -> Intervention:
        if donor is None:
            raise ValueError(f"{cls.name} needs a donor")
        return cls(donor.states, donor.at, donor.donor_at)

    def first_row(self, n_tokens: int) -> int:
        return min(self.at)

    def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
        def past(_layer: int, past: FloatArray) -> FloatArray:
            donor = self.donor[layer]
            return injected_states(past, donor, at=self.at, donor_at=self.donor_at, start=start)

        return Edit(frozenset([layer]), past)


@dataclass(frozen=True)
class _Only(Plain):
    """Another intervention, but written to some positions of the prompt alone. See `only_at`."""

    writes_generated: ClassVar[bool] = False
    inner: Intervention
    at: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def first_layer(self) -> int:  # type: ignore[override]
        return self.inner.first_layer

    @property
    def is_drawn(self) -> bool:  # type: ignore[override]
        return self.inner.is_drawn

    def first_row(self, n_tokens: int) -> int:
        return self.at[0]

    def held(self) -> tuple[int, ...]:
        return self.at if self.inner.holds_past else self.inner.held()

    def edit(self, layer: int, *, n_layer: int, example: int, start: int) -> Edit:
        at = np.array([position for position in self.at if position >= start], np.intp)
        if not len(at):
            return Edit()
        first, end = int(at[0]), int(at[-1]) + 1
        # What is written to a row depends on that row and its position alone: the rows between
        # the first and the last one that are asked for are all that it has to see.
        inner = self.inner.edit(layer, n_layer=n_layer, example=example, start=first)

        def past(at_layer: int, past: FloatArray) -> FloatArray | None:
            written = inner.past(at_layer, past[first - start : end - start])
            if written is None:
                return None
            here = at[at < start + len(past)]
            new = past.copy()
            new[here - start] = written[here - first]
            return new

        return Edit(inner.layers, past)


def only_at(intervention: Intervention, at: Iterable[int]) -> Intervention:
    """The intervention with only these positions of the prompt written to.

    The rest of the past computes on as usual from what is written, and so do generated tokens.
    Draws are those that the whole intervention makes at these positions.
    Raises LocalprobeError where it writes to no tokens, as skip does, or has its own positions.
    """
    positions = tuple(sorted(set(at)))
    if not positions or positions[0] < 0:
        raise ValueError(f"no positions of a prompt: {positions}")
    if intervention.attention_off:
        raise LocalprobeError(
            f"{intervention.name} writes to no tokens, so it cannot be made at some of them"
        )
    if intervention.needs_donor:
        raise LocalprobeError(f"{intervention.name} has positions of its own")
    return _Only(intervention, positions)  # type: ignore[return-value]


def by_name(name: str, seed: int, donor: Donor | None = None) -> Intervention:
    """An intervention. Raises LocalprobeError for an unknown name, and for a missing donor."""
    check_name(name)
    kind = _REGISTERED[name]
    if kind.needs_donor and donor is None:
        raise LocalprobeError(f"{name} needs the states of another prompt")
    return kind.build(seed, donor)


def check_name(name: str) -> None:
    """Raise LocalprobeError, with what may have been meant, for an unknown intervention."""
    if name not in _REGISTERED:
        raise LocalprobeError(f"unknown intervention {name!r}; {did_you_mean(name, names())}")


def defined_layers(intervention: Intervention, layers: Sequence[int]) -> list[int]:
    """Those of the layers at which it is defined. Raises LocalprobeError where none is."""
    defined = [layer for layer in layers if layer >= intervention.first_layer]
    if not defined:
        raise LocalprobeError(
            f"{intervention.name} is defined from layer {intervention.first_layer} on"
        )
    return defined
