"""Products of experts against enumeration, under every EOS policy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_proper_weights
from samplers.language import LANGUAGE, NUM_TOKENS, POLICIES, replicated

from bayesft.errors import EvidenceError
from bayesft.evidence import product
from bayesft.priors import markov
from bayesft.samplers import smc
from bayesft.samplers.particle_sampler import ParticleSampler
from bayesft.target import Target
from bayesft.testing import enumerate_target

EXPERT = markov(
    np.log([0.2, 0.6, 0.2]),
    np.log([[0.3, 0.3, 0.4], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]]),
    eos=2,
    vocabulary=("a", "b", ""),
)
EXAMPLES = [product(EXPERT), product(EXPERT, weight=-0.5, name="anti")]


@pytest.mark.parametrize("weight", [1.0, 0.5, -1.0, 0.0])
@pytest.mark.parametrize("eos", POLICIES)
def test_posterior_is_the_normalised_product(eos, weight):
    found = enumerate_target(
        Target(LANGUAGE, product(EXPERT, weight), max_new_tokens=NUM_TOKENS, eos=eos)
    )
    log_product = found.log_prior + weight * found.log_probs_of(EXPERT)
    log_z = np.logaddexp.reduce(log_product)
    possible = found.log_prior > -np.inf
    np.testing.assert_allclose(
        found.log_probs[possible], (log_product - log_z)[possible], atol=2e-6
    )


def test_a_prefix_counts_its_own_tokens():
    tokens, x = jnp.array([1, 1, 2, 2]), Target(LANGUAGE, max_new_tokens=4).xs
    x = jax.tree.map(lambda a: a[0], x)
    value = product(EXPERT).log_potential(tokens, x, jnp.int32(2))
    assert math.isclose(float(value), math.log(0.6 * 0.8), abs_tol=1e-6)
    ended = product(EXPERT).log_potential(tokens, x, jnp.int32(3))
    assert math.isclose(float(ended), math.log(0.6 * 0.8 * 0.1), abs_tol=1e-6)


@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_smc_that_looks_ahead_is_properly_weighted(weight):
    target = replicated(product(EXPERT, weight), 4000)
    assert_proper_weights(target, smc(8, every=1))


def test_bounds_follow_the_sign():
    assert product(EXPERT).bounds == (-math.inf, 0.0)
    assert product(EXPERT, -0.5).bounds == (0.0, math.inf)
    assert product(EXPERT, 0.0).bounds == (0.0, 0.0)
    assert not product(EXPERT).hard
    assert (-1.0 * product(EXPERT)).bounds == (0.0, math.inf)


def test_an_expert_that_excludes():
    never_b = markov(jnp.array([0.0, -jnp.inf, 0.0]), EXPERT.transition_logits, eos=2)
    target = Target(LANGUAGE, product(never_b), max_new_tokens=NUM_TOKENS)
    found = enumerate_target(target)
    assert (found.log_probs[found.tokens[:, 0] == 1] == -np.inf).all()
    wrong = Target(LANGUAGE, product(never_b, -1.0), max_new_tokens=NUM_TOKENS)
    sampler: ParticleSampler = smc(64)
    with pytest.raises(EvidenceError, match="inf, not a log-potential"):
        sampler.run(wrong, jax.random.key(0))


def test_an_expert_of_other_tokens_is_refused():
    larger = markov(jnp.zeros(4), jnp.zeros((4, 4)), eos=3)
    with pytest.raises(EvidenceError, match="has 4 tokens and ends by \\[3\\]; the target's"):
        Target(LANGUAGE, product(larger), max_new_tokens=2)
    ends_elsewhere = markov(jnp.zeros(3), jnp.zeros((3, 3)), eos=1)
    with pytest.raises(EvidenceError, match="ends by \\[1\\]"):
        Target(LANGUAGE, product(ends_elsewhere), max_new_tokens=2)


def test_an_expert_of_short_context_is_refused():
    class Short(type(EXPERT)):
        @property
        def max_length(self):
            return 3

    fields = {name: getattr(EXPERT, name) for name in EXPERT.__dataclass_fields__}
    short = Short(**fields)
    with pytest.raises(EvidenceError, match="would score 5 tokens; its model has 3"):
        Target(LANGUAGE, product(short), prompts=["ab", "a"], max_new_tokens=3)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_arguments(weight):
    with pytest.raises(EvidenceError, match="is not finite"):
        product(EXPERT, weight)
    with pytest.raises(EvidenceError, match="not a prior"):
        product(lambda completions: [0.0])
