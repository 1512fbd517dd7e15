"""Block Gibbs leaves the target invariant, listed or drawn, and with another kernel reaches it."""

import importlib

import jax.numpy as jnp
import pytest
from samplers.kernels import assert_converges, assert_invariant, one_target, planted
from samplers.language import IN_PYTHON, POLICIES

from bayesft.errors import SamplerError
from bayesft.samplers.chains import block_gibbs, suffix_resampling
from bayesft.samplers.chains.block_gibbs import BlockGibbs
from bayesft.samplers.mcmc import mcmc


@pytest.mark.parametrize(
    ("eos", "settings"), [*((eos, (2, 3)) for eos in POLICIES), ("condition", (2, None))]
)
def test_leaves_the_posterior_invariant(eos, settings):
    assert_invariant(block_gibbs(*settings), one_target(eos))


@pytest.mark.parametrize("settings", [(1, 2), (9, None)])
def test_other_blocks(settings):
    assert_invariant(block_gibbs(*settings), one_target())


def test_python_evidence():
    assert_invariant(block_gibbs(2, 3), one_target(evidence=IN_PYTHON), num_steps=2)


def test_reaches_the_posterior_beside_a_kernel_that_changes_the_length():
    target = one_target()
    assert_converges([block_gibbs(2), suffix_resampling()], target)
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_converges(block_gibbs(2), target)
    with pytest.raises(SamplerError, match=r"No kernel of \(BlockGibbs\) changes the length"):
        mcmc(block_gibbs(2), 4, 10)


# ---- planted bugs -------------------------------------------------------------------------------


def without_the_current_proposal(self, target, xs, keys, chains):
    candidates = BlockGibbs.propose(self, target, xs, keys, chains)
    return candidates._replace(log_weight_current=chains.log_prior)


def by_the_prefix_alone(self, target, xs, keys, chains):
    candidates = BlockGibbs.propose(self, target, xs, keys, chains)
    nothing = jnp.where(candidates.log_weights == -jnp.inf, -jnp.inf, 0.0)
    return candidates._replace(
        log_weights=nothing, log_weight_current=jnp.zeros_like(candidates.log_weight_current)
    )


@pytest.mark.parametrize(
    ("bug", "settings"),
    [(without_the_current_proposal, (2, 3)), (by_the_prefix_alone, (2, None))],
)
def test_planted_bugs_are_caught(bug, settings):
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_invariant(planted(block_gibbs(*settings), propose=bug), one_target())


# ---- bad input ----------------------------------------------------------------------------------


def test_settings_out_of_range(monkeypatch):
    for settings in [(0,), (1.5,), (1, 0)]:
        with pytest.raises(SamplerError, match="not a count"):
            block_gibbs(*settings)
    with pytest.raises(SamplerError, match="nothing to choose from"):
        block_gibbs(1, 1)
    module = importlib.import_module("bayesft.samplers.chains.block_gibbs")
    monkeypatch.setattr(module, "MAX_BLOCKS", 3)
    with pytest.raises(SamplerError, match="too many to list"):
        block_gibbs(2).bind(one_target())
