"""Particle Gibbs leaves the target invariant for every N, and reaches it."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.kernels import IN_BOTH, assert_converges, assert_invariant, one_target, planted
from samplers.language import HAS_AB, IN_PYTHON, POLICIES, WITHOUT_B

from bayesft._sample import sample
from bayesft.errors import SamplerError
from bayesft.samplers.chains import particle_gibbs
from bayesft.samplers.mcmc import mcmc

MODULE = importlib.import_module("bayesft.samplers.chains.particle_gibbs")


EACH_POLICY = [*((eos, True) for eos in POLICIES), ("condition", False)]


@pytest.mark.parametrize(("eos", "ancestor_sampling"), EACH_POLICY)
def test_leaves_the_posterior_invariant_and_reaches_it(eos, ancestor_sampling):
    target, kernel = one_target(eos), particle_gibbs(4, ancestor_sampling, ess_threshold=1)
    assert_invariant(kernel, target)
    assert_converges(kernel, target, num_steps=10)


def test_adaptive_resampling_under_a_hard_constraint_on_prefixes():
    target = one_target(evidence=IN_BOTH + WITHOUT_B)
    assert_invariant(particle_gibbs(3, ess_threshold=0.7), target)


@pytest.mark.parametrize("evidence", [IN_PYTHON, HAS_AB], ids=["soft", "hard"])
def test_python_evidence(evidence):
    target = one_target(evidence=evidence)
    assert_invariant(particle_gibbs(3, ancestor_sampling=False), target, num_steps=2)
    with pytest.raises(SamplerError, match="ancestor_sampling=False"):
        sample(target, mcmc(particle_gibbs(3), 2, 2), jax.random.key(0))


def test_ancestor_sampling_renews_early_tokens():
    """With few particles and resampling at every token the first token hardly moves without."""
    target = one_target()
    changed = {}
    for ancestor_sampling in (True, False):
        kernel = particle_gibbs(2, ancestor_sampling, ess_threshold=1)
        sampler = mcmc(kernel, 20_000, 1)
        state = sampler.init(target, jax.random.key(0))
        after, _ = sampler.step(jax.random.key(0), state)
        changed[ancestor_sampling] = float(
            (after.chains.tokens[..., 0] != state.chains.tokens[..., 0]).mean()
        )
    assert changed[True] > 1.05 * changed[False]


# ---- planted bugs -------------------------------------------------------------------------------


def assert_caught(kernel):
    # 36 000 chains: without ancestor sampling a held particle is seldom lost.
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_invariant(kernel, one_target(), num_chains=36_000, resolution=0.03)


def plain(kernel):
    """Of a class of its own, so that what is patched is traced anew."""
    return planted(kernel)


@pytest.mark.parametrize("ancestor_sampling", [True, False])
def test_a_held_particle_that_is_not_held(ancestor_sampling, monkeypatch):
    monkeypatch.setattr(MODULE, "_is_held", lambda swarm: jnp.zeros(swarm.done.shape, bool))
    assert_caught(plain(particle_gibbs(3, ancestor_sampling, ess_threshold=1)))


def test_a_held_particle_that_may_die(monkeypatch):
    right = MODULE.stay_in_place

    def forgetful(counts):
        counts = counts.at[0].add(-1)  # the copy that is kept for slot 0
        return right(counts.at[jnp.argmax(counts)].add(1))

    monkeypatch.setattr(MODULE, "stay_in_place", forgetful)
    assert_caught(plain(particle_gibbs(3, False, ess_threshold=1)))


def test_a_finished_particle_that_is_still_weighted(monkeypatch):
    right = MODULE._extend

    def still_weighted(kernel, target, keys, chains, swarm, logits):
        after = right(kernel, target, keys, chains, swarm, logits)
        return after.replace(log_weights=after.log_weights + jnp.where(swarm.done, 0.3, 0.0))

    monkeypatch.setattr(MODULE, "_extend", still_weighted)
    assert_caught(plain(particle_gibbs(3, ess_threshold=0)))


def test_ancestors_by_weight_alone(monkeypatch):
    """The gain of the held suffix is left out, except that ended and open are not joined."""
    right = MODULE.log_gain

    def without(*arguments):
        gain = right(*arguments)
        return jnp.where(gain == -jnp.inf, -jnp.inf, 0.0)

    monkeypatch.setattr(MODULE, "log_gain", without)
    assert_caught(plain(particle_gibbs(3, ess_threshold=1)))


# ---- bad input ----------------------------------------------------------------------------------


def test_settings_out_of_range():
    with pytest.raises(SamplerError, match="never moves"):
        particle_gibbs(1)
    with pytest.raises(SamplerError, match="not a count"):
        particle_gibbs(0)
    with pytest.raises(SamplerError, match="between 0 and 1"):
        particle_gibbs(4, ess_threshold=8)
    assert np.isclose(particle_gibbs(4).ess_threshold, 0.5)
