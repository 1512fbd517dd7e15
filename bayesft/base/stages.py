"""Buffers for tokens to come, which grow in stages: a step reads all of them, written or not."""

from __future__ import annotations

import abc
from typing import Self

import jax

from bayesft.base.distributions import PyTree

STAGED = 128
"""Fewest tokens that are drawn in two stages. The second one is compiled, too, and saves a quarter
of what is read."""


class Growing(abc.ABC):
    """A part of a prior's state whose buffers hold a number of tokens."""

    @abc.abstractmethod
    def with_capacity(self, num_tokens: int) -> Self:
        """The same with buffers for so many tokens, those written so far among them."""


def stages(state: PyTree, num_tokens: int) -> tuple[int, ...]:
    """The capacities at which tokens are drawn, each up to that number of tokens."""
    grows = any(map(_grows, jax.tree.leaves(state, is_leaf=_grows)))
    return (num_tokens // 2, num_tokens) if grows and num_tokens >= STAGED else (num_tokens,)


def with_capacity(state: PyTree, num_tokens: int) -> PyTree:
    """A prior's state with buffers for so many tokens; what does not grow stays as it is."""
    grown = lambda part: part.with_capacity(num_tokens) if _grows(part) else part
    return jax.tree.map(grown, state, is_leaf=_grows)


def _grows(part: object) -> bool:
    return isinstance(part, Growing)
