"""The oracle against numbers worked out by hand, and every assertion against a planted bug."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bayesft.errors import NotEnumerableError
from bayesft.evidence import constraint, potential, reward
from bayesft.priors import markov, trainable
from bayesft.priors.sequence import generate
from bayesft.target import Target
from bayesft.testing import (
    assert_at_most,
    assert_coverage,
    assert_frequencies,
    assert_unbiased,
    enumerate_target,
    num_samples_for,
)

RANDOM = np.random.default_rng


def language(vocabulary=None):
    rows = np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3, 1 / 3, 1 / 3]])
    return markov(np.log([0.5, 0.3, 0.2]), rows, eos=2, vocabulary=vocabulary)


def count_a(tokens, length):
    return 1.0 * ((tokens == 0) & (jnp.arange(tokens.shape[0]) < length)).sum()


# ---- the oracle ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eos", "log_z", "log_ended"),
    [
        ("truncate", 1.393259, -0.320756),
        ("condition", 0.591292, -0.320756),
        ("force", 1.174378, 0.0),
    ],
)
def test_the_three_token_language(eos, log_z, log_ended):
    exact = enumerate_target(Target(language(), potential(count_a), max_new_tokens=4, eos=eos))
    assert abs(exact.log_z - log_z) < 1e-6
    assert abs(exact.log_ended - log_ended) < 1e-6
    assert abs(np.exp(exact.log_probs).sum() - 1) < 1e-9
    assert (
        exact.lengths
        == [
            len(set(range(4)) if 2 not in row else row[: row.index(2) + 1])
            for row in exact.tokens.tolist()
        ]
    ).all()


def test_evidence_in_python_is_called_once():
    calls = []

    def count(completions):
        calls.append(len(completions))
        return [text.count("a") for text in completions]

    prior = language(("a", "b", ""))
    on_host = enumerate_target(Target(prior, reward(count, beta=1.0), max_new_tokens=4))
    on_device = enumerate_target(Target(prior, potential(count_a), max_new_tokens=4))
    np.testing.assert_allclose(on_host.log_probs, on_device.log_probs, atol=1e-6)
    assert calls == [31]


def test_prompt_axis():
    target = Target(
        language(("a", "b", "")), potential(count_a), prompts=["a", "bb"], max_new_tokens=3
    )
    alone = Target(language(("a", "b", "")), potential(count_a), prompts=["bb"], max_new_tokens=3)
    assert enumerate_target(target, 1).log_z == pytest.approx(enumerate_target(alone).log_z)
    assert enumerate_target(target, 0).log_z != pytest.approx(enumerate_target(target, 1).log_z)


def test_means_and_divergences():
    exact = enumerate_target(Target(language(), potential(count_a), max_new_tokens=4))
    plain = enumerate_target(Target(language(), max_new_tokens=4))
    posterior = np.exp(exact.log_probs)
    expected = (
        posterior * [count_a(y, n) for y, n in zip(exact.tokens, exact.lengths, strict=True)]
    ).sum()
    assert float(exact.mean(count_a)) == pytest.approx(float(expected), rel=1e-6)
    assert plain.reverse_kl(language()) == pytest.approx(0, abs=1e-6)
    # KL(π0 ‖ p*) = log Z − E_π0[log φ], KL(p* ‖ π0) = E_p*[log φ] − log Z
    guide = trainable(language())
    assert exact.reverse_kl(guide) == pytest.approx(exact.log_z - plain.mean(count_a), abs=1e-6)
    assert exact.forward_kl(guide) == pytest.approx(exact.mean(count_a) - exact.log_z, abs=1e-6)


def test_nothing_possible():
    never = constraint(lambda completions: [False] * len(completions))
    exact = enumerate_target(Target(language(), never, max_new_tokens=2))
    assert exact.log_z == -np.inf
    assert (exact.log_probs == -np.inf).all()
    assert exact.reverse_kl(language()) == np.inf


def test_a_hundred_thousand_outcomes():
    prior = markov(np.zeros(11), np.zeros((11, 11)), eos=10)
    exact = enumerate_target(Target(prior, max_new_tokens=5))
    assert len(exact.tokens) == sum(10**n for n in range(6))
    assert abs(exact.log_z) < 1e-5
    with pytest.raises(NotEnumerableError, match="too many to list"):
        enumerate_target(Target(prior, max_new_tokens=7))


# ---- assert_unbiased -----------------------------------------------------------------------------


def test_unbiased_passes_what_is_right_and_notices_what_is_not():
    samples = RANDOM(0).normal(1.0, 2.0, (10_000, 3))
    assert_unbiased(samples, [1.0, 1.0, 1.0], resolution=0.25)
    with pytest.raises(AssertionError, match=r"1 of 3 means are wrong. At \(1,\)"):
        assert_unbiased(samples, [1.0, 1.25, 1.0])
    with pytest.raises(AssertionError, match=r"could miss an error of 0\.05"):
        assert_unbiased(samples, [1.0, 1.0, 1.0], resolution=0.05)


@pytest.mark.parametrize("draw", [RANDOM(1).normal, RANDOM(2).exponential])
def test_unbiased_fails_no_more_often_than_stated(draw):
    """Of 2000 tests at rate 1e-2 about 20 fail, also where samples are skewed."""
    fails = 0
    for samples in draw(1.0, size=(2000, 400)):
        try:
            assert_unbiased(samples, 1.0, false_failure=1e-2)
        except AssertionError:
            fails += 1
    assert stats.binom.sf(fails - 1, 2000, 1e-2) > 1e-6


def test_samples_without_variance_are_compared_exactly():
    assert_unbiased(np.full((10, 2), 0.3, np.float32), [0.3, 0.3])
    assert_unbiased(np.float32(0.1) + 1e-8 * RANDOM(0).normal(size=100), 0.1)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(np.full((10, 2), 0.3), [0.3, 0.301])


def test_too_few_skewed_samples_conclude_nothing():
    rare = np.zeros(1000)
    rare[:2] = 1.0
    with pytest.raises(AssertionError, match="too few to conclude"):
        assert_unbiased(rare, 0.001)
    with pytest.raises(AssertionError, match="NaN"):
        assert_unbiased([0.0, np.nan, 1.0], 0.5)
    with pytest.raises(ValueError, match="no standard error"):
        assert_unbiased([0.0, 1.0], 0.5)


def test_num_samples_for_is_enough():
    num_samples = num_samples_for(0.1, 2.0)
    samples = RANDOM(3).normal(0.0, 2.0, num_samples)
    # The samples' own standard error is within a few per cent of the one asked for.
    assert_unbiased(samples, 0.0, resolution=0.1 * 1.03)
    with pytest.raises(AssertionError, match="could miss"):
        assert_unbiased(samples[: num_samples // 2], 0.0, resolution=0.1)
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(samples + 0.1, 0.0)


def test_more_comparisons_need_more_evidence():
    samples = RANDOM(4).normal(0.0, 1.0, 10_000)
    shift = 0.052 - samples.mean()  # 5.2 standard errors
    with pytest.raises(AssertionError):
        assert_unbiased(samples + shift, 0.0)
    assert_unbiased(samples + shift, 0.0, family=100)


# ---- the one-sided and the counting ones ---------------------------------------------------------


def test_at_most():
    samples = RANDOM(5).normal(0.0, 1.0, 10_000)
    assert_at_most(samples, 0.0)
    assert_at_most(samples - 5, 0.0)
    with pytest.raises(AssertionError, match="exceeds"):
        assert_at_most(samples + 0.06, 0.0)


def test_frequencies():
    probabilities = np.array([0.5, 0.3, 0.1999, 1e-4, 0.0])
    counts = RANDOM(6).multinomial(50_000, probabilities)
    assert_frequencies(counts, probabilities, resolution=0.05)
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(counts, [0.48, 0.32, 0.1999, 1e-4, 0.0])
    with pytest.raises(AssertionError, match=r"Outcome 4: 1 of"):
        assert_frequencies(counts + np.array([0, 0, 0, 0, 1]), probabilities)
    with pytest.raises(AssertionError, match=r"Outcome 3"):
        assert_frequencies(counts + np.array([0, 0, 0, 40, 0]), probabilities)
    with pytest.raises(AssertionError, match="could miss"):
        assert_frequencies(counts, probabilities, resolution=0.001)
    with pytest.raises(ValueError, match="sum to"):
        assert_frequencies(counts, probabilities / 2)


def test_coverage():
    covered = RANDOM(7).random(400) < 0.9
    assert_coverage(covered, 0.9)
    assert_coverage(np.ones(400, bool), 0.9)
    with pytest.raises(AssertionError, match="320 of 400 intervals cover"):
        assert_coverage(np.arange(400) < 320, 0.9)


def test_a_biased_sampler_is_caught():
    """What the assertions are for: dropping the forced EOS changes the law."""
    target = Target(language(), max_new_tokens=2, eos="force")
    wrong = Target(language(), max_new_tokens=2)
    exact = enumerate_target(target)
    place = {tuple(row): m for m, row in enumerate(exact.tokens.tolist())}

    def counts(horizon):
        keys = jax.random.split(jax.random.key(0), (1, 4096))
        tokens, _ = generate(target.prior, target.xs, keys, horizon)
        drawn = [place[tuple(row)] for row in tokens[0].tolist() if tuple(row) in place]
        return np.bincount(drawn, minlength=len(place))

    assert_frequencies(counts(target.horizon), np.exp(exact.log_prior))
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(counts(wrong.horizon), np.exp(exact.log_prior))
