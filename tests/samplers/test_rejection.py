"""Rejection: exact draws, an unbiased Ẑ, and what happens when proposals run out."""

import importlib

import jax
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_law
from samplers.language import (
    LOG_ENDED,
    LOG_Z,
    NO_TOKEN,
    NUM_TOKENS,
    POLICIES,
    TOKEN_BY_TOKEN,
    replicated,
)

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import SamplerError
from bayesft.evidence import potential
from bayesft.samplers import rejection
from bayesft.testing import assert_unbiased, enumerate_target

RUNS = 1000
MODULE = importlib.import_module("bayesft.samplers.accepting")


@pytest.mark.parametrize("eos", POLICIES)
def test_draws_are_exact_and_log_z_unbiased(eos):
    target = replicated(TOKEN_BY_TOKEN, RUNS, eos)
    draws, exact = sample(target, rejection(8), jax.random.key(0)), enumerate_target(target)
    assert exact.log_z == pytest.approx(LOG_Z[eos], abs=1e-5)
    assert (draws.status == Status.OK).all()
    assert_law(draws, exact, np.exp(exact.log_probs))
    estimates = np.exp(np.asarray(draws.log_z, np.float64) - exact.log_z)
    assert_unbiased(estimates, 1.0, resolution=0.2, family=FAMILY)
    if eos == "condition":
        np.testing.assert_allclose(draws.log_ended, LOG_ENDED, atol=1e-5)


def test_counts_are_reported():
    draws = sample(replicated(TOKEN_BY_TOKEN, RUNS), rejection(8), jax.random.key(0))
    proposals = draws.info["num_proposals"]
    np.testing.assert_allclose(draws.info["acceptance"], 8 / proposals)
    np.testing.assert_allclose(draws.log_z, 4 + np.log(7 / (proposals - 1)), rtol=1e-6)


def test_batches_do_not_change_what_is_drawn(monkeypatch):
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    draws = sample(target, rejection(8), jax.random.key(0))
    monkeypatch.setattr(MODULE, "BATCH_SIZES", (7,))
    again = sample(target, rejection(8), jax.random.key(0))
    assert (again.tokens == draws.tokens).all()
    assert (again.log_z == draws.log_z).all()


def test_exhausted_runs_keep_what_was_accepted_and_stay_unbiased():
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    draws = sample(target, rejection(8, max_proposals=100), jax.random.key(1))
    exact = enumerate_target(target)
    exhausted = draws.status == Status.EXHAUSTED
    assert exhausted.any() and not exhausted.all()
    empty = np.isneginf(np.asarray(draws.log_weights))
    assert (empty.any(1) == exhausted).all()
    assert not np.asarray(draws.lengths)[empty].any()
    assert (draws.info["num_proposals"][exhausted] == 100).all()
    assert_law(draws, exact, np.exp(exact.log_probs))
    estimates = np.exp(np.asarray(draws.log_z, np.float64) - exact.log_z)
    assert_unbiased(estimates, 1.0, resolution=0.2, family=FAMILY)


def test_nothing_accepted():
    draws = sample(replicated(NO_TOKEN, RUNS), rejection(8, max_proposals=100), jax.random.key(0))
    assert (draws.status == Status.EXHAUSTED).all()
    assert np.isneginf(np.asarray(draws.log_z)).all()
    assert not draws.weights.any() and not np.isnan(np.asarray(draws.ess)).any()


def test_one_draw_has_no_log_z():
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    assert sample(target, rejection(1), jax.random.key(0)).log_z is None


def test_a_bound_that_is_exceeded_is_an_error_that_says_by_how_much_and_what_it_invalidates():
    with pytest.raises(
        SamplerError, match=r"potential of [34] nats exceeds the bound 2\.5 by"
    ) as e:
        sample(replicated(TOKEN_BY_TOKEN, RUNS), rejection(8, log_bound=2.5), jax.random.key(0))
    for said in (
        "the 0 draws accepted",
        "log Z and certificate",
        "min(φ, exp(bound))",
        "log_bound=",
    ):
        assert said in str(e.value)


def test_a_bound_exceeded_late_counts_the_draws_that_it_invalidates(monkeypatch):
    """Three a's are one in 25 prior samples: small batches accept some draws before."""
    monkeypatch.setattr(MODULE, "BATCH_SIZES", (4,))
    target = replicated(0.5 * TOKEN_BY_TOKEN, 1)
    draws = "the [1-9][0-9]* draws accepted for it"
    with pytest.raises(SamplerError, match=draws) as e:
        sample(target, rejection(1000, log_bound=1.1), jax.random.key(0))
    assert "for prompt 0" in str(e.value)


def test_a_looser_bound_changes_acceptance_and_not_the_estimate():
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    draws = sample(target, rejection(8, log_bound=5.0), jax.random.key(0))
    estimates = np.exp(np.asarray(draws.log_z, np.float64) - LOG_Z["truncate"])
    assert_unbiased(estimates, 1.0, resolution=0.2, family=FAMILY)


def test_settings_are_checked():
    unbounded = replicated(potential(lambda tokens, length: 0.0 * length), 1)
    with pytest.raises(SamplerError, match="finite upper bound"):
        sample(unbounded, rejection(2), jax.random.key(0))
    with pytest.raises(SamplerError, match="NaN"):
        rejection(2, log_bound=float("nan"))
    with pytest.raises(SamplerError, match="num_draws"):
        rejection(0)
    with pytest.raises(SamplerError, match="max_proposals"):
        rejection(2, max_proposals=0)


def test_rare_acceptance_is_not_quantised():
    """Acceptance probabilities of 1e-7 have a ratio that a 23-bit uniform would round."""
    keys = jax.random.split(jax.random.key(0), (1024, 1024))
    found = np.asarray(MODULE.log_uniform(keys, NUM_TOKENS))
    smallest = np.sort(np.exp(found.astype(np.float64)).ravel())[:100]
    assert len(np.unique(smallest * 2**23 % 1)) > 90


# ---- planted bugs -------------------------------------------------------------------------------


def test_a_wrong_acceptance_probability_is_caught(monkeypatch):
    right = MODULE.log_uniform
    monkeypatch.setattr(MODULE, "log_uniform", lambda *args: 0.8 * right(*args))
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    draws, exact = sample(target, rejection(8), jax.random.key(0)), enumerate_target(target)
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_law(draws, exact, np.exp(exact.log_probs))


def test_counting_the_last_acceptance_is_caught():
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    draws = sample(target, rejection(8), jax.random.key(0))
    biased = np.exp(4 - LOG_Z["truncate"]) * draws.info["acceptance"]
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(biased, 1.0, family=FAMILY)
