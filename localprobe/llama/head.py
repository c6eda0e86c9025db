"""What comes behind the last block: the final norm and the output matrix."""

from __future__ import annotations

from localprobe.llama import ggml
from localprobe.llama.hooks import NodeVisitor
from localprobe.llama.residual import FloatArray


class WriteLast:
    """A visitor around another that writes over what the last block made, row by row.

    states: (n_outputs, n_embd); every row must be an output.
    """

    def __init__(self, inner: NodeVisitor, n_layer: int, states: FloatArray) -> None:
        self._inner, self._states = inner, states
        self.is_written = False
        self._name = b"l_out-%d" % (n_layer - 1)

    def wants(self, address: int) -> bool:
        return self._inner.wants(address) or ggml.at(address).name == self._name

    def computed(self, address: int) -> None:
        if ggml.at(address).name == self._name:
            ggml.write(address, self._states)
            self.is_written = True
        else:
            self._inner.computed(address)


class KeepLast:
    """A visitor around another that keeps what the last block made: states, (n_outputs, n_embd)."""

    def __init__(self, inner: NodeVisitor, n_layer: int) -> None:
        self._inner = inner
        self._name = b"l_out-%d" % (n_layer - 1)
        self.states: FloatArray | None = None

    def wants(self, address: int) -> bool:
        return self._inner.wants(address) or ggml.at(address).name == self._name

    def computed(self, address: int) -> None:
        if ggml.at(address).name == self._name:
            self.states = ggml.read(address)
        else:
            self._inner.computed(address)
