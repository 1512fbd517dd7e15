"""Moments: λ by enumeration and by sampling, its errors, and values that no λ attains."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import LANGUAGE, NUM_TOKENS
from scipy import stats

from bayesft._sample import sample
from bayesft.base import Claim
from bayesft.errors import EvidenceError, WeightWarning
from bayesft.evidence import constraint, moments, potential, prefix_potential, product, reward
from bayesft.evidence.moments import Moments
from bayesft.priors import markov
from bayesft.samplers import best_of_n, importance, smc
from bayesft.target import Target
from bayesft.testing import assert_coverage, enumerate_target

LAMBDA = 0.0203976
"""Of "contains b" with mean 0.5 under "condition"."""


def contains_b(completion_ids):
    return [float(1 in ids) for ids in completion_ids]


def starts_with_a(completion_ids):
    return [float(ids[0] == 0) for ids in completion_ids]


def number_of_a(completion_ids):
    return [ids.count(0) for ids in completion_ids]


def contains_b_in_jax(tokens, length):
    return ((tokens == 1) & (jnp.arange(tokens.shape[0]) < length)).any().astype(jnp.float32)


def step(state, token):
    return state, jnp.where(token == 0, 1.0, 0.0)


BOUNDED = reward(contains_b, 1.0, bounds=(0, 1))
LENGTH = potential(lambda tokens, length: 1.0 * length, bounds=(0, 3), name="length")


def given(coefficients, *features) -> Moments:
    """The evidence with coefficients that are already known."""
    values = jnp.asarray(coefficients, jnp.float32)
    zeros = jnp.zeros_like(values)
    return Moments(values, zeros, zeros, zeros, jnp.ones(1), features, ("f",) * len(features))


EXAMPLES = [given([0.7], LENGTH), given([0.5, -0.3], BOUNDED, LENGTH)]


def base(eos="condition", evidence=None, prompts=None):
    return Target(LANGUAGE, evidence, prompts=prompts, max_new_tokens=NUM_TOKENS, eos=eos)


def exact_draws(eos="condition"):
    return enumerate_target(base(eos)).draws


# ---- exact ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feature",
    [contains_b, BOUNDED, potential(contains_b_in_jax, (0, 1))],
    ids=["Python", "bounded", "JAX"],
)
def test_coefficient_by_enumeration(feature):
    found = moments({feature: 0.5}, exact_draws(), target=base())
    assert math.isclose(float(found.coefficients[0]), LAMBDA, abs_tol=1e-6)
    posterior = enumerate_target(base(evidence=found))
    assert math.isclose(posterior.mean(contains_b_in_jax), 0.5, abs_tol=1e-6)
    assert found.standard_errors.tolist() == found.coefficient_errors.tolist() == [0.0]
    expected = (0.0, LAMBDA) if feature is not contains_b else (-math.inf, math.inf)
    np.testing.assert_allclose(found.bounds, expected, atol=1e-6)


def test_another_value_or_policy_is_another_coefficient():
    """The planted bugs: a moment of another policy, and one missed by 1e-5."""
    other = moments({contains_b: 0.5}, exact_draws("truncate"))
    assert abs(float(other.coefficients[0]) - LAMBDA) > 0.1
    missed = moments({contains_b: 0.50001}, exact_draws())
    assert abs(float(missed.coefficients[0]) - LAMBDA) > 1e-6


def test_several_features_of_several_kinds():
    asked = {
        contains_b: 0.7,
        prefix_potential(step, (), bounds=(0, 4), name="number of a"): 0.9,
        potential(lambda tokens, length: 1.0 * length, bounds=(0, 4)): 2.5,
    }
    target = base("truncate")
    found = moments(asked, enumerate_target(target).draws, target)
    posterior = enumerate_target(base("truncate", found))
    rows = [row[:n].tolist() for row, n in zip(posterior.tokens, posterior.lengths, strict=True)]
    features = np.stack([contains_b(rows), number_of_a(rows), posterior.lengths], 1)
    np.testing.assert_allclose(posterior.mean(features), list(asked.values()), atol=1e-5)
    np.testing.assert_allclose(found.attained, list(asked.values()), atol=1e-6)
    assert "E[contains_b] = 0.7 ± 0 at λ = " in str(found)


def test_coefficients_are_shared_by_prompts_and_moments_averaged():
    def chances(coefficient):
        evidence = given([coefficient], BOUNDED)
        each = [base("truncate", evidence, [prompt]) for prompt in ("a", "b")]
        return [float(enumerate_target(t).mean(contains_b_in_jax)) for t in each]

    parts = [enumerate_target(base("truncate", prompts=[prompt])).draws for prompt in ("a", "b")]
    arrays = ("tokens", "lengths", "log_weights", "log_prior", "log_evidence", "log_z")
    joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in arrays}
    draws = dataclasses.replace(parts[0], prompts=["a", "b"], **joined)
    found = moments({contains_b: 0.6}, draws)
    each = chances(float(found.coefficients[0]))
    assert math.isclose(np.mean(each), 0.6, abs_tol=1e-6)
    assert abs(each[0] - each[1]) > 0.1
    assert found.ess.shape == (2,)


# ---- by sampling ---------------------------------------------------------------------------------


def test_coefficient_by_sampling():
    """Within its own standard error, which is close to the one that theory gives."""
    draws = sample(base(), importance(20000), jax.random.key(0))
    found = moments({BOUNDED: 0.5}, draws)
    error = float(found.coefficient_errors[0])
    # λ̂ ≈ λ + (m̂ − m)/Var; draws that did not end have weight 0, 0.7256 of them count.
    ended = math.exp(enumerate_target(base()).log_ended)
    assert math.isclose(error, 1 / math.sqrt(0.25 * 20000 * ended), rel_tol=0.02)
    z = stats.norm.isf(0.5e-6)
    assert abs(float(found.coefficients[0]) - LAMBDA) < z * error
    assert math.isclose(float(found.attained[0]), 0.5, abs_tol=1e-6)
    assert math.isclose(float(found.ess[0]), 20000 * ended, rel_tol=0.02)


def test_standard_errors_cover():
    """Intervals at level 0.95 cover the true λ, in 400 runs on weighted draws."""
    evidence = potential(lambda tokens, length: 0.5 * length, bounds=(0, 2))
    exact = moments({contains_b: 0.7}, enumerate_target(base("truncate", evidence)).draws)
    many = base("truncate", evidence, prompts=[""] * 400)
    draws = sample(many, importance(256), jax.random.key(1))
    arrays = ("tokens", "lengths", "log_weights")
    host = {name: np.asarray(getattr(draws, name)) for name in arrays}
    z = []
    for run in range(400):
        part = {name: values[run : run + 1] for name, values in host.items()}
        found = moments({contains_b: 0.7}, dataclasses.replace(draws, prompts=[""], **part))
        miss = float(found.coefficients[0] - exact.coefficients[0])
        z.append(abs(miss) / float(found.coefficient_errors[0]))
    assert_coverage(np.array(z) < 1.96, 0.95)
    with pytest.raises(AssertionError):
        assert_coverage(np.array(z) < 0.75 * 1.96, 0.95)  # the planted bug: errors too small


def test_attained_on_fresh_draws():
    found = moments({contains_b: 0.8}, sample(base(), importance(20000), jax.random.key(0)))
    exact = float(enumerate_target(base(evidence=found)).mean(contains_b_in_jax))
    assert abs(exact - 0.8) < stats.norm.isf(0.5e-6) * float(found.standard_errors[0])


# ---- bad input -----------------------------------------------------------------------------------


def two_at_once(completion_ids):
    return [float(len(ids) == 1) for ids in completion_ids]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({contains_b: 1.5}, r"mean 1.5: its draws lie in \[0, 1\], nearest is 1,"),
        ({contains_b: 1.0}, "reached in the limit only"),
        ({lambda completions: [2.0] * len(completions): 2.0}, "is 2 in every draw"),
        (
            {contains_b: 0.5, lambda completion_ids: [1.0 - (1 in i) for i in completion_ids]: 0.5},
            "contains_b, <lambda> are collinear",
        ),
        (
            {contains_b: 0.9, two_at_once: 0.5},
            "contains_b: 0.6776 for 0.9, two_at_once: 0.3224 for 0.5",
        ),
        ({lambda completions: [math.inf] * len(completions): 1.0}, "inf, which is no log-pot"),
        ({reward(lambda completions: [-math.inf] * len(completions), 1.0): 1.0}, "-inf for draw"),
        ({constraint(lambda completions: [False] * len(completions)): -1.0}, "-inf for draw"),
        ({contains_b: math.nan}, "is no moment"),
        ({contains_b: "half"}, "is no moment"),
        ({lambda text: [0.0]: 1.0}, "takes none of prompts"),
        ({LENGTH: 2.0}, "length is evaluated in JAX, which needs the target"),
        ({}, "moments got dict"),
    ],
)
def test_what_has_no_coefficients(features, message):
    with pytest.raises(EvidenceError, match=message):
        moments(features, exact_draws())


def test_draws_that_cannot_tell():
    draws = exact_draws()
    dead = dataclasses.replace(draws, log_weights=np.full_like(draws.log_weights, -np.inf))
    with pytest.raises(EvidenceError, match="All draws of prompt 0 have weight 0"):
        moments({contains_b: 0.5}, dead)
    with pytest.raises(EvidenceError, match="another law than the target's: the best"):
        target = base("truncate", reward(number_of_a, 1.0))
        moments({contains_b: 0.5}, sample(target, best_of_n(2, 8), jax.random.key(0)))


def test_draws_of_weight_zero_are_not_asked_about():
    """A feature need not make sense of the stumps that impossible draws are."""
    exact = exact_draws()
    seen = []

    def last_token(completion_ids):
        seen.extend(completion_ids)
        return [float(ids[-1] == 2) - float(1 in ids) for ids in completion_ids]

    draws = dataclasses.replace(
        exact, lengths=np.where(exact.log_weights > -np.inf, exact.lengths, 0)
    )
    found = moments({last_token: 0.5}, draws)
    assert math.isclose(float(found.coefficients[0]), -LAMBDA, abs_tol=1e-6)
    assert seen and all(seen)


def test_few_effective_draws_are_warned_of():
    draws = sample(base("truncate"), importance(64), jax.random.key(0))
    with pytest.warns(WeightWarning, match=r"Only \d+.\d effective draws are left for prompt 0"):
        found = moments({number_of_a: 1.9}, draws)
    assert float(found.standard_errors[0]) > 0.05


# ---- in a target ---------------------------------------------------------------------------------


def test_another_coefficient_does_not_retrace():
    traces = []

    @jax.jit
    def value(target, y, x):
        traces.append(1)
        return target.log_device_evidence(y, x)

    x = jax.tree.map(lambda a: a[0], base().xs)
    y = jnp.array([0, 2, 2, 2])
    found = [float(value(base(evidence=given([c], LENGTH)), y, x)) for c in (0.5, -1.0)]
    np.testing.assert_allclose(found, [1.0, -2.0])
    assert len(traces) == 1


def test_smc_sees_features_in_jax_token_by_token():
    feature = prefix_potential(step, (), bounds=(0, 4), name="number of a")
    target = base("truncate")
    found = moments({feature: 1.0}, sample(target, importance(4096), jax.random.key(0)), target)
    draws = sample(base("truncate", found), smc(4096, ess_threshold=1.0), jax.random.key(1))
    assert int(draws.info["num_resamples"][0]) > 1
    ids = [row[:n] for row, n in zip(draws.tokens[0].tolist(), draws.lengths[0], strict=True)]
    mean = float(draws.mean(jnp.asarray([number_of_a(ids)]))[0])
    # Two errors: of λ by the draws, and of the fresh mean (its variance is below 1 by far).
    assert abs(mean - 1.0) < 4.9 * math.hypot(float(found.standard_errors[0]), 2 / math.sqrt(4096))


def test_a_model_as_feature():
    expert = markov(jnp.log(jnp.array([0.2, 0.6, 0.2])), LANGUAGE.transition_logits, eos=2)
    target = base("truncate")
    found = moments({product(expert): -2.5}, enumerate_target(target).draws, target)
    posterior = enumerate_target(base("truncate", found))
    assert math.isclose(posterior.mean(posterior.log_probs_of(expert)), -2.5, abs_tol=1e-5)


def test_columns_are_seen_through_the_target():
    def equals_answer(completions, answer):
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    prompts = [{"prompt": "", "answer": "a"}]
    target = Target(LANGUAGE, prompts=prompts, max_new_tokens=NUM_TOKENS)
    found = moments({equals_answer: 0.5}, enumerate_target(target).draws, target)
    # By hand: P("a") = 0.5 · 0.3 = 0.15, and the odds go from 0.15/0.85 to 1.
    assert math.isclose(float(found.coefficients[0]), math.log(0.85 / 0.15), abs_tol=1e-5)
    assert isinstance(enumerate_target(target).draws.claim, Claim)
