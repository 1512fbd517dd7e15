"""N-gram models: counts, contexts, smoothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.errors import PromptError, TargetError
from bayesft.priors import ngram
from bayesft.target import Target
from bayesft.testing import enumerate_target

TEXTS = ["abab", "ba", "b", "abba"]
IDS = [[0, 1, 0], [1, 1, 0, 2], [0]]

EXAMPLES = [
    (ngram(TEXTS), ["", "ab"]),
    (ngram(IDS, order=1, smoothing=0.5, vocab_size=3, eos=2), [[], [0, 1]]),
    (ngram(IDS, order=3, smoothing=0.0, vocab_size=4, eos=[2, 3]), None),
]


def next_probs(prior, prompt):
    target = Target(prior, prompts=[prompt], max_new_tokens=1)
    _, logits = prior.init(jax.tree.map(lambda a: a[0], target.xs))
    return np.asarray(jax.nn.softmax(logits))


def test_bigram_is_counting():
    """After a: b 3 times, EOS twice, of "abab", "ba", "abba"; vocabulary a, b, EOS."""
    prior = ngram(TEXTS, smoothing=0.5)
    assert prior.vocabulary == ("a", "b", "")
    np.testing.assert_allclose(next_probs(prior, "ba"), np.array([0.5, 3.5, 2.5]) / 6.5, atol=1e-6)
    # Sequences start with a twice and with b twice, and EOS stands before the start.
    np.testing.assert_allclose(next_probs(prior, ""), np.array([2.5, 2.5, 0.5]) / 5.5, atol=1e-6)


def test_trigram_sees_two_tokens():
    prior = ngram(TEXTS, order=3, smoothing=0.0)
    np.testing.assert_allclose(next_probs(prior, "ab"), [1 / 3, 1 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(next_probs(prior, "bba"), [0, 1 / 3, 2 / 3], atol=1e-6)
    np.testing.assert_allclose(next_probs(prior, "aaa"), [1 / 3, 1 / 3, 1 / 3], atol=1e-6)  # unseen


def test_prompt_equals_the_same_tokens_generated():
    prior = ngram(TEXTS, order=3, smoothing=0.1)
    empty = jax.tree.map(lambda a: a[0], Target(prior, max_new_tokens=1).xs)
    state, _ = prior.init(empty)
    for token in prior.encode("bab"):
        state, logits = prior.step(state, jnp.int32(token))
    np.testing.assert_allclose(jax.nn.softmax(logits), next_probs(prior, "bab"), atol=1e-6)


def test_words_as_vocabulary():
    prior = ngram(["the cat", "the dog"], vocabulary=["the", " ", "cat", "dog", ""], smoothing=0)
    exact = enumerate_target(Target(prior, prompts=["the "], max_new_tokens=2))
    likely = exact.tokens[exact.log_prior > -1]
    assert sorted(prior.decode(row) for row in likely) == ["cat", "dog"]


def test_likelihood_of_the_data_rises_with_the_order():
    texts = ["the cat sat", "the cat ran", "a dog sat"] * 3
    scores = []
    for order in (1, 2, 3):
        prior = ngram(texts, order=order, smoothing=0.01)
        target = Target(prior, max_new_tokens=12)
        x = jax.tree.map(lambda a: a[0], target.xs)
        ids = np.full(12, prior.eos[0])
        ids[: len(texts[0])] = prior.encode(texts[0])
        scores.append(float(prior.token_log_probs(jnp.asarray(ids), x, target.horizon).sum()))
    assert scores == sorted(scores)


@pytest.mark.parametrize(
    ("sequences", "options", "said"),
    [
        ("abc", {}, "not a list of texts"),
        ([], {}, "not a list of texts"),
        (["a", [0]], {}, "not a list of texts"),
        (TEXTS, {"order": 0}, "order=0"),
        (TEXTS, {"smoothing": -1.0}, "smoothing"),
        (TEXTS, {"order": 20}, "make no n-gram"),
        (IDS, {}, "do not declare a vocabulary"),
        (IDS, {"vocab_size": 3}, "do not declare a vocabulary"),
        (IDS, {"vocab_size": 3, "eos": 3}, "contradict"),
        (TEXTS, {"vocabulary": ["a", "b"]}, "do not declare a vocabulary"),
        (TEXTS, {"vocab_size": 3, "eos": 2, "vocabulary": None}, None),
    ],
)
def test_bad_settings_are_refused(sequences, options, said):
    if said is None:
        ngram(sequences, **options)
    else:
        with pytest.raises(TargetError, match=said):
            ngram(sequences, **options)


def test_sequences_must_fit_the_vocabulary():
    with pytest.raises(PromptError, match="cannot be written"):
        ngram(["abc"], vocabulary=["a", "b", ""])
    with pytest.raises(PromptError, match="Sequence 1 has EOS"):
        ngram([[0], [2, 0]], vocab_size=3, eos=2)
    with pytest.raises(PromptError, match="Sequence 0"):
        ngram([[5]], vocab_size=3, eos=2)
