"""What Markov kernels claim, as assertions on many independent chains (one prompt, one call)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from samplers.claims import assert_law
from samplers.language import IN_JAX, TOKEN_BY_TOKEN, replicated

from bayesft._sample import sample
from bayesft.base import Claim
from bayesft.draws import Draws
from bayesft.samplers.mcmc import mcmc
from bayesft.target import Target
from bayesft.testing import enumerate_target

IN_BOTH = 0.4 * TOKEN_BY_TOKEN + 0.8 * IN_JAX
"""Evidence on prefixes and on whole sequences, so that no kernel gets by on one of them."""

NUM_CHAINS = 9_000
RESOLUTION = 0.06


def outcomes_as_draws(target: Target, rows: np.ndarray) -> Draws:
    """Equally weighted draws that are these outcomes of the enumeration."""
    exact = enumerate_target(target)
    return Draws(
        tokens=jnp.asarray(exact.tokens[rows])[None],
        lengths=jnp.asarray(exact.lengths[rows])[None],
        log_weights=jnp.zeros((1, len(rows))),
        log_prior=jnp.zeros((1, len(rows))),
        log_evidence=jnp.zeros((1, len(rows))),
        log_z=None,
        status=np.zeros(1, int),
        claim=Claim("exact draws", "by enumeration"),
        prompts=target.prompts.prompts,
        decode=target.prior.decode,
    )


def exact_draws(target: Target, num_draws: int, seed: int = 0) -> Draws:
    probabilities = np.exp(enumerate_target(target).log_probs)
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(probabilities), num_draws, p=probabilities / probabilities.sum())
    return outcomes_as_draws(target, rows)


def worst_start(target: Target, num_draws: int) -> Draws:
    """All at the possible sequence of the smallest posterior probability."""
    log_probs = enumerate_target(target).log_probs
    worst = int(np.argmin(np.where(np.isneginf(log_probs), np.inf, log_probs)))
    return outcomes_as_draws(target, np.full(num_draws, worst))


def assert_invariant(kernels, target, *, num_chains=NUM_CHAINS, num_steps=3, resolution=RESOLUTION):
    """Chains that start at independent draws of p* are independent draws of p* after some steps."""
    _assert_posterior(target, kernels, exact_draws(target, num_chains), num_steps, resolution)


def assert_converges(
    kernels, target, *, num_chains=NUM_CHAINS, num_steps=40, resolution=RESOLUTION
):
    """Chains that all start at the least likely sequence are draws of p* after many steps."""
    _assert_posterior(target, kernels, worst_start(target, num_chains), num_steps, resolution)


def _assert_posterior(target, kernels, initial, num_steps, resolution):
    num_chains = initial.tokens.shape[1]
    sampler = mcmc(kernels, num_chains, num_steps, burn_in=num_steps - 1, initial=initial)
    draws, exact = sample(target, sampler, jax.random.key(0)), enumerate_target(target)
    assert draws.claim.kind == "another law" and draws.log_z is None
    assert_law(draws, exact, np.exp(exact.log_probs), resolution=resolution)


def one_target(eos: str = "truncate", evidence=IN_BOTH) -> Target:
    return replicated(evidence, 1, eos)


def planted(kernel, **methods):
    """The kernel with methods replaced, as a class of its own: JAX caches traces by class."""
    cls = type("Planted", (type(kernel),), {"__module__": __name__, **methods})
    jax.tree_util.register_dataclass(cls)
    fields = {f.name: getattr(kernel, f.name) for f in dataclasses.fields(kernel)}
    return cls(**fields)
