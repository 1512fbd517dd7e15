"""Best-of-n: its own law, by enumeration."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY, assert_law
from samplers.language import HAS_AB, IN_PYTHON, LOG_ENDED, NO_TOKEN, TOKEN_BY_TOKEN, replicated

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import SamplerError
from bayesft.evidence import potential
from bayesft.priors import markov
from bayesft.samplers import best_of_n
from bayesft.target import Target
from bayesft.testing import assert_frequencies, assert_unbiased, enumerate_target

SELECTION = importlib.import_module("bayesft.samplers.selection")


def law(log_prior, log_evidence, n: int) -> np.ndarray:
    """Probability π0(y)·(F(φ)ⁿ − F(φ−)ⁿ)/P(φ) of every outcome; impossible ones rank last."""
    prior = np.exp(log_prior)
    values = np.round(np.where(np.isneginf(log_prior), -np.inf, log_evidence), 4)
    at_most = (prior * (values[None] <= values[:, None])).sum(1) + (1 - prior.sum())
    equal = (prior * (values[None] == values[:, None])).sum(1)
    chosen = at_most**n - np.maximum(at_most - equal, 0) ** n
    possible = values > -np.inf
    return np.where(possible, prior * chosen / np.where(equal > 0, equal, 1), 0.0)


@pytest.mark.parametrize(
    ("evidence", "eos"),
    [(TOKEN_BY_TOKEN, "truncate"), (IN_PYTHON, "condition"), (HAS_AB, "condition")],
)
def test_law(evidence, eos):
    target = replicated(evidence, 100, eos)
    draws, exact = sample(target, best_of_n(4, 128), jax.random.key(0)), enumerate_target(target)
    assert draws.log_z is None
    probabilities = law(exact.log_prior, exact.log_evidence, 4)
    # Draws of weight 0, where even the best is impossible, are as frequent as the law leaves room.
    impossible = int(np.isneginf(np.asarray(draws.log_weights)).sum())
    rest = [12800 - impossible, impossible]
    assert_frequencies(rest, [probabilities.sum(), 1 - probabilities.sum()], family=FAMILY)
    assert_law(draws, exact, probabilities / probabilities.sum(), resolution=0.08)
    if eos == "condition":
        np.testing.assert_allclose(draws.log_ended, LOG_ENDED, atol=1e-5)


def test_ten_distinct_rewards():
    log_probs = np.log(np.append(np.full(10, 0.1), 1e-30)).astype(np.float32)
    prior = markov(log_probs, np.zeros((11, 11)), eos=10)
    reward = potential(lambda tokens, length: tokens[0].astype(jnp.float32))
    target = Target(prior, reward, prompts=[""] * 100, max_new_tokens=1)
    draws = sample(target, best_of_n(4, 128), jax.random.key(0))
    p = law(np.log(np.full(10, 0.1)), np.arange(10.0), 4)
    assert np.sum(p * np.log(p / 0.1)) == pytest.approx(0.628825, abs=1e-6)
    assert np.sum(p * np.log(p / 0.1)) < np.log(4) - 3 / 4
    assert draws.info["kl_bound"] == pytest.approx(np.log(4) - 3 / 4)
    for name, exact in (("kl", 0.628825), ("win_rate", np.sum(p * (np.arange(10) + 0.5)) / 10)):
        assert_unbiased(draws.info[name], exact, resolution=0.02, family=FAMILY)
        assert exact < draws.info[f"{name}_bound"]
    counts = np.bincount(np.asarray(draws.tokens).ravel(), minlength=10)
    assert_frequencies(counts, p, resolution=0.06, family=FAMILY)
    with pytest.raises(AssertionError, match="frequencies are wrong"):  # planted bug: one too few
        assert_frequencies(counts, law(np.log(np.full(10, 0.1)), np.arange(10.0), 3), family=FAMILY)


def test_the_first_of_equals_wins():
    """Without evidence all n are equal, and the draws are the samples number 0, n, 2n, …"""
    target = replicated(None, 1)
    every = sample(target, best_of_n(1, 64), jax.random.key(0))
    best = sample(target, best_of_n(4, 16), jax.random.key(0))
    assert (best.tokens == every.tokens[:, ::4]).all()


def test_batches_do_not_change_what_is_drawn(monkeypatch):
    target = replicated(TOKEN_BY_TOKEN, 100)
    draws = sample(target, best_of_n(4, 10), jax.random.key(0))
    monkeypatch.setattr(SELECTION, "MAX_ROWS", 1200)  # three draws at a time
    again = sample(target, best_of_n(4, 10), jax.random.key(0))
    assert (again.tokens == draws.tokens).all()


def test_nothing_possible():
    draws = sample(replicated(NO_TOKEN, 100), best_of_n(4, 8), jax.random.key(0))
    assert (draws.status == Status.ALL_DEAD).all() and not draws.weights.any()


def test_settings_are_checked():
    with pytest.raises(SamplerError, match="n=0"):
        best_of_n(0, 8)
    with pytest.raises(SamplerError, match="num_draws"):
        best_of_n(4, 0)
