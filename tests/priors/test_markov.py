"""Markov chains."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.errors import TargetError
from bayesft.priors import markov, trainable
from bayesft.target import Target
from bayesft.testing import enumerate_target

INITIAL = np.log([0.5, 0.3, 0.2])
with np.errstate(divide="ignore"):
    ROWS = np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.0, 0.0, 1.0]])
    SPARSE = np.log([[0.0, 0.5, 0.25, 0.25], [0.5, 0.0, 0.5, 0.0], [0, 0, 0, 0], [0, 0, 0, 0]])

EXAMPLES = [
    (markov(INITIAL, ROWS, eos=2, vocabulary=("a", "b", "")), None),
    (markov(INITIAL, ROWS, eos=2, vocabulary=("a", "b", "")), ["ab", "bbb", "ba"]),
    (markov(SPARSE[0], SPARSE, eos=[3, 2]), None),
]


def test_the_three_token_language():
    """Sequences that contain "ab" and end within 4 tokens have prior mass 0.189."""
    exact = enumerate_target(Target(EXAMPLES[0][0], max_new_tokens=4))
    ab = [(0, 1) in pairwise(row) for row in exact.tokens.tolist()]
    ended = (exact.tokens == 2).any(-1)
    assert abs(np.exp(exact.log_prior[ab & ended]).sum() - 0.189) < 1e-6
    assert len(exact.tokens) == 1 + 2 + 4 + 8 + 16


def test_eos_given_twice_counts_once():
    exact = enumerate_target(Target(markov(INITIAL, ROWS, eos=[2, 2]), max_new_tokens=4))
    assert abs(exact.log_z) < 1e-6 and len(exact.tokens) == 1 + 2 + 4 + 8 + 16


def test_prompt_comes_first():
    prior = EXAMPLES[0][0]
    after_a = enumerate_target(Target(prior, prompts=["ba"], max_new_tokens=1))
    np.testing.assert_allclose(np.exp(after_a.log_prior), [0.3, 0.1, 0.6], atol=1e-6)


def test_unnormalised_rows_are_normalised():
    prior = markov(INITIAL + 3, ROWS - 2, eos=2)
    exact = enumerate_target(Target(prior, max_new_tokens=2))
    assert abs(np.exp(exact.log_prior).sum() - 1) < 1e-6


def test_row_of_eos_may_be_empty():
    with np.errstate(divide="ignore"):
        empty = np.log([[0.5, 0.5], [0.0, 0.0]])
    guide = trainable(markov(empty[0], empty, eos=1))
    x = jax.tree.map(lambda a: a[0], Target(guide, max_new_tokens=3).xs)
    horizon = Target(guide, max_new_tokens=3).horizon
    gradient = jax.grad(
        lambda params: (
            guide.with_params(params).token_log_probs(jnp.array([0, 1, 1]), x, horizon).sum()
        )
    )(guide.params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("initial", "rows", "options", "said"),
    [
        (INITIAL, ROWS[:2], {"eos": 2}, "are not"),
        (INITIAL, ROWS, {"eos": 3}, "not a token below V"),
        (INITIAL, ROWS, {"eos": ()}, "not a token below V"),
        (INITIAL * np.nan, ROWS, {"eos": 2}, "NaN"),
        (INITIAL - np.inf, ROWS, {"eos": 2}, "nothing can follow"),
        (INITIAL, ROWS, {"eos": 2, "vocabulary": ("a",)}, "names 1 tokens"),
    ],
)
def test_bad_tables_are_refused(initial, rows, options, said):
    with pytest.raises(TargetError, match=said):
        markov(initial, rows, **options)
