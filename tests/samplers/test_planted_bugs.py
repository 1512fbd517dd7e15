"""Planted bugs: the assertion that proves proper weights notices the mistakes that SMC invites."""

import jax
import jax.numpy as jnp
import pytest
from samplers.claims import assert_unbiased_weights
from samplers.language import TOKEN_BY_TOKEN, guide, replicated

from bayesft._sample import sample
from bayesft.samplers import importance, particle_sampler, sequential, smc
from bayesft.samplers.proposers import FromGuide
from bayesft.samplers.resampling import multinomial
from bayesft.testing import enumerate_target

RUNS = 4000


def assert_caught(target, sampler):
    draws, exact = sample(target, sampler, jax.random.key(0)), enumerate_target(target)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased_weights(draws, exact, resolution=0.2)


def test_resampling_that_ignores_weights():
    def blind(key, log_weights):
        return multinomial(key, jnp.zeros_like(log_weights))

    assert_caught(replicated(TOKEN_BY_TOKEN, RUNS), smc(16, ess_threshold=1, resampling=blind))


def test_weights_reset_without_accounting_log_z(monkeypatch):
    right = particle_sampler._totals

    def forgetful(log_weights, log_z, log_evidence):
        return right(log_weights, jnp.zeros_like(log_z), log_evidence)

    monkeypatch.setattr(particle_sampler, "_totals", forgetful)
    assert_caught(replicated(TOKEN_BY_TOKEN, RUNS), smc(16, ess_threshold=1))


@jax.tree_util.register_dataclass
class EosUnscored(FromGuide):
    def choose(self, random, logits, prefixes):
        choice = super().choose(random, logits, prefixes)
        ends = choice.token == self.prior.eos[0]
        return choice._replace(
            log_prior=jnp.where(ends, 0.0, choice.log_prior),
            log_ratio=jnp.where(ends, 0.0, choice.log_ratio),
        )


def test_eos_unscored(monkeypatch):
    def wrong(target, proposal):
        return EosUnscored(target.prior, proposal)

    monkeypatch.setattr(particle_sampler, "proposer", wrong)
    assert_caught(replicated(TOKEN_BY_TOKEN, RUNS), importance(16, guide()))


def test_a_finished_particle_that_is_still_weighted(monkeypatch):
    right = sequential.extend

    def still_weighted(target, proposer, schedule, random, particles, logits):
        log_prior, log_guide = (jax.nn.log_softmax(each)[..., 2] for each in logits)
        after = right(target, proposer, schedule, random, particles, logits)
        more = jnp.where(particles.paths.done, log_prior - log_guide, 0.0)
        return after.replace(log_weights=after.log_weights + more)

    def advance(*arguments):  # a function of its own: JAX caches traces by function
        return sequential._advance(*arguments)

    monkeypatch.setattr(sequential, "extend", still_weighted)
    monkeypatch.setattr(sequential, "advance_in_place", jax.jit(advance))
    assert_caught(replicated(TOKEN_BY_TOKEN, RUNS), importance(16, guide()))
