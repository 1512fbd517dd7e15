"""The arrays of particles that grow token by token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import PyTree
from bayesft.sharding import join


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Paths:
    """What every particle has drawn, and hands on to its copies; every leaf leads with [P, N]."""

    tokens: Int[Array, "P N T"]
    """Padded with EOS, also where the path is still growing."""
    lengths: Int[Array, "P N"]
    done: Bool[Array, "P N"]
    """Ended by EOS."""
    log_prior: Float[Array, "P N"]
    log_prefix: Float[Array, "P N"]
    """Prefix evidence so far, scaled."""
    prefix_states: tuple[PyTree, ...]
    """State of every prefix evidence of the target."""
    whole: tuple[Float[Array, "P N"], ...]
    """What each evidence on whole sequences, scaled, has brought into the weight so far."""
    settled: Bool[Array, "P N"]
    """Whether `whole` is the value of the complete sequence."""
    log_twist: Float[Array, "P N"]
    """log ψ that the weight holds; 0 without a twist, and once all evidence is in the weight."""
    mark: Int[Array, "P N"]
    """Number of tokens up to the last delimiter; 0 before the first, or where there is none."""

    @property
    def complete(self) -> Bool[Array, "P N"]:
        """Ended, or as long as the horizon allows."""
        return self.done | (self.lengths == self.tokens.shape[-1])

    @property
    def log_evidence(self) -> Float[Array, "P N"]:
        return sum(self.whole, start=self.log_prefix)

    def reorder(self, ancestors: Int[Array, "P N"]) -> Paths:
        """Paths in which particle n is a copy of particle ancestors[n]."""
        return jax.tree.map(lambda a: jax.vmap(lambda row, i: row[i])(a, ancestors), self)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class History:
    """What happened in every slot at every token, resampled away or not; rows not reached are 0."""

    ancestors: Int[Array, "T P N"]
    """ancestors[t, p, n]: the slot from which particle n took its first t tokens ahead of token t.
    """
    tokens: Int[Array, "T P N"]
    """The token drawn at t."""
    log_weights: Float[Array, "T P N"]
    """After it, since the last resampling."""

    def with_token(self, t: Array, token: Array, log_weights: Array) -> History:
        put = jax.lax.dynamic_update_index_in_dim
        return History(
            self.ancestors,
            put(self.tokens, token, t, 0),
            put(self.log_weights, log_weights, t, 0),
        )

    def with_ancestors(self, t: Array, ancestors: Array) -> History:
        put = jax.lax.dynamic_update_index_in_dim
        return History(put(self.ancestors, ancestors, t, 0), self.tokens, self.log_weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Particles:
    """N weighted paths for each of P prompts, all t tokens long or ended, ahead of token t."""

    t: Int[Array, ""]
    models: PyTree
    """State of the proposer: it has seen all tokens but the last."""
    paths: Paths
    log_weights: Float[Array, "P N"]
    """Since the last resampling."""
    log_z: Float[Array, " P"]
    """log of the product of mean weights at the resamplings so far."""
    low: Bool[Array, " P"]
    """Prompts to resample ahead of the next token."""
    num_resamples: Int[Array, " P"]
    weighed_at: Int[Array, " P"]
    """Number of tokens when evidence on whole sequences was last brought up to date."""
    log_covered: Float[Array, " P"]
    """log of the estimated share of prior mass that the proposal could have drawn so far."""
    history: History | None
    """None where nothing is ever resampled."""

    @property
    def alive(self) -> Bool[Array, "P N"]:
        """Particles of positive weight."""
        return self.log_weights > -jnp.inf

    @property
    def active(self) -> Bool[Array, " P"]:
        """Prompts with a particle of positive weight that has not ended."""
        return (self.alive & ~self.paths.done).any(-1)

    @property
    def open(self) -> Bool[Array, "P N"]:
        """Particles of positive weight whose evidence on the whole sequence is not final yet."""
        return self.alive & ~self.paths.settled

    @property
    def at_delimiters(self) -> Bool[Array, " P"]:
        """Prompts whose open particles have all passed a delimiter, or their end, since they were
        weighed."""
        passed = self.paths.complete | (self.paths.mark > self.weighed_at[:, None])
        return self.open.any(-1) & (passed | ~self.open).all(-1)

    def joined(self) -> Particles:
        """The same, where all but the models' states is known on every device."""
        return join(self.replace(models=None)).replace(models=self.models)

    def replace(self, **changes: Any) -> Particles:
        return dataclasses.replace(self, **changes)
