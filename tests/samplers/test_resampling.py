"""Resampling schemes: counts, their expectation, and slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY

from bayesft.samplers.resampling import (
    SCHEMES,
    multinomial,
    residual,
    ssp,
    stay_in_place,
    stratified,
    systematic,
)
from bayesft.testing import assert_unbiased

LOG_WEIGHTS = {
    "spread": jnp.array([0.0, -1.0, 2.0, -jnp.inf, 0.5, -30.0, 0.1, -jnp.inf]),
    "one survivor": jnp.where(jnp.arange(8) == 5, -800.0, -jnp.inf),
    "equal": jnp.full(8, 300.0),
}


def many(scheme, log_weights, num_runs: int) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), num_runs)
    return np.asarray(jax.jit(jax.vmap(scheme, (0, None)))(keys, log_weights))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", LOG_WEIGHTS)
def test_counts(scheme, name):
    log_weights = LOG_WEIGHTS[name]
    counts = many(scheme, log_weights, 4000)
    assert (counts >= 0).all() and (counts.sum(1) == 8).all()
    expected = 8 * np.asarray(jax.nn.softmax(log_weights), np.float64)
    assert not counts[:, expected == 0].any()
    # What is drawn less than once in these runs is left to the tests of zero weights.
    often = expected > 1e-3
    assert_unbiased(counts[:, often], expected[often], resolution=0.4, family=FAMILY)
    if scheme in (systematic, ssp):  # each count is the expectation rounded up or down
        assert (np.abs(counts - expected) < 1 + 1e-5).all()
    if scheme is stratified:
        assert (np.abs(counts - expected) < 2 + 1e-5).all()
    if scheme is residual:
        assert (counts > expected - 1 - 1e-5).all()


def test_a_scheme_that_forgets_the_remainders_is_caught():
    def floor_then_first(key, log_weights):
        copies = jnp.floor(8 * jax.nn.softmax(log_weights)).astype(jnp.int32)
        return copies.at[jnp.argmax(log_weights)].add(8 - copies.sum())

    with pytest.raises(AssertionError, match="means are wrong"):
        test_counts(floor_then_first, "spread")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rounding_of_many_particles(scheme):
    """Sums of 5000 float32 weights round; counts still add up and spare the dead, last or not."""
    values = np.random.default_rng(0).normal(0, 3, (40, 5000)).astype(np.float32)
    dead = np.random.default_rng(1).random((40, 5000)) < 0.5
    dead[:, -7:] = True
    log_weights = jnp.asarray(np.where(dead, -np.inf, values))
    keys = jax.random.split(jax.random.key(0), 40)
    counts = np.asarray(jax.jit(jax.vmap(scheme))(keys, log_weights))
    assert (counts >= 0).all() and (counts.sum(1) == 5000).all()
    assert not counts[dead].any()


def test_survivors_stay_in_place():
    counts = many(multinomial, LOG_WEIGHTS["spread"], 500)
    ancestors = np.asarray(jax.vmap(stay_in_place)(counts))
    for count, row in zip(counts, ancestors, strict=True):
        np.testing.assert_array_equal(np.bincount(row, minlength=8), count)
        alive = np.flatnonzero(count)
        np.testing.assert_array_equal(row[alive], alive)
