"""The exact twist: every weight is Z, whatever the evidence and the EOS policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import (
    HAS_AB,
    IN_JAX,
    IN_PYTHON,
    POLICIES,
    TOKEN_BY_TOKEN,
    replicated,
)

from bayesft._sample import sample
from bayesft.errors import SamplerError
from bayesft.samplers import twisted
from bayesft.testing import enumerate_target, exact_twist

EVIDENCE = {
    "token by token": TOKEN_BY_TOKEN,
    "in JAX": IN_JAX,
    "in Python": IN_PYTHON,
}


def assert_weights_are_z(target, twist):
    draws = sample(target, twisted(twist, 64), jax.random.key(0))
    log_z = enumerate_target(target).log_z
    np.testing.assert_allclose(draws.log_weights, np.full((1, 64), log_z), atol=2e-6)
    np.testing.assert_allclose(draws.log_z, [log_z], atol=2e-6)


@pytest.mark.parametrize("eos", POLICIES)
@pytest.mark.parametrize("evidence", EVIDENCE.values(), ids=EVIDENCE)
def test_every_weight_is_z(evidence, eos):
    target = replicated(evidence, 1, eos)
    assert_weights_are_z(target, exact_twist(target))


def test_a_constraint_beside_prefix_evidence():
    target = replicated(HAS_AB + 0.5 * TOKEN_BY_TOKEN, 1, "condition")
    assert_weights_are_z(target, exact_twist(target))


def test_values():
    """ψ(b) = E[e^(number of a's) | first token b] by hand, at most one more token."""
    target = replicated(IN_JAX, 1)
    short = type(target)(target.prior, target.evidence, prompts=[""], max_new_tokens=2)
    table = np.exp(np.asarray(exact_twist(short).params))
    after_a = np.e * (0.1 * np.e + 0.9)
    np.testing.assert_allclose(table[0], [after_a, 0.5 * np.e + 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(table[2], [np.e, 1.0, 1.0], rtol=1e-6)
    prefix = type(target)(target.prior, TOKEN_BY_TOKEN, prompts=[""], max_new_tokens=2)
    table = np.exp(np.asarray(exact_twist(prefix).params))
    np.testing.assert_allclose(table[0], [after_a / np.e, 0.5 * np.e + 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(table[1:], np.ones((3, 3)))


def test_planted_bug_that_counts_the_prefix_twice():
    target = replicated(TOKEN_BY_TOKEN, 1)
    twist, whole = exact_twist(target), exact_twist(replicated(IN_JAX, 1))
    with pytest.raises(AssertionError):
        assert_weights_are_z(target, twist.with_params(whole.params))


def test_planted_bug_that_lets_cut_sequences_count():
    target = replicated(IN_JAX, 1, "condition")
    with pytest.raises(AssertionError):
        assert_weights_are_z(target, exact_twist(replicated(IN_JAX, 1, "truncate")))


def test_a_twist_of_nan_is_refused():
    target = replicated(IN_JAX, 1)
    twist = exact_twist(target)
    broken = twist.with_params(jnp.full_like(twist.params, jnp.nan))
    with pytest.raises(SamplerError, match="NaN"):
        sample(target, twisted(broken, 64), jax.random.key(0))
