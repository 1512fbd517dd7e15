"""Every kernel on a real language model: densities stay the target's, and chains go uphill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft.lm
from bayesft._sample import sample
from bayesft.evidence import power, prefix_potential, reward
from bayesft.priors.scoring import log_evidence, log_probs
from bayesft.samplers import block_gibbs, mcmc, particle_gibbs, suffix_resampling, tempered
from bayesft.target import Target

KEY = jax.random.key(0)
PROMPTS = ["Once upon a time", "Lily and Tom"]
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def lm(assets):
    return bayesft.lm.load(assets / "stories260K")


def _few_kinds(token):
    return jnp.where(token % 7 == 0, 1.0, 0.0)


IN_JAX = prefix_potential(lambda state, token: (state, _few_kinds(token)), (), bounds=(0, 12))


def _length_in_letters(completions):
    return [len(text) / 10 for text in completions]


IN_PYTHON = reward(_length_in_letters, beta=1.0)


def assert_densities(target, draws):
    found = log_probs(target.prior, np.asarray(draws.tokens), target.xs, target.horizon)
    np.testing.assert_allclose(draws.log_prior, found, atol=2e-3)
    found = log_evidence(target, np.asarray(draws.tokens))
    np.testing.assert_allclose(draws.log_evidence, found, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "evidence"),
    [
        ([suffix_resampling(), block_gibbs(2, 3)], IN_JAX + IN_PYTHON),
        (particle_gibbs(3, ess_threshold=0.9), IN_JAX),
        (particle_gibbs(3, ancestor_sampling=False), IN_JAX + IN_PYTHON),
    ],
    ids=["suffix and blocks", "ancestors", "particles"],
)
def test_chains(lm, kernel, evidence):
    target = Target(lm, evidence, prompts=PROMPTS, max_new_tokens=NUM_TOKENS)
    draws = sample(target, mcmc(kernel, 3, 6), KEY)
    assert_densities(target, draws)
    assert (draws.info["acceptance"] > 0).all()


@pytest.mark.slow
def test_a_power_target_raises_the_likelihood_by_a_guide_too(lm):
    target = Target(lm, power(lm, 4.0), prompts=PROMPTS, max_new_tokens=NUM_TOKENS)
    sampler = mcmc(suffix_resampling(lm.trainable()), 4, 20)
    start = sampler.init(target, KEY).chains.log_prior.mean()
    draws = sample(target, sampler, KEY)
    assert_densities(target, draws)
    assert draws.log_prior.reshape(2, 4, 20)[..., -1].mean() > start + 2


@pytest.mark.slow
def test_tempering(lm):
    target = Target(lm, IN_JAX, prompts=PROMPTS, max_new_tokens=NUM_TOKENS)
    draws = sample(target, tempered(8, (0, 0.3, 1)), KEY)
    assert_densities(target, draws)
    assert np.isfinite(draws.log_z).all() and (draws.info["acceptance"] > 0).all()
