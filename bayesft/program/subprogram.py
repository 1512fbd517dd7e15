"""Distributions that are programs themselves, and run as a part of the program that uses them."""

from __future__ import annotations

import abc

from jaxtyping import Array, Float

from bayesft.base import Key, PyTree
from bayesft.program.context import Context, Mode
from bayesft.program.scope import run_scope


class SubProgram(abc.ABC):
    """A distribution whose methods make choices: `draw` runs it under a prefix of its own."""

    @abc.abstractmethod
    def propose(self) -> tuple[PyTree, Float[Array, ""]]:
        """A program that draws a value and says its log-prob."""

    @abc.abstractmethod
    def assess(self, value: PyTree) -> Float[Array, ""]:
        """A program that says the log-prob of a value."""


class StochasticDensity(SubProgram):
    """A distribution q whose density is only estimated, and so has no `log_prob`.

    A value that was drawn and one that is given need different estimates q̂:

        propose, sample_and_log_prob    y ~ q, E[1/q̂ | y] = 1/q(y),   so E[log q̂ | y] ≥ log q(y)
        assess, estimate_log_prob       E[q̂] = q(y),                  so E[log q̂] ≤ log q(y)

    In a program, `bft.draw` and `bft.estimate_log_prob` run the first of each pair, whose choices
    are then differentiated; the second of each is for use outside programs.
    """

    def sample_and_log_prob(self, key: Key) -> tuple[PyTree, Float[Array, ""]]:
        """A value and the log of an estimate of its density, at least log q(y) on average."""
        return run_scope(self.propose, key, Context(Mode.MODEL)).value

    def estimate_log_prob(self, key: Key, value: PyTree) -> Float[Array, ""]:
        """The log of an unbiased estimate of the density of a value, in nats."""
        return run_scope(lambda: self.assess(value), key, Context(Mode.MODEL)).value
