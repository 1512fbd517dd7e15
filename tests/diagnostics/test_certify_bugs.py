"""Planted bugs in certificates, which their coverage shows."""

import dataclasses
import sys

import jax
import numpy as np
import pytest
from diagnostics.certified import (
    COUNT,
    NARROW,
    count_a,
    guide,
    many,
    require_coverage,
    truths,
)

from bayesft.base import Claim
from bayesft.diagnostics import Interval, certify
from bayesft.diagnostics.bounds import log_z_upper
from bayesft.diagnostics.evaluated import Evaluated
from bayesft.samplers import importance

MODULE = sys.modules["bayesft.diagnostics.certify"]  # the name in the room is the function


def require_caught(target, **options):
    certificate = certify(target, guide(1.5), jax.random.key(1), **{**NARROW, **options})
    with pytest.raises(AssertionError, match="intervals cover"):
        require_coverage(certificate, truths(target, guide(1.5)))


def test_without_a_bug_the_same_case_is_covered():
    target = many(2.0 * COUNT)
    certificate = certify(target, guide(1.5), jax.random.key(1), **NARROW)
    require_coverage(certificate, truths(target, guide(1.5)))


def test_slots_that_are_not_posterior_draws_are_caught():
    prior = many(0.0 * COUNT)
    draws = certify(prior, guide(1.5), jax.random.key(0), **NARROW).posterior_draws
    of_count = 2.0 * jax.vmap(jax.vmap(count_a))(draws.tokens, draws.lengths)
    require_caught(
        many(2.0 * COUNT), posterior_draws=dataclasses.replace(draws, log_evidence=of_count)
    )


def test_a_slot_that_is_left_out_is_caught(monkeypatch):
    def without(explored, drawn, posterior, *others):
        dead = dataclasses.replace(
            posterior, log_density=np.full(posterior.log_density.shape, -np.inf)
        )
        return log_z_upper(explored, drawn, dead, *others)

    monkeypatch.setattr(MODULE, "log_z_upper", without)
    require_caught(many(2.0 * COUNT))


def test_a_mixture_that_does_not_sum_to_1_is_caught(monkeypatch):
    def unnormalised(self):
        return np.logaddexp(self.log_explorer, self.log_prior)

    monkeypatch.setattr(Evaluated, "log_mixture", property(unnormalised))
    require_caught(many(2.0 * COUNT), num_particles=64, num_repeats=16)


def test_a_wrong_sign_is_caught(monkeypatch):
    monkeypatch.setattr(Interval, "__neg__", lambda self: self)
    require_caught(many(2.0 * COUNT))


def test_approximate_draws_passed_as_exact_are_caught():
    target = many(2.0 * COUNT)
    few = importance(8).run(target, jax.random.key(0)).resample(jax.random.key(1), 64)
    few = dataclasses.replace(few, claim=Claim("exact draws"))
    require_caught(target, posterior_draws=few)


def test_a_weight_that_is_left_out_is_caught(monkeypatch):
    unweighted = property(lambda self: self.log_density - self.log_explorer)
    monkeypatch.setattr(Evaluated, "log_weight", unweighted)  # prior draws as if they were q's
    require_caught(many(2.0 * COUNT), num_particles=64, num_repeats=16)
