"""Draws of the posterior that hold a slot in the upper bound: exact where they can be.

They are `Draws` of equal weight whose `info["doubts"]` says for every prompt why its draws are not
exact, with an empty text where they are.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayesft.base import Claim, Enumerable, Key, Prior, sequence_lengths
from bayesft.draws import Draws, Status, choose_by_weight
from bayesft.priors import scoring
from bayesft.priors.sequence import normalised
from bayesft.priors.stepped import enumerate_sequences
from bayesft.samplers import rejection, smc
from bayesft.target import Target

MAX_LISTED = 1 << 18
"""Sequences, over all prompts, below which listing them costs less than anything else here."""

PROPOSALS_PER_DRAW = 512
"""Rejection gives up at an acceptance rate of about one in so many."""

PARTICLES_PER_DRAW = 4

_ARRAYS = ("tokens", "lengths", "log_prior", "log_evidence")
_DEAD = "no sequence of positive density was found (log Z may be -inf)"


def draw_posterior(target: Target, key: Key, num_draws: int, explorer: Prior) -> Draws:
    """Exact draws by enumeration or rejection where that works, else approximate ones by SMC."""
    prior, num_prompts = target.prior, len(target.prompts)
    num_sequences = prior.vocab_size**target.horizon.max_new_tokens
    if isinstance(prior, Enumerable) and num_prompts * num_sequences <= MAX_LISTED:
        return _equally_weighted(_listed(target), target, key, num_draws)
    if not math.isfinite(target.evidence.bounds[1]):
        doubt = "the evidence declares no upper bound, so posterior draws are SMC's"
        return _approximate(target, key, num_draws, explorer, [doubt] * num_prompts)
    draws = rejection(num_draws, max_proposals=PROPOSALS_PER_DRAW * num_draws).run(target, key)
    draws = dataclasses.replace(draws, info={**draws.info, "doubts": [""] * num_prompts})
    accepted = np.isfinite(draws.log_weights).sum(1)
    if not (lacking := np.flatnonzero(accepted < 2)).size:
        return draws
    doubts = [
        f"rejection accepted {accepted[row]} of {draws.info['num_proposals'][row]} proposals, so "
        "posterior draws are SMC's"
        for row in lacking
    ]
    some = target.select(lacking.tolist())
    return _replaced(draws, lacking, _approximate(some, key, num_draws, explorer, doubts))


def given_draws(draws: Draws, target: Target, key: Key) -> Draws:
    """Draws that the caller has, with the doubts that there are about them."""
    if draws.claim.kind == "exact draws":
        doubts = draws.info.get("doubts", [""] * len(target.prompts))
        return dataclasses.replace(draws, info={**draws.info, "doubts": doubts})
    doubt = f"the posterior draws given are not exact ({draws.claim})"
    draws = dataclasses.replace(draws, info={"doubts": [doubt] * len(target.prompts)})
    return _equally_weighted(draws, target, key, draws.tokens.shape[1])


def _listed(target: Target) -> Draws:
    """Every sequence of every prompt, weighted by its density."""
    rows = enumerate_sequences(target.prior, target.horizon)
    tokens = np.broadcast_to(rows, (len(target.prompts), *rows.shape))
    log_prior = scoring.log_probs(target.prior, tokens, target.xs, normalised(target.horizon))
    if target.horizon.eos_policy == "condition":
        log_prior = np.where(np.isin(tokens, target.prior.eos).any(-1), log_prior, -np.inf)
    log_evidence = scoring.log_evidence(target, tokens)
    log_density = log_prior + log_evidence
    return Draws(
        tokens=jnp.asarray(tokens),
        lengths=sequence_lengths(jnp.asarray(tokens), target.prior.eos),
        log_weights=jnp.asarray(log_density, jnp.float32),
        log_prior=jnp.asarray(log_prior, jnp.float32),
        log_evidence=jnp.asarray(log_evidence, jnp.float32),
        log_z=None,
        status=np.where(np.isneginf(log_density).all(1), Status.ALL_DEAD, Status.OK),
        claim=Claim("exact draws", "by enumeration"),
        prompts=target.prompts.prompts,
        decode=target.prior.decode,
        info={"doubts": [""] * len(target.prompts)},
    )


def _approximate(
    target: Target, key: Key, num_draws: int, explorer: Prior, doubts: list[str]
) -> Draws:
    sampler = smc(num_particles=PARTICLES_PER_DRAW * num_draws, proposal=explorer)
    claim = Claim("another law", "SMC's, at finitely many particles")
    draws = dataclasses.replace(sampler.run(target, key), claim=claim, info={"doubts": doubts})
    return _equally_weighted(draws, target, key, num_draws)


def _equally_weighted(draws: Draws, target: Target, key: Key, num_draws: int) -> Draws:
    """Resampled by weight; the slots of a prompt whose draws are all dead stay empty."""
    arrays = {name: getattr(draws, name) for name in _ARRAYS}
    arrays, alive = _resample(arrays, draws.log_weights, target.xs.id, key, num_draws)
    doubts = zip(draws.info["doubts"], np.asarray(alive), strict=True)
    return dataclasses.replace(
        draws,
        **arrays,
        log_weights=jnp.where(
            jnp.broadcast_to(alive[:, None], arrays["lengths"].shape), 0, -jnp.inf
        ),
        log_z=None,
        info={"doubts": [doubt if lives else _DEAD for doubt, lives in doubts]},
    )


@functools.partial(jax.jit, static_argnames="num_draws")
def _resample(
    arrays: dict[str, Array], log_weights: Array, ids: Array, key: Key, num_draws: int
) -> tuple[dict[str, Array], Array]:
    alive = jnp.isfinite(log_weights).any(1)
    weights = jnp.where(alive[:, None], log_weights, 0.0)
    keys = jax.vmap(lambda prompt_id: jax.random.fold_in(key, prompt_id))(ids)
    points = jax.vmap(lambda key: jax.random.uniform(key, (num_draws,)))(keys)
    index = jax.vmap(choose_by_weight)(points, weights)
    return jax.tree.map(lambda a: jax.vmap(lambda row, i: row[i])(a, index), arrays), alive


def _replaced(draws: Draws, rows: np.ndarray, others: Draws) -> Draws:
    """The draws with those of some prompts replaced, and with the doubts about them."""
    names = ("tokens", "lengths", "log_weights", "log_prior", "log_evidence")
    changed = {name: getattr(draws, name).at[rows].set(getattr(others, name)) for name in names}
    doubts = list(draws.info["doubts"])
    for row, doubt in zip(rows, others.info["doubts"], strict=True):
        doubts[row] = doubt
    return dataclasses.replace(draws, **changed, info={**draws.info, "doubts": doubts})
