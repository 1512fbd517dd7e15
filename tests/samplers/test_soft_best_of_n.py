"""Soft best-of-n: its law, by listing n-tuples of prior samples."""

import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import FAMILY
from samplers.language import HAS_AB, IN_PYTHON, LANGUAGE, NO_TOKEN, TOKEN_BY_TOKEN
from samplers.test_selection_distance import chosen_of

from bayesft._sample import sample
from bayesft.draws import Status
from bayesft.errors import EvidenceError, SamplerError
from bayesft.evidence import potential
from bayesft.samplers import best_of_n, soft_best_of_n
from bayesft.target import Target
from bayesft.testing import assert_frequencies, assert_unbiased, enumerate_target

N = 3
KEY = jax.random.key(0)
SOFT = importlib.import_module("bayesft.samplers.soft_best_of_n")


def short(evidence, num_runs: int = 100, eos="truncate") -> Target:
    """At most two tokens: seven outcomes, of which 343 triples."""
    return Target(LANGUAGE, evidence, prompts=[""] * num_runs, max_new_tokens=2, eos=eos)


def law(exact, temperature: float) -> np.ndarray:
    """Probability of every outcome, and last of an impossible draw."""
    prior = np.append(np.exp(exact.log_prior), 0.0)
    prior[-1] = max(0.0, 1 - prior.sum())
    values = np.append(np.where(np.isneginf(exact.log_prior), -np.inf, exact.log_evidence), -np.inf)
    found = np.zeros(len(prior))
    for rows in map(list, itertools.product(range(len(prior)), repeat=N)):
        chosen = chosen_of(values[rows].round(5), temperature)
        np.add.at(found, rows, prior[rows].prod() * chosen)
    impossible = np.isneginf(values)
    return np.append(np.where(impossible, 0, found)[:-1], found[impossible].sum())


def counts(draws, exact) -> np.ndarray:
    index = np.zeros(9, int)
    digits = 3 ** np.arange(2)
    index[exact.tokens @ digits] = np.arange(7)
    possible = np.asarray(draws.log_weights) == 0
    found = index[np.asarray(draws.tokens) @ digits][possible]
    return np.append(np.bincount(found, minlength=7), (~possible).sum())


@pytest.mark.parametrize(
    ("evidence", "eos", "temperature"),
    [
        (TOKEN_BY_TOKEN, "truncate", 1.0),
        (2 * IN_PYTHON, "condition", 0.5),
        (TOKEN_BY_TOKEN + HAS_AB, "condition", 1.0),
        (TOKEN_BY_TOKEN, "force", 2.0),
    ],
)
def test_law(evidence, eos, temperature):
    target = short(evidence, eos=eos)
    sampler = soft_best_of_n(N, 128, temperature)
    draws, exact = sample(target, sampler, jax.random.key(0)), enumerate_target(target)
    assert draws.log_z is None and set(np.unique(draws.log_weights)) <= {0.0, -np.inf}
    if eos == "force":  # its outcomes are fewer
        digits = 3 ** np.arange(2)
        index = np.zeros(9, int)
        index[exact.tokens @ digits] = np.arange(len(exact.tokens))
        found = np.bincount(index[np.asarray(draws.tokens) @ digits].ravel(), minlength=3)
        expected = law(exact, temperature)[:-1]
    else:
        found, expected = counts(draws, exact), law(exact, temperature)
    assert_frequencies(found, expected, resolution=0.06, family=FAMILY)


def test_kl_and_win_rate_beside_their_bounds():
    target = short(TOKEN_BY_TOKEN)
    draws = sample(target, soft_best_of_n(N, 128), jax.random.key(0))
    exact = enumerate_target(target)
    p, prior, values = law(exact, 1.0)[:-1], np.exp(exact.log_prior), exact.log_evidence.round(5)
    below = (prior * (values < values[:, None])).sum(1)
    equal = (prior * (values == values[:, None])).sum(1)
    for name, truth in (
        ("kl", np.sum(p * np.log(p / prior))),
        ("win_rate", np.sum(p * (below + equal / 2))),
    ):
        assert_unbiased(draws.info[name], truth, resolution=0.05, family=FAMILY)
        assert truth < draws.info[f"{name}_bound"]


def test_cold_is_best_of_n_and_hot_is_the_prior():
    target = short(potential(lambda tokens, length: tokens[0] + 0.3 * tokens[1] - 0.1 * length))
    cold = sample(target, soft_best_of_n(N, 16, 1e-9), jax.random.key(0))
    best = sample(target, best_of_n(N, 16), jax.random.key(0))
    np.testing.assert_array_equal(cold.log_evidence, best.log_evidence)
    hot = sample(target, soft_best_of_n(N, 128, 1e6), jax.random.key(0))
    exact = enumerate_target(target)
    prior = np.append(np.exp(exact.log_prior), 0.0)
    assert_frequencies(counts(hot, exact), prior, resolution=0.06, family=FAMILY)


def test_nothing_possible():
    draws = sample(short(NO_TOKEN, 3), soft_best_of_n(N, 8), jax.random.key(0))
    assert (draws.status == Status.ALL_DEAD).all() and not draws.weights.any()


def test_batches_do_not_change_what_is_drawn(monkeypatch):
    target = short(TOKEN_BY_TOKEN)
    draws = sample(target, soft_best_of_n(N, 10), jax.random.key(0))
    monkeypatch.setattr(importlib.import_module("bayesft.samplers.selection"), "MAX_ROWS", 900)
    again = sample(target, soft_best_of_n(N, 10), jax.random.key(0))
    assert (again.tokens == draws.tokens).all()


def test_settings_are_checked():
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SamplerError, match="temperature"):
            soft_best_of_n(4, 8, temperature)
    with pytest.raises(SamplerError, match="n=0"):
        soft_best_of_n(0, 8)
    with pytest.raises(SamplerError, match="num_draws"):
        soft_best_of_n(4, 0)


def test_evidence_that_is_nan_is_an_error():
    nan = potential(lambda tokens, length: jnp.nan * length)
    with pytest.raises(EvidenceError, match="not a log-potential"):
        sample(short(nan, 1), soft_best_of_n(N, 2), jax.random.key(0))


# ---- planted bugs -------------------------------------------------------------------------------


def test_a_temperature_that_multiplies_is_caught():
    target = short(TOKEN_BY_TOKEN)
    draws, exact = sample(target, soft_best_of_n(N, 128, 2.0), KEY), enumerate_target(target)
    assert_frequencies(counts(draws, exact), law(exact, 2.0), family=FAMILY)
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(counts(draws, exact), law(exact, 0.5), family=FAMILY)


def test_a_selection_by_position_is_caught(monkeypatch):
    """One uniform for all draws of a prompt: their positions no longer vary."""
    monkeypatch.setattr(SOFT, "log_uniform", lambda keys, number: jnp.full(keys.shape, -1e-6))
    target = short(TOKEN_BY_TOKEN)
    draws, exact = sample(target, soft_best_of_n(N, 128), KEY), enumerate_target(target)
    with pytest.raises(AssertionError, match="frequencies are wrong"):
        assert_frequencies(counts(draws, exact), law(exact, 1.0), family=FAMILY)
