"""Sampling-importance-resampling from an unnormalised density, as a distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from bayesft.base import Estimator, PyTree
from bayesft.distributions.slots import log_mean_weight, require_slots
from bayesft.program import StochasticDensity, draw, estimate_log_prob, plate


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normalized(StochasticDensity):
    """One of K weighted draws of a proposal, chosen by weight."""

    log_density: Callable[[Any], Float[Array, ""]] = dataclasses.field(metadata={"static": True})
    proposal: Any
    num_samples: int = dataclasses.field(metadata={"static": True})
    selection: Estimator | None = dataclasses.field(metadata={"static": True})

    def propose(self) -> tuple[PyTree, Float[Array, ""]]:
        values, log_densities, log_weights = plate(
            lambda _: self._slot(), self.num_samples, name="slots"
        )
        selected = dist.Categorical(logits=log_weights)
        index = draw("selected", selected, self.selection)
        value = jax.tree.map(lambda leaf: leaf[index], values)
        log_mean = jax.nn.logsumexp(log_weights) - jnp.log(self.num_samples)
        return value, log_densities[index] - log_mean

    def assess(self, value: PyTree) -> Float[Array, ""]:
        log_density = self.log_density(value)
        first = log_density - estimate_log_prob("proposed", self.proposal, value)
        return log_density - log_mean_weight(first, lambda: self._slot()[2], self.num_samples)

    def _slot(self) -> tuple[PyTree, Float[Array, ""], Float[Array, ""]]:
        value, log_proposal = draw("proposed", self.proposal, with_log_prob=True)
        log_density = self.log_density(value)
        return value, log_density, log_density - log_proposal


def normalize(
    log_density: Callable[[Any], Float[Array, ""]],
    proposal: Any,
    num_samples: int,
    *,
    selection: Estimator | None = None,
) -> Normalized:
    """Draw y_1, …, y_K ~ r and keep y_j with probability ∝ w_j = p̃(y_j)/r(y_j): a distribution

        q(y) = E[p̃(y) / ((1/K) Σ_k w_k)],   y in one slot, the others from r,

    closer to p̃/Z with K. `log_density(y)` is log p̃ in nats, such as that of a conditioned
    `bft.model`; `proposal` is a distribution, a model or another stochastic density. KL(q ‖ p̃/Z)
    by its log-prob is the bound of `iwae(K)` with r. `selection` is the estimator of the index j,
    by default that of the other choices; where they are reparameterised, the index needs one of
    its own, such as `score_function()` or `enumerate()`. Where p̃ is 0 at all K draws, the
    log-prob is NaN.

    Raises ChoiceError for K < 1. (Rubin 1988; Cremer, Morris and Duvenaud 2017; Lew et al. 2022,
    "Recursive Monte Carlo and variational inference with auxiliary variables".)
    """
    return Normalized(log_density, proposal, require_slots("normalize", num_samples), selection)
