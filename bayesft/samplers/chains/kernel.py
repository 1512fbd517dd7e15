"""The contract of a Markov kernel: candidates beside the current sequence, and a choice of one."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Key, Prompt, is_eos
from bayesft.priors.sequence import inverse_cdf
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chains:
    """Where C Markov chains of each of P prompts stand; log-densities in nats, unscaled."""

    tokens: Int[Array, "P C T"]
    lengths: Int[Array, "P C"]
    log_prior: Float[Array, "P C"]
    log_evidence: Float[Array, "P C"]


class Candidates(NamedTuple):
    """M sequences that each chain may move to, without their evidence.

    A candidate of log-prior or log-weight -inf is never chosen, and its evidence is not asked.
    """

    tokens: Int[Array, "P C M T"]
    lengths: Int[Array, "P C M"]
    log_prior: Float[Array, "P C M"]
    """log π0 under the target: -inf for what its EOS policy rules out."""
    log_weights: Float[Array, "P C M"]
    """What to add to the log-evidence of a candidate, so that `select` leaves p* invariant."""
    log_weight_current: Float[Array, "P C"]
    """The same for the sequence at which the chain stands."""


class Kernel(abc.ABC):
    """A Markov kernel that leaves p* invariant, in two halves; a pytree of its arrays.

    Evidence is evaluated between the halves, by whoever runs the kernel: in JAX inside the same
    jitted loop, in Python once for the candidates of all chains.
    """

    changes_length: ClassVar[bool] = True
    """Whether it can reach every sequence; a kernel that cannot is composed with one that can."""

    def bind(self, target: Target) -> Kernel:
        """The kernel made ready for a target; raises SamplerError where it does not fit."""
        return self

    @abc.abstractmethod
    def propose(
        self, target: Target, xs: Prompt, keys: Key, chains: Chains
    ) -> Candidates:  # keys [P, C]
        """Candidates for every chain, each from its own key."""

    @abc.abstractmethod
    def select(
        self, keys: Key, log_weights: Float[Array, "P C 1+M"]
    ) -> Int[Array, "P C"]:  # keys [P, C]
        """Which to take, 0 for the current one; `log_weights` include the evidence, scaled."""


def metropolis(keys: Key, log_weights: Float[Array, "P C 2"]) -> Int[Array, "P C"]:
    """1 with probability min(1, w_1/w_0), else 0; never 1 where w_1 is 0 or NaN."""
    current, candidate = log_weights[..., 0], log_weights[..., 1]
    impossible = current == -jnp.inf
    log_ratio = candidate - jnp.where(impossible, 0.0, current)
    log_ratio = jnp.where(impossible & (candidate > -jnp.inf), 0.0, log_ratio)
    return (jnp.log1p(-uniforms(keys)) <= log_ratio).astype(jnp.int32)


def gibbs(keys: Key, log_weights: Float[Array, "P C 1+M"]) -> Int[Array, "P C"]:
    """n with probability w_n/Σw; 0 where every weight is 0."""
    index, _ = inverse_cdf(uniforms(keys), log_weights)
    return jnp.where((log_weights > -jnp.inf).any(-1), index, 0)


def uniforms(keys: Key) -> Float[Array, "P C"]:
    """One uniform number per key."""
    return jax.vmap(jax.vmap(jax.random.uniform))(keys)


def folded(keys: Key, number: int | Int[Array, ""]) -> Key:
    """Keys [P, C] with a number folded into each."""
    return jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, number)))(keys)


def total_log_prior(
    target: Target, tokens: Int[Array, "*batch T"], token_log_probs: Float[Array, "*batch T"]
) -> Float[Array, "*batch"]:
    """log π0 under the target from log-probs per token, which are 0 on padding."""
    total = token_log_probs.sum(-1)
    if target.horizon.eos_policy != "condition":
        return total
    return jnp.where(is_eos(tokens, target.prior.eos).any(-1), total, -jnp.inf)
