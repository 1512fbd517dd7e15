"""The arrays of particles that grow token by token."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import PyTree


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
    ancestors: Int[Array, "T P N"] | None
    """ancestors[t, p, n]: the slot from which particle n took its first t tokens ahead of token t.
    None where nothing is ever resampled."""

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

    def replace(self, **changes: Any) -> Particles:
        return dataclasses.replace(self, **changes)
