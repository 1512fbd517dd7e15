"""Quasi-rejection: its law, what it reports of it, and what happens when proposals run out."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_law
from samplers.language import (
    IN_PYTHON,
    LANGUAGE,
    LOG_ENDED,
    NO_TOKEN,
    TOKEN_BY_TOKEN,
    guide,
    replicated,
)
from scipy import stats

from bayesft._sample import sample
from bayesft.base import sequence_lengths
from bayesft.draws import Status
from bayesft.errors import EvidenceError, SamplerError
from bayesft.evidence import potential
from bayesft.priors import markov
from bayesft.priors.sequence import bind
from bayesft.samplers import (
    choose_log_beta,
    importance,
    quasi_rejection,
    quasi_rejection_diagnostics,
    rejection,
)
from bayesft.target import Target
from bayesft.testing import assert_frequencies, assert_unbiased, enumerate_target

RUNS, PER_RUN = 500, 16
LOG_BETA = 0.7
ACCEPTING = importlib.import_module("bayesft.samplers.accepting")


def law(exact, proposal, log_beta: float = LOG_BETA) -> tuple[np.ndarray, float]:
    """p_β of every outcome, and the acceptance rate."""
    log_q = log_proposal(exact, proposal)
    mass = np.exp(np.minimum(exact.log_prior + exact.log_evidence, log_beta + log_q))
    return mass / mass.sum(), mass.sum() / np.exp(log_beta)


def log_proposal(exact, proposal) -> np.ndarray:
    return exact.log_probs_of(LANGUAGE if proposal is None else proposal)


@pytest.mark.parametrize(
    ("evidence", "eos", "proposal"),
    [
        (TOKEN_BY_TOKEN, "truncate", None),
        (TOKEN_BY_TOKEN, "truncate", guide()),
        (IN_PYTHON, "condition", None),
        (TOKEN_BY_TOKEN, "condition", guide()),
        (TOKEN_BY_TOKEN, "force", guide()),
    ],
)
def test_law_and_estimates(evidence, eos, proposal):
    target = replicated(evidence, RUNS, eos)
    sampler = quasi_rejection(PER_RUN, LOG_BETA, proposal)
    draws, exact = sample(target, sampler, jax.random.key(0)), enumerate_target(target)
    assert (draws.status == Status.OK).all()
    probabilities, acceptance = law(exact, proposal)
    assert_law(draws, exact, probabilities, resolution=0.06)
    if proposal is None and eos == "truncate":
        with pytest.raises(AssertionError, match="frequencies are wrong"):  # it is not p*
            assert_law(draws, exact, np.exp(exact.log_probs))
    z = np.exp(np.asarray(draws.log_z, np.float64) - exact.log_z)
    assert_unbiased(z, 1.0, resolution=0.2, family=FAMILY)
    observed = (PER_RUN - 1) / (draws.info["num_proposals"] - 1)
    assert_unbiased(observed, acceptance, resolution=0.1, family=FAMILY)
    if eos == "condition":
        np.testing.assert_allclose(draws.log_ended, LOG_ENDED, atol=1e-5)


def test_the_distance_reported_is_that_of_its_own_proposals():
    target = replicated(TOKEN_BY_TOKEN, 3)
    draws = sample(target, quasi_rejection(200, LOG_BETA, guide()), jax.random.key(0))
    exact = enumerate_target(target)
    log_q = log_proposal(exact, guide())
    ratios = exact.log_prior + exact.log_evidence - log_q
    truth = quasi_rejection_diagnostics(ratios, LOG_BETA, log_probs=log_q)
    for p, row in enumerate(draws.info["log_ratios"]):
        assert row.size == draws.info["num_proposals"][p] - 1
        found = quasi_rejection_diagnostics(row, LOG_BETA)
        assert draws.info["tvd"][p] == found.tvd[0] and draws.info["kl"][p] == found.kl[0]
        for name in ("tvd", "kl"):
            off = draws.info[name][p] - getattr(truth, name)[0]
            assert abs(off) < 6 * draws.info[f"{name}_error"][p]


def poisson(scale: float) -> Target:
    """Prior Poisson(10), and evidence that makes it exp(scale) times Poisson(11)."""
    counts = np.arange(40)
    log_ratios = stats.poisson(11).logpmf(counts) - stats.poisson(10).logpmf(counts) + scale
    table = jnp.asarray(np.append(log_ratios, 0.0), jnp.float32)
    log_probs = np.append(stats.poisson(10).logpmf(counts), -np.inf)
    prior = markov(log_probs, np.zeros((41, 41)), eos=40)
    evidence = potential(lambda tokens, length: table[tokens[0]])
    return Target(prior, evidence, prompts=[""] * 200, max_new_tokens=1)


@pytest.mark.parametrize(("beta", "acceptance"), [(1, 0.8768), (2, 0.4982)])
def test_poisson(beta, acceptance):
    """β counts against the density as it stands: e^1.5·p at e^1.5·β is p at β."""
    target = poisson(1.5)
    draws = sample(target, quasi_rejection(128, np.log(beta) + 1.5), jax.random.key(0))
    observed = 127 / (draws.info["num_proposals"] - 1)
    assert_unbiased(observed, acceptance, resolution=0.05, family=FAMILY)
    counts = np.arange(40)
    mass = np.minimum(stats.poisson(11).pmf(counts), beta * stats.poisson(10).pmf(counts))
    found = np.bincount(np.asarray(draws.tokens).ravel(), minlength=40)
    assert_frequencies(found, mass / mass.sum(), resolution=0.06, family=FAMILY)


def test_where_the_constant_is_a_bound_it_is_rejection():
    target = replicated(TOKEN_BY_TOKEN, 50)
    draws = sample(target, quasi_rejection(8, 4.0), jax.random.key(0))
    exact = sample(target, rejection(8, 4.0), jax.random.key(0))
    assert (draws.tokens == exact.tokens).all()
    assert not draws.info["tvd"].any()


def test_one_beta_per_prompt_from_importance_weights():
    target = replicated(TOKEN_BY_TOKEN, 3)
    weights = sample(target, importance(500, guide()), jax.random.key(1)).log_weights
    log_betas = choose_log_beta(weights, tvd=0.1)
    draws = sample(target, quasi_rejection(8, log_betas, guide()), jax.random.key(0))
    for p in range(3):
        alone = quasi_rejection(8, float(log_betas[p]), bind(guide(), target.horizon))
        draws_alone = sample(target.select([p]), alone, jax.random.key(0))
        assert (draws_alone.tokens[0] == draws.tokens[p]).all()
    with pytest.raises(SamplerError, match="3 values for 2 prompts"):
        sample(target.select([0, 1]), quasi_rejection(8, log_betas), jax.random.key(0))


def test_exhausted_runs_keep_what_was_accepted_and_stay_unbiased():
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    sampler = quasi_rejection(8, LOG_BETA, max_proposals=12)
    draws, exact = sample(target, sampler, jax.random.key(0)), enumerate_target(target)
    exhausted = draws.status == Status.EXHAUSTED
    assert exhausted.any() and not exhausted.all()
    assert (draws.info["num_proposals"][exhausted] == 12).all()
    assert_law(draws, exact, law(exact, None)[0], resolution=0.1)
    z = np.exp(np.asarray(draws.log_z, np.float64) - exact.log_z)
    assert_unbiased(z, 1.0, resolution=0.4, family=FAMILY)


def test_nothing_possible():
    sampler = quasi_rejection(8, LOG_BETA, max_proposals=100)
    draws = sample(replicated(NO_TOKEN, 2), sampler, jax.random.key(0))
    assert (draws.status == Status.EXHAUSTED).all()
    assert np.isneginf(np.asarray(draws.log_z)).all() and not draws.weights.any()
    assert np.isnan(draws.info["tvd"]).all()


def test_one_draw_has_no_log_z():
    target = replicated(TOKEN_BY_TOKEN, 1)
    assert sample(target, quasi_rejection(1, LOG_BETA), jax.random.key(0)).log_z is None


def test_settings_are_checked():
    for beta in (-np.inf, np.nan, np.inf):  # log 0, the log of a negative number
        with pytest.raises(SamplerError, match="positive and finite"):
            quasi_rejection(2, beta)
    with pytest.raises(SamplerError, match="shape"):
        quasi_rejection(2, np.zeros((2, 2)))
    with pytest.raises(SamplerError, match="num_draws"):
        quasi_rejection(0, 0.0)
    with pytest.raises(SamplerError, match="max_proposals"):
        quasi_rejection(2, 0.0, max_proposals=0)
    with pytest.raises(SamplerError, match="cannot propose"):
        quasi_rejection(2, 0.0, proposal=replicated(None, 1))  # pyright: ignore
    other = markov(np.zeros(2), np.zeros((2, 2)), eos=1)
    with pytest.raises(SamplerError, match="EOS"):
        sample(replicated(None, 1), quasi_rejection(2, 0.0, other), jax.random.key(0))


def test_evidence_that_is_nan_is_an_error():
    target = replicated(potential(lambda tokens, length: jnp.nan * length), 1)
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(target, quasi_rejection(2, 0.0, guide()), jax.random.key(0))


# ---- planted bugs -------------------------------------------------------------------------------


def _without_the_prior(ratios, samples):
    """γ/q with φ for γ."""
    return samples.log_evidence


def _without_eos(ratios, samples):
    """EOS left out of both densities, as code does that takes it for padding."""
    token_log_probs = [
        jax.vmap(jax.vmap(lambda y, prior=prior: prior.token_log_probs(y, X, HORIZON)))(
            samples.tokens
        )
        for prior in (LANGUAGE, guide())
    ]
    length = sequence_lengths(jnp.asarray(samples.tokens), LANGUAGE.eos)
    model = np.asarray(token_log_probs[0] - token_log_probs[1])
    last = np.take_along_axis(model, np.asarray(length)[..., None] - 1, -1)[..., 0]
    ended = (samples.tokens == LANGUAGE.eos[0]).any(-1)
    return ratios - np.where(ended, last, 0.0)


def _after_the_end(ratios, samples):
    """The padding of a finished sequence weighted once more."""
    return ratios + 0.3 * (samples.tokens.shape[-1] - samples.lengths)


ONE = replicated(TOKEN_BY_TOKEN, 1)
X, HORIZON = jax.tree.map(lambda a: a[0], ONE.xs), ONE.horizon


@pytest.mark.parametrize("planted", [_without_the_prior, _without_eos, _after_the_end])
def test_a_wrong_ratio_is_caught(planted, monkeypatch):
    right = ACCEPTING.propose_from

    def wrong(*args):
        samples, ratios = right(*args)
        return samples, planted(ratios, samples)

    monkeypatch.setattr(ACCEPTING, "propose_from", wrong)
    target = replicated(TOKEN_BY_TOKEN, RUNS)
    sampler = quasi_rejection(PER_RUN, LOG_BETA, guide())
    draws, exact = sample(target, sampler, jax.random.key(0)), enumerate_target(target)
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_law(draws, exact, law(exact, guide())[0])


def test_counting_the_last_acceptance_is_caught():
    target = replicated(TOKEN_BY_TOKEN, 1000)
    draws = sample(target, quasi_rejection(2, 3.0), jax.random.key(0))
    exact = enumerate_target(target)
    biased = 2 / draws.info["num_proposals"]
    with pytest.raises(AssertionError, match="means are wrong"):
        assert_unbiased(biased, law(exact, None, 3.0)[1], family=FAMILY)
