"""Twists: prefix functions that steer SMC, and the priors whose hidden states they may read."""

from __future__ import annotations

import abc
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base.distributions import Prior, PyTree
from bayesft.base.sequences import Prompt


@runtime_checkable
class ShowsHidden(Protocol):
    """A prior that shows the hidden states behind its logits, in the same forward pass."""

    @property
    def hidden_size(self) -> int:
        """D."""
        ...

    def start_hidden(
        self, xs: Prompt, num_particles: int, max_new_tokens: int
    ) -> tuple[PyTree, Float[Array, "P N V"], Float[Array, "P N D"]]:
        """As `Prior.start`, with the hidden states that the logits are read from."""
        ...

    def advance_hidden(
        self, state: PyTree, tokens: Int[Array, "P N"]
    ) -> tuple[PyTree, Float[Array, "P N V"], Float[Array, "P N D"]]:
        """As `Prior.advance`, with the hidden states that the logits are read from."""
        ...

    def hidden_states(self, tokens: Int[Array, " T"], x: Prompt) -> Float[Array, "T D"]:
        """Teacher-forced: row t is the state that token t is drawn from."""
        ...


class Twist(abc.ABC):
    """A prefix function ψ_t(y_1:t) > 0, given as log ψ of every next token; a pytree of arrays.

    The intermediate target of SMC is π0·φ_prefix·ψ_t. On a finished sequence ψ ≡ 1 as soon as all
    evidence is in its weight; until then (evidence on whole sequences is evaluated at the end of a
    segment) the twist's value at its last token stands in for it. For evidence φ on whole
    sequences the optimum is ψ_t = E_π0[φ | y_1:t]. A twist is one of the two kinds below.
    """

    params: PyTree
    """Trainable arrays only."""

    @property
    def max_length(self) -> int | None:
        """Longest prompt plus completion in tokens, or None where there is no limit of its own."""
        return None

    @abc.abstractmethod
    def with_params(self, params: PyTree) -> Any:
        """The same twist with other parameters."""

    @abc.abstractmethod
    def log_twists(self, tokens: Int[Array, " T"], x: Prompt, prior: Prior) -> Float[Array, "T V"]:
        """Teacher-forced: row t holds log ψ of every token that may follow tokens[:t], in nats."""

    def path_log_twists(
        self, tokens: Int[Array, " T"], x: Prompt, prior: Prior
    ) -> Float[Array, " T"]:
        """log ψ of tokens[:1], …, tokens[:T]; to be overridden where that needs no [T, V]."""
        rows = self.log_twists(tokens, x, prior)
        return jnp.take_along_axis(rows, tokens[:, None], axis=1)[:, 0]


class TwistHead(Twist):
    """A twist that is read from the prior's hidden states: no forward pass of its own."""

    @abc.abstractmethod
    def read(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """log ψ of every next token in nats."""


class SteppedTwist(Twist):
    """A twist with a state of its own that advances token by token beside the prior."""

    @abc.abstractmethod
    def start(
        self, xs: Prompt, num_particles: int, max_new_tokens: int
    ) -> tuple[PyTree, Float[Array, "P N V"]]:
        """State after the prompts, and log ψ of every first token in nats."""

    @abc.abstractmethod
    def advance(
        self, state: PyTree, tokens: Int[Array, "P N"]
    ) -> tuple[PyTree, Float[Array, "P N V"]]:
        """State after one more token of each particle, and log ψ of every next one."""

    @abc.abstractmethod
    def reorder(self, state: PyTree, ancestors: Int[Array, "P N"]) -> PyTree:
        """State in which particle n of prompt p continues what particle ancestors[p, n] was."""
