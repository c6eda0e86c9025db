"""The eval callback: who looks at the nodes of a graph while llama.cpp computes it.

    hook = EvalHook()               # hook.callback goes into llama_context_params.cb_eval
    with hook.armed(walk):          # walk sees every node of the decodes made inside
        llama_decode(...)

llama.cpp calls back for every node in compute order, first to ask whether the node is wanted
(`wants`), then, if it is, right after it was computed and before anything that uses it
(`computed`), so that a write then is seen by everything downstream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from localprobe.llama.interrupts import held_back

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)


class NodeVisitor(Protocol):
    def wants(self, address: int) -> bool: ...

    def computed(self, address: int) -> None: ...


class NoVisitor:
    """Looks at nothing."""

    def wants(self, address: int) -> bool:
        return False

    def computed(self, address: int) -> None: ...


class EvalHook:
    """One context's eval callback. Not armed, it lets every node pass.

    tick: called at every node, too; for who wants to know that it goes on.
    """

    def __init__(self, tick: Callable[[], None] | None = None) -> None:
        self._tick = tick
        self.callback = _CALLBACK(self._call if tick is None else self._call_with_tick)
        self._visitor: NodeVisitor | None = None
        self._wanted: frozenset[int] | None = None
        self._error: BaseException | None = None
        self.is_stopped = False
        """Whether no other decode may begin: in other threads than the main one no Ctrl-C comes."""

    @contextmanager
    def armed(self, visitor: NodeVisitor) -> Iterator[None]:
        """Show the nodes to `visitor`; disarmed on the way out, whatever happened.

        An exception of the visitor cannot pass through llama.cpp: it ends the decode and is
        raised here; so does Ctrl-C.
        """
        if self._visitor is not None:
            raise RuntimeError("the eval callback is armed already")
        if self.is_stopped:
            raise KeyboardInterrupt
        self._visitor, self._error = visitor, None
        try:
            with held_back(self.stop):
                yield
            if self._error is not None:
                raise self._error
        finally:
            self._visitor = self._error = self._wanted = None

    def stop(self) -> None:
        """End the decode at hand."""
        self._error, self._wanted = self._error or KeyboardInterrupt(), None

    @property
    def is_armed(self) -> bool:
        return self._visitor is not None

    def _call_with_tick(self, address: int, ask: bool, user_data: object) -> bool:
        assert self._tick is not None
        self._tick()
        return self._call(address, ask, user_data)

    def _call(self, address: int, ask: bool, _user_data: object) -> bool:
        # Called for every node of every decode: the common case comes first.
        if ask and self._wanted is not None:
            return address in self._wanted
        if self._error is not None:
            # Wanting the node and then refusing to go on is how a graph is left early.
            return ask
        if self._visitor is None:
            return not ask
        try:
            if ask:
                wants = self._visitor.wants(address)
                self._wanted = getattr(self._visitor, "wanted", None)
                return wants
            self._visitor.computed(address)
        except BaseException as error:
            self._error, self._wanted = error, None
            return ask
        return True
