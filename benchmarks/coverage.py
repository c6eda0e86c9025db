"""How often 95 % intervals of transitions, of their shifts and of the scores of adaptive sweeps
hold the truth, on made-up examples.

python benchmarks/coverage.py            # 2,000 runs of each kind, some minutes

An example is lost below its own layer, which is drawn around a centre; where answers flicker, it
is another one at each layer by chance. The truth is that of very many examples. A layer is coarse:
where the share falls steeply from one to the next, intervals hold the truth more often than 95 %,
since there is nothing between "too low" and "right". So most kinds here fall gently, over layers
as fine as it takes to see what the method does; `steep` is what small models do.

Of a sweep, every layer has a score whose mean is known. A layer at which all are right, or none,
has an interval that holds it always; those are left out.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localprobe.runs.adaptive import WIDTH, next_look
from localprobe.runs.descent import PATIENCE
from localprobe.runs.stages import interval, is_narrow, tails
from localprobe.runs.transitions import limits, moved

KEPT = 0.9


@dataclass(frozen=True)
class Kind:
    """n examples, n_layer layers; own layers are spread by so many; flicker: the share of answers
    that are others by chance at layers around an example's own."""

    name: str
    n: int
    n_layer: int
    spread: float
    flicker: float = 0.0

    def draw(self, centre: float, n: int, random: np.random.Generator) -> NDArray[np.bool_]:
        """Whether each of n examples holds at each layer, (n, n_layer)."""
        own = random.normal(centre, self.spread, n)[:, None]
        layers = np.arange(self.n_layer)[None, :]
        # Certain far from its own layer, less so around it.
        doubt = self.flicker * np.exp(-(((layers - own) / (self.spread + 1)) ** 2))
        return (layers >= own) ^ (random.random((n, self.n_layer)) < doubt)


KINDS = (
    Kind("gentle, 60 examples", 60, 60, 12.0),
    Kind("gentle, 100 examples", 100, 60, 12.0),
    Kind("gentle, 200 examples", 200, 100, 16.0),
    Kind("flickering, 60 examples", 60, 60, 12.0, 0.1),
    Kind("flickering, 200 examples", 200, 100, 16.0, 0.1),
    Kind("steep, 60 examples", 60, 30, 2.0),
    Kind("steep, flickering, 60", 60, 30, 2.0, 0.1),
)
UNTIL = (
    (Kind("gentle", 0, 30, 6.0), 5),
    (Kind("gentle", 0, 30, 6.0), 3),
    (Kind("steep", 0, 30, 2.0), 2),
    (Kind("steep", 0, 30, 2.0), 1),
)
MANY, NORMAL_90 = 40_000, 1.2815515655446004


def descended(holds: NDArray[np.bool_], patience: int) -> NDArray[np.bool_]:
    """What is counted as right where an answer lost at so many layers in a row is given up."""
    lost = np.zeros(len(holds), int)
    over = np.zeros(len(holds), bool)
    found = np.zeros_like(holds)
    for layer in range(holds.shape[1] - 1, -1, -1):
        found[:, layer] = holds[:, layer] & ~over
        lost = np.where(holds[:, layer], 0, lost + 1)
        over |= lost >= patience
    return found


def layer_of(shares: NDArray[np.float64]) -> int | None:
    low = np.flatnonzero(shares < KEPT)
    first = int(low[-1]) + 1 if len(low) else 0
    return first if first < len(shares) else None


def transitions(
    kind: Kind, runs: int, *, patience: int | None, of_sweep: bool = False, seed: int = 0
) -> Iterator[bool]:
    """Whether each run's interval holds the truth. patience: None for a whole sweep.

    of_sweep: hold a descent to what whole sweeps of very many examples would say, and not to what
    descents would, by whose rule an answer that was lost does not come back.
    """
    random = np.random.default_rng(seed)
    truths = 20
    for part in range(truths):
        centre = kind.n_layer / 2 + random.uniform(-3, 3)
        many = kind.draw(centre, MANY, random)
        if patience is not None and not of_sweep:
            many = descended(many, patience)
        truth = layer_of(many.mean(axis=0))
        for _ in range(part * runs // truths, (part + 1) * runs // truths):
            holds = kind.draw(centre, kind.n, random)
            if patience is not None:
                holds = descended(holds, patience)
            right = [int(k) for k in holds.sum(axis=0)]
            found = limits(range(kind.n_layer), right, [kind.n] * kind.n_layer, KEPT)
            if truth is None:
                yield found.high is None
                continue
            above = found.low is None or truth < found.low
            below = found.high is not None and truth > found.high
            yield not (above or below)


def shifts(kind: Kind, runs: int, *, seed: int = 0) -> Iterator[bool]:
    """Whether the interval of a shift holds the mean shift of very many examples."""
    random = np.random.default_rng(seed)
    truth = 0.7
    for _ in range(runs):
        own = random.normal(kind.n_layer / 2, kind.spread, kind.n)
        shift = np.where(random.random(kind.n) < 0.35, 2.0, 0.0) * np.ones(kind.n)
        later = own + shift
        found = moved(np.floor(own), np.floor(later))
        yield found.low <= truth <= found.high


def until_width(kind: Kind, runs: int, *, width: int, most: int, seed: int = 0) -> Iterator[bool]:
    """Whether an interval that examples were added for, until so narrow, holds the truth."""
    random = np.random.default_rng(seed)
    layers = range(kind.n_layer)
    for _ in range(runs):
        centre = kind.n_layer / 2 + random.uniform(-2, 2)
        # Normal, so that the truth is known without drawing it.
        truth = math.ceil(centre + kind.spread * NORMAL_90)
        right = kind.draw(centre, most, random).cumsum(axis=0)
        for n, counts in enumerate(right, 1):
            found = limits(layers, [int(k) for k in counts], [n] * kind.n_layer, KEPT)
            if (wide := found.width()) is not None and wide <= width:
                break
        above = found.low is None or truth < found.low
        yield not (above or (found.high is not None and truth > found.high))


Scores = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]


def right_or_wrong(means: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    return (random.random(means.shape) < means).astype(float)


def of_one_example(means: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Right or wrong by how hard an example is, so that all its layers fall together."""
    return (random.random((len(means), 1)) < means).astype(float)


def overlaps(means: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """As F1: nothing, all, or something between, of which half is all and half is anything."""
    any_at_all = random.random(means.shape) < means / 0.75
    all_right = random.random(means.shape) < 0.5
    return np.where(any_at_all, np.where(all_right, 1.0, random.beta(2, 2, means.shape)), 0.0)


def summaries(means: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """As ROUGE: never all, spread around the mean."""
    return random.beta(12 * means, 12 * (1 - means))


SHARES = (right_or_wrong, of_one_example)


@dataclass(frozen=True)
class Curve:
    """Scores of n examples with these means by layer, drawn in one of these ways."""

    name: str
    n: int
    means: tuple[float, ...]
    scores: Scores


_RISING = tuple(float(share) for share in np.linspace(0.03, 0.97, 20))
_WAVES = tuple(float(0.5 + 0.45 * math.sin(k)) for k in range(20))
_STEEP = (*([0.02] * 8), 0.1, 0.4, 0.8, *([0.98] * 9))
CURVES = (
    Curve("shares, rising, 60 examples", 60, _RISING, of_one_example),
    Curve("shares, up and down, 100", 100, _WAVES, right_or_wrong),
    Curve("F1, up and down, 60", 60, tuple(0.7 * each for each in _WAVES), overlaps),
    Curve("ROUGE, rising, 100", 100, tuple(0.02 + 0.4 * each for each in _RISING), summaries),
    Curve("F1, rising, 100", 100, tuple(0.72 * each for each in _RISING), overlaps),
    Curve("shares, rising, 200", 200, _RISING, of_one_example),
    Curve("shares, steep, 100", 100, _STEEP, of_one_example),
)


def ended(scores: NDArray[np.float64], width: float) -> tuple[tuple[int, ...], Counter[float]]:
    """A layer's scores, as far as it has them; how many there were when they were not enough."""
    earlier: list[int] = []
    while (n := next_look(earlier[-1] if earlier else 0)) < len(scores):
        if is_narrow(counts := Counter(scores[:n].tolist()), width):
            return tuple(earlier), counts
        earlier.append(n)
    return tuple(earlier), Counter(scores.tolist())


def adaptive(
    curve: Curve, runs: int, *, width: float = WIDTH, naive: bool = False, seed: int = 0
) -> Iterator[bool]:
    """Whether the interval of each layer of each run holds its mean.

    naive: as if it had been known before how many examples a layer would have.
    """
    random = np.random.default_rng(seed)
    for _ in range(runs):
        scores = curve.scores(np.tile(curve.means, (curve.n, 1)), random)
        for mean, column in zip(curve.means, scores.T, strict=True):
            earlier, counts = ended(column, width)
            low, high, _ = interval(counts, () if naive else earlier, width)
            yield low <= mean <= high


def adaptive_limits(kind: Kind, runs: int, *, width: float, seed: int = 0) -> Iterator[bool]:
    """Whether the interval of an adaptive sweep's transition holds the truth."""
    random = np.random.default_rng(seed)
    layers = range(kind.n_layer)
    for _ in range(runs):
        centre = kind.n_layer / 2 + random.uniform(-3, 3)
        truth = math.ceil(centre + kind.spread * NORMAL_90)
        holds = kind.draw(centre, kind.n, random)
        cells = [ended(column.astype(float), width) for column in holds.T]
        right, n = [counts[1] for _, counts in cells], [counts.total() for _, counts in cells]
        found = limits(
            layers,
            right,
            n,
            KEPT,
            tails=[
                tails(earlier, counts.total(), counts[1], width, KEPT) for earlier, counts in cells
            ],
        )
        above = found.low is None or truth < found.low
        yield not (above or (found.high is not None and truth > found.high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=2000, help="runs of each kind")
    runs = parser.parse_args().n
    print("of the transition's intervals, these hold the truth: of whole sweeps; of descents, by")
    print("their own rule; of descents, though the truth is that of whole sweeps")
    for kind in KINDS:
        found = [
            np.mean(list(transitions(kind, runs, patience=patience, of_sweep=of_sweep)))
            for patience, of_sweep in ((None, False), (PATIENCE, False), (PATIENCE, True))
        ]
        print(f"  {kind.name:26}", *(f"{share:8.1%}" for share in found))
    print("of those that examples were added for until they were narrow (--until-width)")
    for kind, width in UNTIL:
        held = np.mean(list(until_width(kind, runs, width=width, most=250)))
        print(f"  {kind.name:19} {width} wide {held:8.1%}")
    print("of the intervals of shifts")
    for kind in KINDS[:3]:
        print(f"  {kind.name:26} {np.mean(list(shifts(kind, runs))):8.1%}")
    print("of the scores of adaptive sweeps: of all layers; of the one where it was rarest; and so")
    print("if the intervals of shares did not allow for how many examples a layer had")
    for curve in CURVES:
        found = []
        for naive in (False, True) if curve.scores in SHARES else (False,):
            held = np.reshape(list(adaptive(curve, runs, naive=naive)), (runs, -1))
            found += [held.mean(), held.mean(axis=0).min()]
        print(f"  {curve.name:27}", *(f"{share:8.1%}" for share in found))
    print("of their transitions, with --width 0.2 and 0.1")
    for kind in KINDS[1:3]:
        found = [np.mean(list(adaptive_limits(kind, runs, width=width))) for width in (0.2, 0.1)]
        print(f"  {kind.name:26}", *(f"{share:8.1%}" for share in found))


if __name__ == "__main__":
    main()
