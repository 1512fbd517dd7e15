"""Suffix resampling leaves the target invariant and reaches it; its ratio needs every factor."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.kernels import assert_converges, assert_invariant, one_target, planted
from samplers.language import HAS_AB, IN_PYTHON, LANGUAGE, POLICIES, guide

from bayesft._sample import sample
from bayesft.errors import SamplerError
from bayesft.priors import markov
from bayesft.samplers.chains.kernel import gibbs, metropolis
from bayesft.samplers.chains.suffix_resampling import SuffixResampling, suffix_resampling
from bayesft.samplers.mcmc import mcmc

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("eos", "proposal"), [*((eos, guide()) for eos in POLICIES), ("condition", None)]
)
def test_leaves_the_posterior_invariant_and_reaches_it(eos, proposal):
    target, kernel = one_target(eos), suffix_resampling(proposal)
    assert_invariant(kernel, target)
    assert_converges(kernel, target)


@pytest.mark.parametrize("evidence", [IN_PYTHON, HAS_AB], ids=["soft", "hard"])
def test_python_evidence(evidence):
    target = one_target(evidence=evidence)
    assert_invariant(suffix_resampling(), target, num_steps=2)


def test_a_guide_that_is_bound_is_the_guide():
    target, proposal = one_target(), guide()
    from bayesft.priors.sequence import bind

    run = [
        sample(target, mcmc(suffix_resampling(each), 8, 3), KEY).tokens
        for each in (proposal, bind(proposal, target.horizon))
    ]
    assert (run[0] == run[1]).all()


# ---- planted bugs -------------------------------------------------------------------------------


def without_length_correction(self, target, xs, keys, chains):
    candidates = SuffixResampling.propose(self, target, xs, keys, chains)
    return candidates._replace(
        log_weights=candidates.log_weights + jnp.log(candidates.lengths),
        log_weight_current=candidates.log_weight_current + jnp.log(chains.lengths),
    )


def with_eos_unscored(self, target, xs, keys, chains):
    """The guide's log-prob of EOS is left out of the proposal's ratio."""
    candidates = SuffixResampling.propose(self, target, xs, keys, chains)
    ends = (candidates.tokens == 2).any(-1)
    return candidates._replace(log_weights=candidates.log_weights + jnp.where(ends, 0.4, 0.0))


def without_the_current_ratio(self, target, xs, keys, chains):
    candidates = SuffixResampling.propose(self, target, xs, keys, chains)
    return candidates._replace(log_weight_current=-jnp.log(chains.lengths))


@pytest.mark.parametrize(
    ("bug", "proposal"),
    [
        (without_length_correction, None),
        (with_eos_unscored, guide()),
        (without_the_current_ratio, guide()),
    ],
)
def test_planted_bugs_are_caught(bug, proposal):
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_invariant(planted(suffix_resampling(proposal), propose=bug), one_target())


# ---- choosing -----------------------------------------------------------------------------------


def test_what_is_impossible_or_nan_is_never_chosen():
    infinity, seeds = -jnp.inf, itertools.count()

    def chosen(rule, current, candidate):
        keys = jax.random.split(jax.random.key(next(seeds)), (1, 200))
        weights = jnp.broadcast_to(jnp.asarray([current, candidate], jnp.float32), (1, 200, 2))
        return set(np.asarray(rule(keys, weights)).ravel().tolist())

    for rule in (metropolis, gibbs):
        assert chosen(rule, 0.0, infinity) == {0}
        assert chosen(rule, infinity, infinity) == {0}
        assert chosen(rule, infinity, 0.0) == {1}
        assert chosen(rule, 0.0, 0.0) == ({1} if rule is metropolis else {0, 1})
    assert chosen(metropolis, 0.0, jnp.nan) == {0}


# ---- bad input ----------------------------------------------------------------------------------


def test_a_proposal_that_does_not_fit():
    with pytest.raises(SamplerError, match="cannot redraw suffixes"):
        suffix_resampling(lambda tokens: tokens)  # pyright: ignore
    other = markov(np.log([0.5, 0.5]), np.log([[0.5, 0.5], [0.5, 0.5]]), eos=1)
    with pytest.raises(SamplerError, match="EOS"):
        sample(one_target(), mcmc(suffix_resampling(other), 2, 2), KEY)
    assert suffix_resampling(LANGUAGE).bind(one_target()).proposal is None
