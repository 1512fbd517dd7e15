"""Certificates against enumeration: coverage, and how they are called."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnostics.certified import (
    COUNT,
    LEVEL,
    SMALL,
    guide,
    language,
    many,
    require_coverage,
    truths,
)

from bayesft.base import Claim
from bayesft.diagnostics import certify, posterior
from bayesft.errors import GuideError, SamplerError
from bayesft.evidence import constraint, reward
from bayesft.priors import empirical, markov, trainable
from bayesft.target import Target
from bayesft.testing import enumerate_target

MODULE = sys.modules["bayesft.diagnostics.certify"]  # the name in the room is the function


@pytest.fixture(scope="module", params=["truncate", "condition", "force"])
def run(request):
    target = many(eos=request.param)
    return target, certify(target, guide(), jax.random.key(0), level=LEVEL, **SMALL)


# ---- the claim -----------------------------------------------------------------------------------


def test_intervals_cover_at_their_level(run):
    target, certificate = run
    require_coverage(certificate, truths(target, guide()))
    assert certificate.certified.all()
    if target.horizon.eos_policy == "condition":
        assert (certificate.reverse_kl.upper == np.inf).all()  # cut sequences are impossible
    else:
        for end in ("lower", "upper"):
            reverse, restricted = certificate.reverse_kl, certificate.restricted_kl
            assert (getattr(reverse, end) == getattr(restricted, end)).all()


def test_intervals_are_informative(run):
    _, certificate = run
    for name, width in (("log_z", 1.0), ("restricted_kl", 2.0), ("forward_kl", 3.0)):
        interval = getattr(certificate, name)
        assert (interval.lower <= interval.upper).all()
        assert np.median(interval.upper - interval.lower) < width


@pytest.mark.parametrize("evidence", ["hard", "soft"])
def test_coverage_with_exact_draws_by_rejection(monkeypatch, evidence):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    no_ab = constraint(
        lambda completions: ["ab" not in text for text in completions],
        **({} if evidence == "hard" else {"log_penalty": -2.0}),
    )
    target = many(COUNT + no_ab)
    certificate = certify(target, guide(), jax.random.key(1), level=LEVEL, **SMALL)
    assert certificate.posterior_draws.claim.detail.startswith("independent draws")
    require_coverage(certificate, truths(target, guide()))
    assert (certificate.violation_rate > 0).any() == (evidence == "hard")


def test_a_perfect_guide_has_distance_0():
    target = Target(language(), COUNT, max_new_tokens=4)
    exact = enumerate_target(target)
    rows = [row[:n].tolist() for row, n in zip(exact.tokens, exact.lengths, strict=True)]
    perfect = trainable(empirical(rows, vocab_size=3, eos=2))
    perfect = perfect.with_params({".log_weights": jnp.asarray(exact.log_probs, jnp.float32)})
    certificate = certify(target, perfect, jax.random.key(0))
    assert certificate.log_z.contains(exact.log_z).all()
    assert certificate.reverse_kl.upper[0] < 0.1
    assert certificate.forward_kl.upper[0] < 0.2
    assert certificate.ess[0] > 0.999


def test_more_particles_tighten_the_bounds():
    target = Target(language(), COUNT, max_new_tokens=4)
    widths = [
        (lambda z: z.upper[0] - z.lower[0])(
            certify(target, guide(), jax.random.key(0), num_particles=n, num_repeats=64).log_z
        )
        for n in (4, 64)
    ]
    assert widths[1] < 0.5 * widths[0]


def test_a_prompt_in_a_batch_equals_the_prompt_alone():
    def certified(prompts):
        target = Target(language(), COUNT, prompts=prompts, max_new_tokens=4)
        return certify(target, guide(), jax.random.key(3), **SMALL)

    batch, alone = certified(["a", "bb", ""]), certified(["bb"])
    for name in ("log_z", "reverse_kl", "forward_kl"):
        one, other = getattr(batch, name), getattr(alone, name)
        np.testing.assert_allclose(one.lower[1], other.lower[0], atol=1e-5)
        np.testing.assert_allclose(one.upper[1], other.upper[0], atol=1e-5)
    again = certified(["a", "bb", ""])
    assert (again.log_z.lower == batch.log_z.lower).all()


# ---- how it is called ----------------------------------------------------------------------------


def test_python_evidence_is_called_once_per_batch():
    sizes = []

    def count(completions):
        sizes.append(len(completions))
        return [text.count("a") for text in completions]

    target = Target(
        language(), reward(count, 1.0, bounds=(0, 4)), prompts=["a", "b"], max_new_tokens=4
    )
    certify(target, guide(), jax.random.key(0), num_particles=8, num_repeats=4)
    assert sorted(sizes) == [2 * 4 * 4, 2 * 4 * 4, 2 * 31]


def test_draws_are_shared_between_certificates(monkeypatch):
    target = many()
    before = certify(target, guide(2.0), jax.random.key(0), **SMALL)
    monkeypatch.setattr(MODULE, "draw_posterior", None)
    after = certify(
        target, guide(), jax.random.key(1), posterior_draws=before.posterior_draws, **SMALL
    )
    assert after.certified.all()
    require_coverage(after, truths(target, guide()))
    few = jax.tree.map(lambda a: a, before.posterior_draws)
    few = dataclasses.replace(
        few,
        **{
            name: getattr(few, name)[:, :4]
            for name in ("tokens", "lengths", "log_weights", "log_prior", "log_evidence")
        },
    )
    shorter = certify(target, guide(), jax.random.key(1), posterior_draws=few, **SMALL)
    require_coverage(shorter, truths(target, guide()))


def test_a_better_proposal_tightens_the_certificate_of_a_bad_guide():
    target = many()
    bad = guide(3.0)
    alone = certify(target, bad, jax.random.key(0), **SMALL)
    helped = certify(target, bad, jax.random.key(0), proposal=guide(), **SMALL)
    require_coverage(helped, truths(target, bad))
    width = [np.median(c.log_z.upper - c.log_z.lower) for c in (alone, helped)]
    assert width[1] < width[0]


def test_the_prior_itself_can_be_certified():
    target = Target(language(), COUNT, max_new_tokens=4)
    certificate = certify(target, language(), jax.random.key(0))
    require = {"reverse_kl": enumerate_target(target).reverse_kl(language())}
    assert certificate.reverse_kl.contains(require["reverse_kl"])[0]


@pytest.mark.parametrize("level", [0.0, 1.0, 90, "0.9", None])
def test_levels_are_probabilities(level):
    with pytest.raises(SamplerError, match="level="):
        certify(many(), guide(), jax.random.key(0), level=level)


def test_what_does_not_fit_is_refused():
    target = Target(language(), COUNT, max_new_tokens=4)
    key = jax.random.key(0)
    with pytest.raises(GuideError, match="needs a target and a guide"):
        certify(guide(), target, key)
    with pytest.raises(GuideError, match=r"\(V, EOS\) = \(2, \(1,\)\)"):
        certify(target, markov(np.zeros(2), np.zeros((2, 2)), eos=1), key)
    with pytest.raises(SamplerError, match="num_particles"):
        certify(target, guide(), key, num_particles=0)
    with pytest.raises(SamplerError, match="single typed JAX key"):
        certify(target, guide(), jax.random.PRNGKey(0))
    for options in ({"proposal": "x"}, {"posterior_draws": np.zeros((1, 1, 4))}):
        with pytest.raises(SamplerError, match="takes a prior as proposal and draws"):
            certify(target, guide(), key, **options)
    other = Target(language(), COUNT, max_new_tokens=3)
    draws = certify(other, guide(), key, **SMALL).posterior_draws
    with pytest.raises(SamplerError, match="draws of another target"):
        certify(target, guide(), key, posterior_draws=draws)
    hard = constraint(lambda completions: ["a" not in text for text in completions])
    strict = Target(language(), hard, max_new_tokens=3)
    impossible = dataclasses.replace(
        draws, claim=Claim("exact draws"), log_evidence=jnp.full(draws.log_evidence.shape, -jnp.inf)
    )
    with pytest.raises(SamplerError, match="has density 0"):
        certify(strict, guide(), key, posterior_draws=impossible)


def test_the_table_is_readable():
    target = Target(language(), COUNT, prompts=["a", "bb"], max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0))
    lines = str(certificate).splitlines()
    assert lines[0].strip() == "level 0.9, 64 groups of 64 particles"
    assert lines[1].split()[:5] == ["prompt", "log", "Z", "KL(q‖p*)", "KL(p*‖q)"]
    assert lines[4].split()[0] == "bb"
    assert f"[{certificate.log_z.lower[1]:.3f}, {certificate.log_z.upper[1]:.3f}]" in lines[4]
    assert "… and 380 more prompts" in str(certify(many(), guide(), jax.random.key(0), **SMALL))
