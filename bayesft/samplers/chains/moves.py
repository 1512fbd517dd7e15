"""One move of every chain: propose, evaluate the evidence, select."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bayesft.base import Key, Prompt
from bayesft.samplers.chains.kernel import Candidates, Chains, Kernel, folded
from bayesft.samplers.validation import require_log_densities
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Faults:
    """The largest log-densities seen, which NaN and +inf are larger than: what a run checks."""

    log_prior: Float[Array, "P C"]
    log_evidence: Float[Array, "P C"]
    log_weight: Float[Array, "P C"]

    @classmethod
    def none(cls, chains: Chains) -> Faults:
        zeros = jnp.zeros(chains.log_prior.shape)
        return cls(zeros, zeros, zeros)

    def seen(self, candidates: Candidates, log_evidence: Float[Array, "P C M"]) -> Faults:
        return Faults(
            jnp.maximum(self.log_prior, candidates.log_prior.max(-1)),
            jnp.maximum(self.log_evidence, log_evidence.max(-1)),
            jnp.maximum(self.log_weight, candidates.log_weights.max(-1)),
        )

    def require_none(self, target: Target) -> None:
        """Raise EvidenceError or SamplerError where a log-density was NaN or +inf."""
        require_log_densities(target, self.log_prior, self.log_evidence, self.log_weight)


class Move(NamedTuple):
    """What a move has changed."""

    chains: Chains
    moved: Bool[Array, "P C"]
    """Whether the chain stands at another sequence now."""
    faults: Faults


def step_keys(prompt_keys: Key, number: Int[Array, ""] | int, num_chains: int) -> Key:
    """Keys [P, C] of move `number`: the same for a chain however many others there are."""
    slots = jnp.arange(num_chains, dtype=jnp.int32)
    fold_in = jax.random.fold_in

    def chain_keys(key: Key) -> Key:
        key = fold_in(key, number)
        return jax.vmap(lambda chain: fold_in(key, chain))(slots)

    return jax.vmap(chain_keys)(prompt_keys)


def propose(
    kernel: Kernel,
    target: Target,
    xs: Prompt,
    keys: Key,
    chains: Chains,
    scale: float | Float[Array, ""] = 1.0,
    alive: Bool[Array, "P C"] | None = None,
) -> tuple[Candidates, Float[Array, "P C M"]]:
    """Candidates under π0·φ^scale, and the part of their log φ that JAX evaluates (unscaled).

    That part is -inf where a candidate is impossible or its chain is not `alive`.
    """
    candidates = kernel.propose(_scaled(target, scale), xs, folded(keys, 0), chains)
    of_one = jax.vmap(jax.vmap(target.log_device_evidence, (0, None)), (0, None))
    log_device = jax.vmap(of_one)(candidates.tokens, xs)
    # Unequal to -inf, not above it: NaN must come through to where it is noticed.
    possible = (candidates.log_prior != -jnp.inf) & (candidates.log_weights != -jnp.inf)
    if alive is not None:
        possible &= alive[..., None]
    return candidates, jnp.where(possible, log_device, -jnp.inf)


def select(
    kernel: Kernel,
    keys: Key,
    chains: Chains,
    candidates: Candidates,
    log_evidence: Float[Array, "P C M"],
    faults: Faults,
    scale: float | Float[Array, ""] = 1.0,
) -> Move:
    """The chains after the kernel's choice."""
    log_weights = jnp.concatenate(
        [
            (candidates.log_weight_current + _times(scale, chains.log_evidence))[..., None],
            candidates.log_weights + _times(scale, log_evidence),
        ],
        axis=-1,
    )
    impossible = jnp.isneginf(log_evidence)  # at scale 0, too
    log_weights = log_weights.at[..., 1:].set(jnp.where(impossible, -jnp.inf, log_weights[..., 1:]))
    index = kernel.select(folded(keys, 1), log_weights)

    def take(current: Array, others: Array) -> Array:
        among = jnp.maximum(index - 1, 0).reshape(*index.shape, *(1,) * (others.ndim - 2))
        chosen = jnp.take_along_axis(others, among, 2)[:, :, 0]
        stays = (index == 0).reshape(*index.shape, *(1,) * (current.ndim - 2))
        return jnp.where(stays, current, chosen.astype(current.dtype))

    after = Chains(
        take(chains.tokens, candidates.tokens),
        take(chains.lengths, candidates.lengths),
        take(chains.log_prior, candidates.log_prior),
        take(chains.log_evidence, log_evidence),
    )
    moved = (after.tokens != chains.tokens).any(-1) | (after.lengths != chains.lengths)
    return Move(after, moved, faults.seen(candidates, log_evidence))


def move(
    kernel: Kernel,
    target: Target,
    xs: Prompt,
    keys: Key,
    chains: Chains,
    faults: Faults,
    scale: float | Float[Array, ""] = 1.0,
    alive: Bool[Array, "P C"] | None = None,
) -> Move:
    """Both halves, for a target whose evidence is all in JAX."""
    candidates, log_evidence = propose(kernel, target, xs, keys, chains, scale, alive)
    return select(kernel, keys, chains, candidates, log_evidence, faults, scale)


_propose, _select = jax.jit(propose), jax.jit(select)


def move_with_host(
    kernel: Kernel,
    target: Target,
    keys: Key,
    chains: Chains,
    faults: Faults,
    scale: float | Float[Array, ""] = 1.0,
    alive: Bool[Array, "P C"] | None = None,
) -> Move:
    """The same with Python evidence: called once for all possible candidates between the halves."""
    candidates, log_device = _propose(kernel, target, target.xs, keys, chains, scale, alive)
    log_evidence = with_host(target, candidates.tokens, candidates.lengths, log_device)
    return _select(kernel, keys, chains, candidates, log_evidence, faults, scale)


def with_host(
    target: Target,
    tokens: Int[Array, "P *rows T"],
    lengths: Int[Array, "P *rows"],
    log_device: Float[Array, "P *rows"],
) -> Float[Array, "P *rows"]:
    """The log-evidence, Python's part added for the rows whose other part is not -inf."""
    if not target.host_terms:
        return log_device
    total = np.array(log_device)
    asked = ~np.isneginf(total)
    if asked.any():
        ids = np.asarray(target.xs.id).reshape(-1, *(1,) * (asked.ndim - 1))
        ids = np.broadcast_to(ids, asked.shape)
        values = target.evaluate_host(
            ids[asked], np.asarray(tokens)[asked], np.asarray(lengths)[asked]
        )
        for term in target.host_terms:
            total[asked] += np.asarray(term.scaled(jnp.asarray(values[term.evidence.name])))
    return jnp.asarray(total)


def _scaled(target: Target, scale: float | Float[Array, ""]) -> Target:
    return Target.tree_unflatten(target.horizon, (target.prior, target.evidence * scale))


def _times(scale: float | Array, log_evidence: Array) -> Array:
    """A scale of 0 switches even -inf off."""
    return jnp.where(scale == 0, 0.0, scale * log_evidence)
