"""What of the last block only the rows with an output need.

llama.cpp picks those rows behind the last attention. The queries, the attention and the products
that follow are nodes of all rows nevertheless, though nobody looks at what they hold of others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from localprobe.llama import ggml
from localprobe.llama.states import Links

_ROW_BY_ROW = {"RESHAPE", "VIEW", "PERMUTE", "CONT", "ADD", "MUL", "ROPE", "RMS_NORM", "NORM"}


class Last(NamedTuple):
    """Numbers of nodes: an attention, and products of all rows with weights."""

    attention: int
    products: tuple[int, ...]


def find_last(
    links: Links, attention: int, stores: Sequence[int], is_product: Callable[[int], bool]
) -> Last | None:
    """Of the block whose only attention this is; None where other rows are looked at behind it.

    stores: where the block stores keys and values. is_product: whether a node multiplies each row
    with weights.
    """

    def followed(start: int) -> tuple[set[int], set[int]]:
        """What is made of a node row by row, up to the attention; and who else uses that."""
        passed, users = {start}, set[int]()
        for i in range(start + 1, len(links.nodes)):
            if passed.isdisjoint(links.sources[i]):
                continue
            is_followed = ggml.op_name(links.nodes[i].op) in _ROW_BY_ROW or is_product(i)
            (passed if is_followed and i != attention else users).add(i)
        return passed, users

    behind, users = followed(attention)
    if not users or any(links.nodes[i].op != ggml.OP_GET_ROWS for i in users):
        return None
    products = set(filter(is_product, behind))
    of_others = links.made_of([*links.sources[attention][1:], *stores])
    for i in filter(is_product, links.made_of(links.sources[attention][:1]) - of_others):
        queries, users = followed(i)
        if users == {attention} and queries.isdisjoint(of_others):
            products.update(filter(is_product, queries))
    return Last(attention, tuple(sorted(products)))
