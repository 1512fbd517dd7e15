"""Proposals that look ahead, and proposals that cannot draw what the target holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_proper_weights
from samplers.language import LANGUAGE, POLICIES, TOKEN_BY_TOKEN, WITHOUT_B, guide, replicated

from bayesft._sample import sample
from bayesft.errors import BayesftError, SamplerError, SupportWarning
from bayesft.evidence import prefix_potential
from bayesft.priors import markov
from bayesft.samplers import (
    adaptive_rejection,
    adaptive_weighted_rejection,
    importance,
    locally_optimal,
    smc,
)
from bayesft.target import Target
from bayesft.testing import assert_unbiased, enumerate_target

RUNS = 4000
KEY = jax.random.key(0)
PROPOSALS = {
    "locally optimal": locally_optimal(),
    "from a guide": locally_optimal(guide()),
    "by rejection": adaptive_weighted_rejection(),
}
ROUNDING = 1e-5  # a few float32 sums of size one


@pytest.mark.parametrize("name", PROPOSALS)
@pytest.mark.parametrize("eos", POLICIES)
def test_claim(name, eos):
    target = replicated(WITHOUT_B + 0.5 * TOKEN_BY_TOKEN, RUNS, eos)
    sampler = smc(16, PROPOSALS[name], ess_threshold=0.9)
    assert_proper_weights(target, sampler, seed=4, resolution=0.3)


# ---- locally optimal -----------------------------------------------------------------------------


@pytest.mark.parametrize("eos", POLICIES)
def test_the_last_token_does_not_change_the_weight(eos):
    """With one token to draw, every weight is Z, as `eos` counts it."""
    target = Target(LANGUAGE, TOKEN_BY_TOKEN, max_new_tokens=1, eos=eos)
    draws = sample(target, importance(64, locally_optimal()), KEY)
    np.testing.assert_allclose(draws.log_weights, enumerate_target(target).log_z, atol=ROUNDING)


def _forbid_all(state, token):
    return state + 1, jnp.where(state == 1, -jnp.inf, 0.0)


def test_a_dead_end_kills_the_particle_without_nan():
    target = replicated(prefix_potential(_forbid_all, jnp.int32(0)), 3)
    for proposal in (locally_optimal(), adaptive_weighted_rejection()):
        draws = sample(target, smc(64, proposal), KEY)
        ended = np.asarray(draws.lengths) == 1
        alive = np.isfinite(np.asarray(draws.log_weights))
        assert not np.isnan(np.asarray(draws.log_weights)).any()
        assert (alive == (ended & (np.asarray(draws.tokens)[..., 0] == 2))).all()


def test_an_increment_that_is_nan_is_an_error_and_no_constraint():
    nowhere = prefix_potential(lambda state, token: (state, jnp.nan * token), ())
    for proposal in (locally_optimal(), adaptive_weighted_rejection()):
        with pytest.raises(BayesftError, match=r"nan|NaN"):
            sample(Target(LANGUAGE, nowhere, max_new_tokens=2), importance(8, proposal), KEY)


def test_a_proposal_in_a_proposal_is_refused():
    with pytest.raises(SamplerError, match="not from a proposal"):
        locally_optimal(locally_optimal())


# ---- adaptive weighted rejection -----------------------------------------------------------------

LOG_PROBS = jnp.log(jnp.array([0.02, 0.4, 0.05, 0.13, 0.3, 0.1]))
ALLOWED = np.array([True, False, True, False, False, True])  # 0.17 of the prior; 5 is EOS


def _allowed(state, token):
    return state, jnp.where(jnp.array(ALLOWED)[token], 0.0, -jnp.inf)


def token_weights() -> np.ndarray:
    """For each of many particles, its weight at the token it drew and 0 elsewhere, [R, 6]."""
    wide = markov(LOG_PROBS, jnp.broadcast_to(LOG_PROBS, (6, 6)), eos=5)
    target = Target(wide, prefix_potential(_allowed, ()), max_new_tokens=1)
    draws = sample(target, importance(50_000, adaptive_weighted_rejection()), KEY)
    at = np.asarray(draws.tokens)[0, :, 0, None] == np.arange(6)
    return np.where(at, np.exp(np.float64(draws.log_weights))[0, :, None], 0.0)


def assert_masses(weights: np.ndarray) -> None:
    """Every token's mean weight is its prior probability where it is allowed, else exactly 0."""
    assert not weights[:, ~ALLOWED].any()
    probabilities = np.exp(np.float64(LOG_PROBS))[ALLOWED]
    assert_unbiased(weights[:, ALLOWED], probabilities, resolution=0.01, family=FAMILY)


def test_weights_are_the_allowed_mass_without_bias():
    weights = token_weights()
    assert_masses(weights)
    assert (weights.sum(1) > 0).all()


def test_an_estimate_that_forgets_the_struck_out_mass_is_caught(monkeypatch):
    monkeypatch.setattr(adaptive_rejection, "_odds", lambda rejected: jnp.ones_like(rejected))
    jax.clear_caches()
    try:
        with pytest.raises(AssertionError, match="means are wrong"):
            assert_masses(token_weights())
    finally:
        jax.clear_caches()


# ---- support -------------------------------------------------------------------------------------


def without_b():
    """A proposal that never draws the second token."""
    tables = jnp.array([0.7, 0.0, 0.3]), jnp.array([[0.5, 0.0, 0.5]] * 3)
    return markov(*map(jnp.log, tables), eos=2)


def test_a_proposal_without_support_is_measured_and_warned_of():
    target = Target(LANGUAGE, TOKEN_BY_TOKEN, max_new_tokens=1)
    with pytest.warns(SupportWarning, match=r"hold 0\.3 of the prior"):
        draws = sample(target, smc(64, without_b()), KEY)
    np.testing.assert_allclose(draws.info["missing_support"], 0.3, atol=ROUNDING)
    with pytest.warns(SupportWarning):
        sample(target, smc(64, locally_optimal(without_b())), KEY)


def test_what_the_evidence_forbids_is_not_missed():
    target = Target(LANGUAGE, WITHOUT_B, max_new_tokens=4)
    draws = sample(target, smc(64, without_b()), KEY)
    assert (draws.info["missing_support"] == 0).all()
    assert (sample(target, smc(64, guide()), KEY).info["missing_support"] == 0).all()
