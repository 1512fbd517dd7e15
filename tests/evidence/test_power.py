"""Powers of the prior: of whole sequences, under every EOS policy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_proper_weights
from samplers.language import LANGUAGE, NUM_TOKENS, POLICIES, replicated

from bayesft.errors import EvidenceError
from bayesft.evidence import power
from bayesft.evidence.product import Product
from bayesft.priors import markov
from bayesft.samplers import smc
from bayesft.target import Target
from bayesft.testing import enumerate_target

UNIFORM = markov(jnp.zeros(3), jnp.zeros((3, 3)), eos=2)
EXAMPLES = [power(UNIFORM, 2.0), power(UNIFORM, 0.5, name="flattened")]


def declared(evidence, eos="truncate"):
    return Target(LANGUAGE, evidence, max_new_tokens=NUM_TOKENS, eos=eos)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("eos", POLICIES)
def test_posterior_is_the_normalised_power(eos, alpha):
    prior = enumerate_target(declared(None, eos))
    found = enumerate_target(declared(power(LANGUAGE, alpha), eos))
    possible = prior.log_prior > -np.inf
    # Conditioning first and raising to α then is the same as the other way round.
    log_power = np.where(possible, alpha * np.where(possible, prior.log_prior, 0.0), -np.inf)
    log_z = np.logaddexp.reduce(log_power)
    np.testing.assert_allclose(found.log_probs[possible], (log_power - log_z)[possible], atol=2e-6)
    assert math.isclose(found.log_z, log_z, abs_tol=2e-6)


def test_a_forced_end_counted_as_drawn_is_caught():
    """The planted bug: the power under "truncate" in a target that forces EOS."""

    class Unbound(Product):
        def bind(self, prior, horizon, longest_prompt):
            return self

    jax.tree_util.register_dataclass(Unbound)
    wrong = Unbound(LANGUAGE, jnp.float32(2.0), "truncate", "unbound")
    prior = enumerate_target(declared(None, "force"))
    found = enumerate_target(declared(wrong, "force"))
    log_z = np.logaddexp.reduce(3 * prior.log_prior)
    assert np.abs(found.log_probs - (3 * prior.log_prior - log_z)).max() > 0.1


def test_token_by_token_temperature_is_another_law():
    alpha = 3.0
    tempered = markov(alpha * LANGUAGE.initial_logits, alpha * LANGUAGE.transition_logits, eos=2)
    power_of_all = enumerate_target(declared(power(LANGUAGE, alpha)))
    by_token = power_of_all.log_probs_of(tempered)
    distance = np.abs(np.exp(power_of_all.log_probs) - np.exp(by_token)).sum() / 2
    assert math.isclose(distance, 0.704610, abs_tol=1e-5)
    # The temperature does not see that a sequence which ends at once loses nothing more: 0.2³ is
    # much of the power's mass, and little of 0.5³ + 0.3³ + 0.2³.
    empty = power_of_all.tokens[:, 0] == 2
    prior = enumerate_target(declared(None)).log_prior
    by_hand = 0.2**3 / np.exp(alpha * prior).sum(), 0.2**3 / (0.5**3 + 0.3**3 + 0.2**3)
    found = np.exp(power_of_all.log_probs[empty]), np.exp(by_token[empty])
    np.testing.assert_allclose(found, np.array(by_hand)[:, None], rtol=1e-5)


@pytest.mark.parametrize("eos", ["truncate", "force"])
def test_smc_that_looks_ahead_is_properly_weighted(eos):
    assert_proper_weights(replicated(power(LANGUAGE, 2.0), 4000, eos), smc(8, every=1))


def test_what_the_prior_excludes_stays_excluded():
    never_b = markov(np.log([0.5, 1e-30, 0.5]), np.full((3, 3), -np.log(3)), eos=2)
    gap = jnp.array([0.5, -jnp.inf, 0.5])
    excluding = markov(gap, never_b.transition_logits, eos=2)
    found = enumerate_target(Target(excluding, power(excluding, 0.5), max_new_tokens=3))
    starts_with_b = found.tokens[:, 0] == 1
    assert (found.log_probs[starts_with_b] == -np.inf).all()
    assert np.isclose(np.exp(found.log_probs).sum(), 1.0)


def test_bounds():
    assert power(LANGUAGE, 2.0).bounds == (-math.inf, 0.0)
    assert power(LANGUAGE, 0.5).bounds == (0.0, math.inf)
    assert power(LANGUAGE, 1.0).bounds == (0.0, 0.0)
    assert not power(LANGUAGE, 2.0).hard


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_no_power_of_this_kind(alpha):
    with pytest.raises(EvidenceError, match="not a finite number of at least 0"):
        power(LANGUAGE, alpha)
    with pytest.raises(EvidenceError, match="not a prior"):
        power("gpt2", 2.0)
