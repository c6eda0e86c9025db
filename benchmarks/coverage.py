"""How often 95 % intervals of transitions and of their shifts hold the truth, on made-up examples.

python benchmarks/coverage.py            # 2,000 runs of each kind, about two minutes

An example is lost below its own layer, which is drawn around a centre; where answers flicker, it
is another one at each layer by chance. The truth is that of very many examples. A layer is coarse:
where the share falls steeply from one to the next, intervals hold the truth more often than 95 %,
since there is nothing between "too low" and "right". So most kinds here fall gently, over layers
as fine as it takes to see what the method does; `steep` is what small models do.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localprobe.runs.descent import PATIENCE
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


if __name__ == "__main__":
    main()
