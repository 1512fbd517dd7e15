"""Tempering from prior to posterior has proper weights, under every kernel and kind of evidence."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_proper_weights, assert_unbiased_weights
from samplers.kernels import IN_BOTH, one_target, planted
from samplers.language import (
    HAS_AB,
    IN_PYTHON,
    LANGUAGE,
    LOG_ENDED,
    NO_TOKEN,
    NUM_TOKENS,
    POLICIES,
    TOKEN_BY_TOKEN,
    WITHOUT_B,
    replicated,
)

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import EvidenceError, SamplerError
from bayesft.evidence import potential, reward
from bayesft.samplers.chains import block_gibbs, particle_gibbs, suffix_resampling
from bayesft.samplers.tempered import tempered
from bayesft.target import Target
from bayesft.testing import enumerate_target

RUNS = 4000
LADDER = (0, 0.3, 1)
KEY = jax.random.key(0)
MODULE = importlib.import_module("bayesft.samplers.tempered")


@pytest.mark.parametrize("eos", POLICIES)
def test_proper_weights(eos):
    for threshold in (0.0, 0.9):
        sampler = tempered(16, LADDER, ess_threshold=threshold)
        assert_proper_weights(replicated(IN_BOTH, RUNS, eos), sampler, resolution=0.25)


@pytest.mark.parametrize(
    "kernel",
    [[block_gibbs(1), suffix_resampling()], particle_gibbs(2, ess_threshold=1)],
    ids=["blocks", "particles"],
)
def test_other_kernels(kernel):
    sampler = tempered(16, LADDER, kernel, ess_threshold=0.9)
    assert_proper_weights(replicated(IN_BOTH, RUNS), sampler)


@pytest.mark.parametrize("evidence", [WITHOUT_B, HAS_AB, IN_PYTHON], ids=["prefix", "host", "soft"])
def test_hard_and_python_evidence(evidence):
    assert_proper_weights(replicated(evidence, RUNS), tempered(16, (0, 0.5, 1)))


def test_python_evidence_is_called_once_per_move():
    calls = []

    def count(completion_ids):
        calls.append(len(completion_ids))
        return [ids.count(0) for ids in completion_ids]

    target = replicated(reward(count, beta=1.0), 3)
    draws = sample(target, tempered(4, LADDER, num_moves=2), KEY)
    assert calls[0] == 12 and len(calls) == 1 + 2 * 2
    in_jax = sample(replicated(TOKEN_BY_TOKEN, 3), tempered(4, LADDER, num_moves=2), KEY)
    assert (in_jax.tokens == draws.tokens).all()
    np.testing.assert_allclose(in_jax.log_weights, draws.log_weights, atol=1e-5)
    assert draws.info["ess"].shape == (2, 3)
    assert draws.info["acceptance"].shape == draws.info["num_resamples"].shape == (3,)


def test_nothing_possible():
    draws = sample(one_target(evidence=NO_TOKEN), tempered(8, LADDER), KEY)
    assert (draws.status == Status.ALL_DEAD).all() and np.isneginf(draws.log_z).all()
    assert not np.isnan(draws.log_weights).any()


def test_ended_mass_is_reported():
    draws = sample(replicated(IN_BOTH, 1, "condition"), tempered(8, LADDER), KEY)
    assert draws.log_ended is not None
    np.testing.assert_allclose(draws.log_ended, LOG_ENDED, atol=1e-5)


# ---- planted bugs -------------------------------------------------------------------------------


def assert_caught(sampler):
    target = replicated(IN_BOTH, RUNS)
    draws, exact = sample(target, sampler, KEY), enumerate_target(target)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased_weights(draws, exact, resolution=0.3)


def test_an_increment_with_the_wrong_difference(monkeypatch):
    """Every level brings in λ_k instead of λ_k − λ_{k−1}."""
    right = MODULE._weighted

    def wrong(log_weights, log_evidence, before, after):
        return right(log_weights, log_evidence, jnp.zeros_like(before), after)

    monkeypatch.setattr(MODULE, "_weighted", wrong)
    assert_caught(tempered(16, LADDER, planted(suffix_resampling())))


def test_moves_for_the_last_temperature_alone(monkeypatch):
    """Particles are moved towards the posterior although their weights are for λ_k < 1."""
    right = MODULE.move

    def wrong(kernel, target, xs, keys, chains, faults, scale, alive):
        return right(kernel, target, xs, keys, chains, faults, 1.0, alive)

    monkeypatch.setattr(MODULE, "move", wrong)
    assert_caught(tempered(16, LADDER, planted(suffix_resampling()), num_moves=4))


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_evidence_that_is_no_log_potential(value):
    wrong = potential(lambda tokens, length: jnp.where(length > 2, value, 0.0))
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(Target(LANGUAGE, wrong, max_new_tokens=NUM_TOKENS), tempered(32, LADDER), KEY)


@pytest.mark.parametrize(
    "ladder", [(), (0,), (0, 0.5), (0.1, 1), (0, 0.5, 0.5, 1), (1, 0), (0, np.nan, 1), ((0, 1),)]
)
def test_a_ladder_that_does_not_increase_from_0_to_1(ladder):
    with pytest.raises(SamplerError, match="do not increase from 0 to 1"):
        tempered(8, ladder)


def test_settings_out_of_range():
    with pytest.raises(SamplerError, match="not a count"):
        tempered(0)
    with pytest.raises(SamplerError, match="not a count"):
        tempered(8, num_moves=0)
    with pytest.raises(SamplerError, match="between 0 and 1"):
        tempered(8, ess_threshold=4)
    with pytest.raises(SamplerError, match="is no kernel"):
        tempered(8, kernel=[])
