"""Nested SMC: proper weights, inner and outer resampling, and blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_proper_weights, assert_unbiased_weights
from samplers.language import (
    HAS_AB,
    IN_JAX,
    IN_PYTHON,
    LOG_ENDED,
    NO_TOKEN,
    TOKEN_BY_TOKEN,
    WITHOUT_B,
    guide,
    replicated,
)

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import EvidenceError, SamplerError
from bayesft.evidence import prefix_potential
from bayesft.samplers import ended, nested, nested_smc
from bayesft.testing import assert_unbiased, enumerate_target

RUNS = 4000
KEY = jax.random.key(0)
OFTEN = {"ess_threshold": 0.9, "inner_ess_threshold": 0.9}


@pytest.mark.parametrize(
    ("evidence", "eos", "block"),
    [
        (TOKEN_BY_TOKEN, "truncate", 2),
        (WITHOUT_B + 0.5 * IN_PYTHON, "condition", 2),
        (HAS_AB + 0.5 * IN_JAX, "force", 1),
    ],
)
def test_claim(evidence, eos, block):
    target = replicated(evidence, RUNS, eos)
    assert_proper_weights(target, nested_smc(4, 4, block, **OFTEN), resolution=0.3)


def test_a_guide_proposes():
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    assert_proper_weights(target, nested_smc(4, 4, 3, guide(), **OFTEN), resolution=0.3)


def test_a_block_weight_that_is_dropped_is_caught(monkeypatch):
    right = nested._choose

    def forgetful(proposing, rule, random, particles, groups):
        return right(proposing, rule, random, particles, jnp.zeros_like(groups))

    monkeypatch.setattr(nested, "_choose", forgetful)
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    draws = sample(target, nested_smc(4, 4, 2, **OFTEN), KEY)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased_weights(draws, enumerate_target(target), resolution=0.3)


def test_inner_particles_of_a_group_share_their_past():
    draws = sample(replicated(TOKEN_BY_TOKEN, 50), nested_smc(4, 8, 3, ess_threshold=0), KEY)
    tokens = np.asarray(draws.tokens).reshape(50, 4, 8, -1)
    assert (tokens[..., :3] == tokens[:, :, :1, :3]).all()
    assert (tokens[..., 3] != tokens[:, :, :1, 3]).any()
    assert (tokens[:, :1, 0] != tokens[:, 1:, 0]).any()


def test_all_dead_ends_without_nan():
    draws = sample(replicated(NO_TOKEN, 3), nested_smc(4, 4, 2), KEY)
    assert (draws.status == Status.ALL_DEAD).all()
    assert np.isneginf(np.asarray(draws.log_z)).all()


def _nan_for_early_b(state, token):
    """NaN for all that begins with the second token, from the second position on."""
    start = jnp.where(state == -1, token, state)
    return start, jnp.where((state == 1), jnp.nan, 0.0)


def test_nan_of_a_whole_group_is_not_taken_for_weight_zero():
    target = replicated(prefix_potential(_nan_for_early_b, jnp.int32(-1)), 20)
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(target, nested_smc(4, 4, 1), KEY)


def test_the_prior_probability_of_ending_is_not_that_of_the_draws(monkeypatch):
    monkeypatch.setattr(ended, "MAX_OUTCOMES", 0)
    draws = sample(replicated(IN_JAX, RUNS, "condition"), nested_smc(4, 4, 2), KEY)
    estimates = np.exp(np.asarray(draws.log_ended))
    assert_unbiased(estimates, np.exp(LOG_ENDED), resolution=0.03, family=FAMILY)


def test_settings_are_checked():
    for settings in (
        dict(num_particles=0, num_inner=4, block=2),
        dict(num_particles=4, block=2, num_inner=0),
        dict(num_particles=4, num_inner=4, block=0),
    ):
        with pytest.raises(SamplerError, match="count of at least 1"):
            nested_smc(**settings)
