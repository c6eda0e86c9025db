"""Several contexts of one model at work at the same time, each in a thread of its own.

Two threads that compute a decode together wait for one another at every node of the graph, for
Python between the nodes, and for cache lines that both write to. Each with a decode of its own
waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeVar

from localprobe.llama.interrupts import held_back
from localprobe.llama.model import Model

T = TypeVar("T")

_MOST = 2
_A_MOMENT = 0.1
"""Seconds."""


def contexts_of(model: Model) -> Contexts:
    """Those of a model: the same ones for all who ask."""
    if model.contexts is None:
        model.contexts = Contexts(model)
    return model.contexts


class Contexts:
    """Contexts beside a model's own, one for each lane, where that pays.

    most: how many; 1 where devices or AMX compute, and where the number of threads is another than
    2: of those nothing was measured.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        pays = model.on_cpu and not model.in_tiles and model.threads == _MOST
        self.most = _MOST if pays else 1
        self._lanes: list[tuple[Model, ThreadPoolExecutor]] = []
        self._begun: set[Future[Any]] = set()
        self._is_stopped = False

    def of(self, n: int) -> list[Model]:
        """For each of n lanes one; of a single lane it is the model itself."""
        if n == 1:
            return [self._model]
        while len(self._lanes) < n:
            model = self._model.another(self._model.threads // self.most)
            pool = ThreadPoolExecutor(1, f"lane {len(self._lanes)} of {self._model.path.name}")
            self._lanes.append((model, pool))
        models = [model for model, _ in self._lanes[:n]]
        for model in models:
            model.ctx, model.verdict = self._model.ctx, self._model.verdict
        return models

    def begin(self, tasks: Sequence[Callable[[], T]]) -> Begun[T]:
        """Do tasks, one a lane, each after those that were begun there before.

        One alone is done in this thread, and when its result is asked for.
        """
        self._model.check_open()
        if len(tasks) == 1:
            return Begun(self, tasks, ())
        lanes = zip(self._lanes[: len(tasks)], tasks, strict=True)
        begun = [pool.submit(task) for (_, pool), task in lanes]
        self._begun.update(begun)
        for each in begun:
            each.add_done_callback(self._begun.discard)
        return Begun(self, (), begun)

    def wait(self, begun: Sequence[Future[Any]]) -> None:
        """Until they are done. Ctrl-C ends whatever the lanes are at."""
        try:
            with held_back(self._stop):
                # A wait without end is one that signals may not reach.
                while wait(begun, _A_MOMENT).not_done:
                    pass
        finally:
            if self._is_stopped:
                try:
                    self.rest()
                finally:
                    self._go_on()
        self._model.check_open()

    def rest(self) -> None:
        """Until nothing is begun any more."""
        wait(list(self._begun))

    def end(self) -> None:
        """Before the model is closed."""
        self._stop()
        lanes, self._lanes = self._lanes, []
        for _, pool in lanes:
            pool.shutdown(cancel_futures=True)

    def _stop(self) -> None:
        self._is_stopped = True
        for model, _ in self._lanes:
            model.stop()

    def _go_on(self) -> None:
        self._is_stopped = False
        for model, _ in self._lanes:
            model.go_on()


class Begun(Generic[T]):
    """Tasks that may not be done yet."""

    def __init__(
        self, contexts: Contexts, later: Sequence[Callable[[], T]], begun: Sequence[Future[T]]
    ) -> None:
        self._contexts, self._later, self._begun = contexts, later, begun

    def results(self) -> list[T]:
        """What they gave, once all are done. Raises what one of them raised."""
        self._contexts.wait(self._begun)
        return [each() for each in self._later] + [each.result() for each in self._begun]

    def drop(self) -> None:
        """Nobody wants them any more. What a lane is at is not waited for: who drops them may be
        the garbage collector, in any thread.
        """
        for each in self._begun:
            each.cancel()
