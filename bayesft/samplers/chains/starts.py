"""Where chains start: possible samples of the prior, or draws that are given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Key, Prompt, sequence_lengths
from bayesft.draws import Draws, choose_by_weight
from bayesft.errors import SamplerError
from bayesft.samplers.chains.kernel import Chains
from bayesft.samplers.chains.moves import with_host
from bayesft.samplers.plain import Samples, propose
from bayesft.samplers.validation import require_log_densities
from bayesft.target import Target

MAX_TRIES = 1024
"""Samples of the prior per prompt, after which an impossible start is an error."""
BATCH = 64


def possible_samples(target: Target, key: Key, num_chains: int) -> Chains:
    """For every prompt its first `num_chains` samples of the prior that the target allows.

    Where fewer are found among `MAX_TRIES`, several chains start at the same one. Raises
    SamplerError where none is found.
    """
    num_prompts, first, batches = len(target.prompts), 0, []
    found = np.zeros(num_prompts, int)
    while first < max(MAX_TRIES, num_chains) and (found < num_chains).any():
        size = num_chains if first == 0 else max(num_chains, BATCH)
        batches.append(propose(target, key, first, size, found < num_chains))
        found += (~np.isneginf(batches[-1].log_evidence)).sum(1) * (found < num_chains)
        first += size
    samples = Samples.join(batches, first)
    if (found == 0).any():
        raise SamplerError(
            f"None of {first} samples of the prior for prompt {int(np.argmin(found))} has positive "
            "density under the target: the chains have no place to start.",
            cause="a hard constraint that the prior rarely meets.",
            remedy="pass initial=draws that meet it (from bft.samplers.smc, or a guide), or soften "
            "the constraint by a finite log_penalty.",
        )
    possible = ~np.isneginf(samples.log_evidence)
    order = np.argsort(~possible, axis=1, kind="stable")  # possible ones first, as they came
    count = np.minimum(possible.sum(1), num_chains)
    index = np.take_along_axis(order, np.arange(num_chains) % count[:, None], 1)
    return Chains(*map(jnp.asarray, vars(samples.take(index)).values()))


def given_draws(target: Target, key: Key, num_chains: int, initial: Draws) -> Chains:
    """Chains at the given draws: at each of them where there are as many, equally weighted, as
    chains, and else at draws chosen by weight. Their densities under this target are computed anew.

    Raises SamplerError where the draws do not fit the target, or are impossible under it.
    """
    shape = (len(target.prompts), target.horizon.max_new_tokens)
    if (initial.tokens.shape[0], initial.tokens.shape[2]) != shape:
        raise SamplerError(
            f"The initial draws are of shape {initial.tokens.shape}, the target has "
            f"{shape[0]} prompts and {shape[1]} new tokens.",
            cause="draws of another target.",
            remedy="draw them from a target with the same prior, prompts and max_new_tokens.",
        )
    log_weights = jnp.asarray(initial.log_weights)
    if bool((log_weights == -jnp.inf).all(-1).any()):
        raise SamplerError(
            "A prompt has no initial draw of positive weight.",
            cause="a sampler that found nothing possible (see draws.status).",
            remedy="give initial draws of positive weight for every prompt.",
        )
    slots = jnp.broadcast_to(jnp.arange(num_chains, dtype=jnp.int32), (shape[0], num_chains))
    index = _by_weight(target.xs.id, key, log_weights, slots)
    if log_weights.shape[1] == num_chains:
        even = (log_weights == log_weights[:, :1]).all(-1, keepdims=True)
        index = jnp.where(even, slots, index)
    tokens = jnp.take_along_axis(jnp.asarray(initial.tokens), index[..., None], 1)
    lengths, log_prior, log_device = _densities(target, target.xs, tokens)
    log_evidence = with_host(
        target, tokens, lengths, jnp.where(log_prior == -jnp.inf, -jnp.inf, log_device)
    )
    require_log_densities(target, log_prior, log_evidence)
    if (bad := np.argwhere(np.isneginf(np.asarray(log_prior + log_evidence)))).size:
        prompt, chain = bad[0].tolist()
        raise SamplerError(
            f"The initial draw of chain {chain} of prompt {prompt} has density 0 under the target.",
            cause="initial draws of another target, with other constraints or EOS policy.",
            remedy="give draws that the target allows, or leave `initial` out.",
        )
    return Chains(tokens, lengths, log_prior, log_evidence)


def require_initial(initial: Any) -> Draws | None:
    if not isinstance(initial, Draws | None):
        raise SamplerError(
            f"initial is a {type(initial).__name__}, not draws.",
            cause="tokens or text were passed.",
            remedy="pass the draws of another sampler, or None.",
        )
    return initial


@jax.jit
def _by_weight(
    ids: Int[Array, " P"], key: Key, log_weights: Float[Array, "P N"], slots: Int[Array, "P C"]
) -> Int[Array, "P C"]:
    def one(prompt_id: Array, log_weights: Array, slots: Array) -> Array:
        own = jax.random.fold_in(key, prompt_id)
        points = jax.vmap(lambda c: jax.random.uniform(jax.random.fold_in(own, c)))(slots)
        return choose_by_weight(points, log_weights)

    return jax.vmap(one)(ids, log_weights, slots)


@jax.jit
def _densities(target: Target, xs: Prompt, tokens: Int[Array, "P C T"]):
    def one(tokens: Array, x: Prompt):
        return target.log_prior(tokens, x), target.log_device_evidence(tokens, x)

    of_prompt = jax.vmap(jax.vmap(one, (0, None)), (0, 0))
    log_prior, log_device = of_prompt(tokens, xs)
    return sequence_lengths(tokens, target.prior.eos), log_prior, log_device
