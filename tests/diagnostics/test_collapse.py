"""Entropy and overlap against enumeration, distinct-n by hand, and planted bugs."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import IN_JAX, LANGUAGE, NOTHING, guide, replicated

from bayesft.diagnostics import collapse
from bayesft.diagnostics.collapse import _ngrams, overlap
from bayesft.errors import DiagnosticError
from bayesft.priors import markov
from bayesft.samplers import best_of_n, importance, rejection
from bayesft.testing import assert_coverage, enumerate_target

NUM = 2048
SURE = 1 - 1e-6 / 30


@functools.cache
def exact():
    return enumerate_target(replicated(IN_JAX, 1))


def grams(text):
    return [_ngrams(list(text), n) for n in (1, 2, 3)]


@functools.cache
def all_overlaps():
    rows = [grams(row[row != 2]) for row in exact().tokens]
    return np.array([[overlap(a, b) for b in rows] for a in rows])


def truths(log_probs):
    """Entropy, mean length and overlap of two independent draws, by enumeration."""
    p = np.exp(log_probs)
    return -p @ log_probs, p @ exact().lengths, p @ all_overlaps() @ p


@functools.cache
def found():
    target, key = replicated(IN_JAX, 1), jax.random.key(0)
    given = {
        "weighted": importance(4 * NUM).run(target, key),
        "exact": rejection(NUM).run(target, key),
        "best": best_of_n(4, NUM).run(target, key),
    }
    return collapse(target, key, guides={"guide": guide()}, draws=given, num_samples=NUM)


def require(variety, log_probs):
    entropy, length, shared = truths(log_probs)
    half = 0.01 if variety.name in ("weighted", "exact") else 1e-5  # log Z is estimated as well
    assert variety.entropy.interval(SURE).widened(half).contains(entropy)[0]
    assert variety.self_overlap.interval(SURE).contains(shared)[0]
    assert variety.mean_length[0] == pytest.approx(length, abs=6 * 1.5 / math.sqrt(NUM))


@pytest.mark.parametrize("name", ["prior", "guide", "weighted", "exact"])
def test_entropy_and_overlap_are_those_of_enumeration(name):
    of = {"prior": exact().log_prior, "guide": exact().log_probs_of(guide())}
    require(found()[name], of.get(name, exact().log_probs))


def test_one_draw_that_holds_nearly_all_of_the_weight_ends():
    """Pairs of different draws are then as rare as one in 1e17, and found all the same."""
    target = replicated(IN_JAX, 1)
    draws = importance(NUM).run(target, jax.random.key(0))
    steep = draws.log_weights.at[:, 1:].set(-40.0).at[:, 0].set(0.0)
    draws = dataclasses.replace(draws, log_weights=steep)
    found = collapse(target, jax.random.key(1), draws={"steep": draws}, num_samples=64)
    overlap_of = {row.name: row.self_overlap.value[0] for row in found.rows}
    assert 0 <= overlap_of["steep"] <= 1


def test_left_out_weights_are_caught():
    target = replicated(IN_JAX, 1)
    draws = importance(NUM).run(target, jax.random.key(0))
    bare = dataclasses.replace(draws, log_weights=jnp.zeros_like(draws.log_weights))
    variety = collapse(target, jax.random.key(1), draws={"weighted": bare}, num_samples=NUM)
    with pytest.raises(AssertionError):
        require(variety["weighted"], exact().log_probs)


def test_entropy_intervals_cover():
    target = replicated(IN_JAX, 400)
    row = collapse(target, jax.random.key(3), guides={"guide": guide()}, num_samples=64)["guide"]
    entropy, _, shared = truths(exact().log_probs_of(guide()))
    assert_coverage(row.entropy.interval(0.9).contains(entropy), 0.9, family=2)
    assert_coverage(row.self_overlap.interval(0.9).contains(shared), 0.9, family=2)


def test_entropy_of_another_law_is_not_known():
    assert found()["best"].entropy is None
    assert found()["best"].entropy_per_token is None
    assert "does not say what their log-probs are" in str(found())


def test_overlap_by_hand():
    assert overlap(grams("abab"), grams("abab")) == 1
    assert overlap(grams("aa"), grams("bb")) == 0
    assert overlap(grams(""), grams("")) == 1
    assert overlap(grams(""), grams("a")) == 0
    # unigrams: min(2, 1) a + min(1, 2) b of 3 each; bigrams: ab of {aa, ab} and {ab, bb}; no aab
    assert overlap(grams("aab"), grams("abb")) == pytest.approx((4 / 6 + 2 / 4 + 0) / 3)


def test_distinct_by_hand():
    target = replicated(IN_JAX, 1)
    draws = rejection(3).run(target, jax.random.key(0))
    tokens = jnp.array([[[0, 1, 2, 2], [0, 1, 0, 2], [2, 2, 2, 2]]])  # ab, aba and nothing
    draws = dataclasses.replace(draws, tokens=tokens, lengths=jnp.array([[3, 4, 1]]))
    by_tokens = collapse(target, jax.random.key(0), draws={"d": draws}, num_samples=3)["d"]
    np.testing.assert_allclose(by_tokens.distinct[0], [2 / 5, 2 / 3, 1 / 1])
    np.testing.assert_allclose(by_tokens.mean_length, 8 / 3)
    by_words = collapse(
        target, jax.random.key(0), draws={"d": draws}, num_samples=3, split=lambda text: [text]
    )["d"]
    np.testing.assert_allclose(by_words.distinct[0], [1, np.nan, np.nan])


def test_distinct_looks_at_all_chains():
    """Draws of a chain stand together; the first ones alone would show its first state twice."""
    target = replicated(IN_JAX, 1)
    draws = rejection(4).run(target, jax.random.key(0))
    tokens = jnp.array([[[0, 2, 2, 2], [0, 2, 2, 2], [1, 2, 2, 2], [1, 2, 2, 2]]])
    draws = dataclasses.replace(draws, tokens=tokens, lengths=jnp.full((1, 4), 2))
    found = collapse(target, jax.random.key(0), draws={"d": draws}, num_samples=2)["d"]
    assert found.distinct[0, 0] == 1


def test_a_collapsed_guide_is_seen():
    sharp = guide().with_params(jax.tree.map(lambda a: 8.0 * a, guide().params))
    table = collapse(replicated(IN_JAX, 1), jax.random.key(0), guides={"sharp": sharp})
    sharp, prior = table["sharp"], table["prior"]
    assert sharp.entropy.value[0] < 0.5 * prior.entropy.value[0]
    assert sharp.entropy_per_token[0] < prior.entropy_per_token[0]
    assert sharp.self_overlap.value[0] > prior.self_overlap.value[0]


def test_prompts_alone_and_in_a_batch():
    def of(num):
        return collapse(replicated(IN_JAX, num), jax.random.key(0), num_samples=32)["prior"]

    batch, alone = of(3), of(1)
    np.testing.assert_allclose(batch.entropy.value[:1], alone.entropy.value, rtol=1e-6)
    np.testing.assert_allclose(batch.distinct[:1], alone.distinct)
    np.testing.assert_allclose(batch.self_overlap.value[:1], alone.self_overlap.value)


def test_the_table_says_what_stands_behind_it():
    lines = str(found()).splitlines()
    assert lines[0].strip() == f"{NUM} draws each, n-grams of tokens"
    assert [line.split()[0] for line in lines[3:8]] == [
        "prior",
        "guide",
        "weighted",
        "exact",
        "best",
    ]
    target, key = replicated(IN_JAX, 2), jax.random.key(0)
    few = importance(64).run(target, key)
    table = str(collapse(target, key, draws={"few": few}, num_samples=64, split=str.split))
    assert "n-grams of split, means over 2 prompts" in table
    assert "effective draws stand for 64" in table


def test_dead_draws_have_no_variety():
    target, key = replicated(NOTHING, 1), jax.random.key(0)
    row = collapse(target, key, draws={"dead": importance(8).run(target, key)}, num_samples=8)
    assert np.isnan(row["dead"].self_overlap.value[0])
    assert row["dead"].ess[0] == 0
    assert "nan" not in str(row)


def test_what_does_not_fit_is_refused():
    target, key = replicated(IN_JAX, 1), jax.random.key(0)
    with pytest.raises(DiagnosticError, match="same name"):
        collapse(target, key, guides={"prior": LANGUAGE})
    other = importance(4).run(replicated(IN_JAX, 2), key)
    with pytest.raises(DiagnosticError, match="draws of another target"):
        collapse(target, key, draws={"d": other})
    with pytest.raises(DiagnosticError, match=r"The guide 'g' has \(V, EOS\)"):
        collapse(target, key, guides={"g": markov(np.zeros(2), np.zeros((2, 2)), eos=1)})
