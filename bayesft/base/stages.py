"""Buffers for tokens to come, which grow in stages: a step reads all of them, written or not."""

from __future__ import annotations

import abc
from typing import Self

import jax

from bayesft.base.distributions import PyTree

STAGED = 128
"""Fewest tokens that are drawn in two stages. The second one is compiled, too, and saves a quarter
of what is read."""


class Buffered(abc.ABC):
    """A part of a prior's state with a buffer position for every token to come."""

    @abc.abstractmethod
    def withholding(self, num_positions: int, *, free: bool = False) -> Self:
        """The same, its buffers that much shorter than when they were made; what is written fits.

        `free` deletes each old buffer once its successor stands: a caller owns them, outside jit.
        """


def stages(state: PyTree, num_tokens: int) -> tuple[int, ...]:
    """The numbers of tokens up to which loops of their own draw, each over as many positions."""
    parts = jax.tree.leaves(state, is_leaf=_is_buffered)
    staged = num_tokens >= STAGED and any(map(_is_buffered, parts))
    return (num_tokens // 2, num_tokens) if staged else (num_tokens,)


def withholding(state: PyTree, num_positions: int, *, free: bool = False) -> PyTree:
    """A prior's state whose buffers are that much shorter than when they were made."""

    def shortened(part: PyTree) -> PyTree:
        return part.withholding(num_positions, free=free) if _is_buffered(part) else part

    return jax.tree.map(shortened, state, is_leaf=_is_buffered)


def _is_buffered(part: object) -> bool:
    return isinstance(part, Buffered)
