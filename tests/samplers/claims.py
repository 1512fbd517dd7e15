"""What samplers claim, as assertions on R independent runs (the prompts of one call)."""

from __future__ import annotations

import math

import jax
import numpy as np
from samplers.language import features, occurrences

from bayesft._sample import sample
from bayesft.testing import assert_frequencies, assert_unbiased, enumerate_target

FAMILY = 40
"""Assertions of the tests of this room: together they fail correct code with probability 1e-6."""


def assert_proper_weights(target, sampler, *, seed: int = 0, resolution: float = 0.2) -> None:
    """E[Ẑ·f̄] = Z·E_p*[f] for f ≡ 1 and five others, errors relative to the exact value."""
    draws, exact = sample(target, sampler, jax.random.key(seed)), enumerate_target(target)
    assert sampler.claim.kind == "proper weights"
    values = features(np.asarray(draws.tokens), np.asarray(draws.lengths))
    weights = np.exp(np.asarray(draws.log_weights, np.float64))
    np.testing.assert_allclose(np.exp(draws.log_z), weights.mean(1), rtol=1e-5)
    estimates = np.mean(weights[..., None] * values, axis=1)
    expected = math.exp(exact.log_z) * exact.mean(features(exact.tokens, exact.lengths))
    possible = expected > 0
    assert not estimates[:, ~possible].any()
    assert_unbiased(
        estimates[:, possible] / expected[possible],
        np.ones(possible.sum()),
        resolution=resolution,
        family=FAMILY,
    )


def assert_law(draws, outcomes, probabilities, *, resolution: float = 0.06) -> None:
    """Draws of positive weight occur with the given probabilities, and are equally weighted."""
    log_weights = np.asarray(draws.log_weights)
    assert set(log_weights[log_weights > -np.inf].tolist()) <= {0.0}
    counts = occurrences(draws, outcomes)
    assert counts.sum() == (log_weights > -np.inf).sum()
    assert_frequencies(counts, probabilities, resolution=resolution, family=FAMILY)
