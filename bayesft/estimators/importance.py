"""Importance-weighted choices: drawn from another distribution than their own."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, Key, MultiPathEstimator, PyTree
from bayesft.errors import EstimatorError


@dataclasses.dataclass(frozen=True, eq=False)
class Importance(MultiPathEstimator):
    """E_q[c(y)] = E_r[q(y)/r(y)·c(y)] for a proposal r, differentiated in q as it stands."""

    proposal: Any
    num_draws: int

    lists_support = True  # a draw of weight 0 is one that q cannot make

    @property
    def claim(self) -> Claim:
        return Claim("unbiased", "where the proposal can draw all that the distribution can")

    def expand(self, name: str, distribution: Any, key: Key) -> tuple[PyTree, Float[Array, " B"]]:
        inside = jax.lax.stop_gradient(distribution.sample(jax.random.fold_in(key, self.num_draws)))

        def one(key: Key) -> tuple[PyTree, Float[Array, ""]]:
            value = jax.lax.stop_gradient(self.proposal.sample(key))
            _require_alike(name, inside, value)
            log_r = jnp.sum(self.proposal.log_prob(value))
            log_q = jnp.sum(_log_prob(distribution, value, inside))
            return value, jnp.exp(log_q - jax.lax.stop_gradient(log_r))

        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.num_draws))
        values, weights = jax.vmap(one)(keys)
        return values, weights / self.num_draws


def importance(proposal: Any, num_draws: int = 1) -> Importance:
    """Draw the choice from `proposal` and weigh what follows by q(y)/r(y).

    For any distribution with a log-prob; the mean over `num_draws` such paths. Value and gradient
    are unbiased, and their variance is finite where q²·c²/r has a finite integral: a proposal
    with heavier tails than the distribution, near where q·|c| is large. The value is weighted too.

    Raises EstimatorError where proposal and distribution draw values of different shapes.
    (Owen 2013, Monte Carlo theory, chapter 9.)
    """
    if num_draws < 1:
        raise EstimatorError(f"importance(num_draws={num_draws}) draws nothing.", remedy="use 1.")
    return Importance(proposal, int(num_draws))


def _log_prob(distribution: Any, value: PyTree, inside: PyTree) -> Array:
    """log q(value), -inf outside of q's support, where numpyro's densities give any number.

    `inside` is a value of q, which stands in there, since a NaN would reach the gradient.
    """
    support: Any = getattr(distribution, "support", None)
    if not callable(support):  # none, or a list of values
        return distribution.log_prob(value)
    possible: Any = support(value)
    per_event = possible.reshape(possible.shape + (1,) * (jnp.ndim(value) - possible.ndim))
    return jnp.where(possible, distribution.log_prob(jnp.where(per_event, value, inside)), -jnp.inf)


def _require_alike(name: str, expected: PyTree, drawn: PyTree) -> None:
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (expected, drawn)]
    if shapes[0] != shapes[1]:
        raise EstimatorError(
            f"The choice {name!r} has values of shape {shapes[0]}, its proposal {shapes[1]}.",
            cause="a proposal for another choice, or a batch shape that only one of them has.",
            remedy="give the proposal the distribution's shape.",
        )
