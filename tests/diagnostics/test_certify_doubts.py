"""What certificates do not vouch for, and that they say so."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diagnostics.certified import (
    COUNT,
    count_a,
    guide,
    language,
    truths,
)

from bayesft.diagnostics import certify, posterior
from bayesft.evidence import constraint, potential, reward
from bayesft.priors import markov
from bayesft.samplers import importance
from bayesft.target import Target
from bayesft.testing import enumerate_target

MODULE = sys.modules["bayesft.diagnostics.certify"]  # the name in the room is the function


def test_unbounded_evidence_is_not_certified(monkeypatch):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    target = Target(language(), potential(count_a), max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0))
    assert not certificate.certified.any()
    assert "not certified: the evidence declares no upper bound" in str(certificate)
    assert str(certificate).count("not certified") == 2  # instead of KL(p*‖q), and in the note
    exact = enumerate_target(target)
    assert certificate.log_z.lower[0] < exact.log_z
    assert certificate.reverse_kl.lower[0] < exact.reverse_kl(guide())
    again = certify(target, guide(), jax.random.key(1), posterior_draws=certificate.posterior_draws)
    assert not again.certified.any()


def test_weighted_draws_may_be_given_but_do_not_certify():
    target = Target(language(), COUNT, max_new_tokens=4)
    draws = importance(256).run(target, jax.random.key(0))
    certificate = certify(target, guide(), jax.random.key(1), posterior_draws=draws)
    assert not certificate.certified.any()
    assert "are not exact (proper weights" in str(certificate)


def test_rare_acceptance_falls_back_prompt_by_prompt(monkeypatch):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    monkeypatch.setattr(posterior, "PROPOSALS_PER_DRAW", 4)
    evidence = potential(
        lambda tokens, length: jnp.where(tokens[0] == 0, 0.0, -8.0), bounds=(-8, 0)
    )
    prior = markov(
        np.log([1.0, 0.0, 0.0] @ np.eye(3) + 1e-12),
        np.log([[0.999, 0.0005, 0.0005], [0.0005, 0.999, 0.0005], [1, 1, 1]]),
        eos=2,
        vocabulary=("a", "b", ""),
    )
    target = Target(prior, evidence, prompts=["a", "b"], max_new_tokens=4)
    certificate = certify(target, prior, jax.random.key(0), num_repeats=16)
    assert certificate.certified.tolist() == [True, False]
    assert "of 64 proposals, so posterior draws are SMC's" in certificate.notes[1][0]
    reused = certify(
        target,
        prior,
        jax.random.key(1),
        num_repeats=16,
        posterior_draws=certificate.posterior_draws,
    )
    assert reused.certified.tolist() == [True, False]


@pytest.mark.parametrize("listed", [True, False])
def test_nothing_possible(monkeypatch, listed):
    if not listed:
        monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    never = constraint(lambda completions: [False] * len(completions), name="never")
    target = Target(language(), never, max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0), num_repeats=4)
    assert certificate.log_z.lower[0] == -np.inf
    assert certificate.violation_rate[0] == 1.0
    assert certificate.ess[0] == 0.0
    assert not certificate.certified.any()
    assert "no sequence of positive density was found" in str(certificate)
    assert "nan" not in str(certificate)


def test_a_constraint_that_the_guide_violates():
    hard = constraint(lambda completions: ["ab" not in text for text in completions])
    target = Target(language(), hard, max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0))
    truth = truths(target, guide())
    assert certificate.reverse_kl.lower[0] == np.inf
    assert certificate.restricted_kl.contains(truth["restricted_kl"])[0]
    assert "of 2048 guide draws are impossible under the target, so KL(q‖p*) = ∞" in str(
        certificate
    )


def test_a_constraint_that_no_draw_violates():
    hard = constraint(lambda completions: [len(text) < 9 for text in completions])
    certificate = certify(Target(language(), hard, max_new_tokens=4), guide(), jax.random.key(0))
    assert certificate.reverse_kl.upper[0] == np.inf
    assert np.isfinite(certificate.restricted_kl.upper[0])
    assert "none of 2048 guide draws violates a hard constraint (rate below 0." in str(certificate)


def test_a_guide_that_misses_outcomes():
    with np.errstate(divide="ignore"):
        narrow = markov(np.log([1.0, 0.0, 0.0]), np.log([[0.5, 0, 0.5]] * 3), eos=2)
    target = Target(language(), COUNT, max_new_tokens=4)
    certificate = certify(target, narrow, jax.random.key(0))
    exact = enumerate_target(target)
    assert certificate.forward_kl.lower[0] == np.inf
    assert certificate.log_z.contains(exact.log_z)[0]  # the prior's half covers the rest
    assert certificate.reverse_kl.contains(exact.reverse_kl(narrow))[0]


def test_evidence_that_changes_between_calls_is_a_contradiction():
    calls = []

    def drifting(completions):
        calls.append(1)
        return [-2.0 * len(calls) + 0.01 * len(text) for text in completions]

    target = Target(language(), reward(drifting, beta=1.0), max_new_tokens=4)
    certificate = certify(target, guide(), jax.random.key(0), proposal=language())
    assert len(calls) == 4
    assert not certificate.certified.any()
    assert "contradict each other" in str(certificate)


# ---- where numbers cannot be trusted, the table says so ------------------------------------------


def cells(certificate):
    """The cells of a certificate of one prompt: log Z, both divergences, ESS, k̂."""
    row = str(certificate).splitlines()[3]
    return [cell.strip() for cell in row.split("  ") if cell.strip()]


def test_limits_far_apart_are_not_printed():
    target = Target(language(), 4.0 * COUNT, max_new_tokens=4)
    certificate = certify(target, guide(3.0), jax.random.key(0), num_particles=2, num_repeats=8)
    assert certificate.certified.all()
    assert not certificate.tight.any()
    log_z, reverse, forward = cells(certificate)[:3]
    assert log_z.startswith("≥")
    assert reverse.startswith("≥")
    assert forward == "limits apart"
    assert "limits apart: log Z lies between" in str(certificate)
    sure = certify(target, guide(), jax.random.key(0), num_particles=512, num_repeats=64)
    assert sure.tight.all()
    assert cells(sure)[0].startswith("[")


def test_without_exact_draws_no_upper_limit_is_printed(monkeypatch):
    monkeypatch.setattr(posterior, "MAX_LISTED", 0)
    target = Target(language(), potential(count_a), max_new_tokens=4)
    log_z, reverse, forward = cells(certify(target, guide(), jax.random.key(0)))[:3]
    assert log_z.startswith("≥")
    assert reverse.startswith("≥")
    assert forward == "not certified"


def spread_out():
    """A long walk whose evidence has a long tail under it, and a guide that is the prior."""
    start, rows = np.log([0.55, 0.35, 0.1]), np.log([[0.55, 0.35, 0.1]] * 3)
    walk = markov(start, rows, eos=2, vocabulary=("a", "b", ""))
    return Target(walk, 1.5 * potential(count_a, bounds=(0, 64)), max_new_tokens=64), walk


def test_a_large_k_is_said_instead_of_the_ess():
    pytest.importorskip("arviz_stats")
    target, walk = spread_out()
    certificate = certify(target, walk, jax.random.key(0))
    assert certificate.pareto_k[0] > 0.7
    assert "k̂ too large" in str(certificate)
    assert "no finite variance, and no known ESS" in str(certificate)
    assert "heavy tails: the weights behind the bounds have k̂ > 0.7" in str(certificate)
