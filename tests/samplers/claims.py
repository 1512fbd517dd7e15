"""What samplers claim, as assertions on R independent runs (the prompts of one call)."""

from __future__ import annotations

import math

import jax
import numpy as np
from samplers.language import features, outcome_of

from bayesft._sample import sample
from bayesft.testing import assert_frequencies, assert_unbiased, enumerate_target

FAMILY = 200
"""Assertions of the tests of this room: together they fail correct code with probability 1e-6."""


def assert_densities(draws, exact) -> None:
    """Draws of positive weight carry the log-densities of the target, and no number is NaN."""
    possible = np.asarray(draws.log_weights) > -np.inf
    row = outcome_of(draws, exact.tokens)[possible]
    for name in ("lengths", "log_prior", "log_evidence"):
        found = np.asarray(getattr(draws, name))
        assert not np.isnan(found).any()
        np.testing.assert_allclose(found[possible], getattr(exact, name)[row], atol=1e-5)
    assert not np.isnan(np.asarray(draws.log_weights)).any()


def assert_unbiased_weights(draws, exact, *, resolution: float) -> None:
    """The part of `assert_proper_weights` that sees weights and tokens alone."""
    weights = np.exp(np.asarray(draws.log_weights, np.float64))
    np.testing.assert_allclose(np.exp(draws.log_z), weights.mean(1), rtol=1e-5)
    values = features(exact.tokens, exact.lengths)
    expected = math.exp(exact.log_z) * exact.mean(values)
    estimates = np.mean(weights[..., None] * values[outcome_of(draws, exact.tokens)], axis=1)
    possible = expected > 0
    assert not estimates[:, ~possible].any()
    assert_unbiased(
        estimates[:, possible] / expected[possible],
        np.ones(possible.sum()),
        resolution=resolution,
        family=FAMILY,
    )


def assert_proper_weights(target, sampler, *, seed: int = 0, resolution: float = 0.2) -> None:
    """E[Ẑ·f̄] = Z·E_p*[f] for f ≡ 1 and five others, errors relative to the exact value."""
    draws, exact = sample(target, sampler, jax.random.key(seed)), enumerate_target(target)
    assert sampler.claim.kind == draws.claim.kind == "proper weights"
    assert_unbiased_weights(draws, exact, resolution=resolution)
    assert_densities(draws, exact)


def assert_law(draws, exact, probabilities, *, resolution: float = 0.06) -> None:
    """Draws of positive weight occur with these probabilities, and are equally weighted."""
    possible = np.asarray(draws.log_weights) > -np.inf
    assert set(np.asarray(draws.log_weights)[possible].tolist()) == {0.0}
    assert_densities(draws, exact)
    outcomes = outcome_of(draws, exact.tokens)[possible]
    counts = np.bincount(outcomes, minlength=len(probabilities))
    assert_frequencies(counts, probabilities, resolution=resolution, family=FAMILY)
