"""Rewards in Python: the call, the checks, and the errors that name function and row."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Rows
from bayesft.errors import EvidenceError
from bayesft.evidence import reward


def count_a(completions):
    return [text.count("a") for text in completions]


def shout(prompts, completions, completion_ids, **columns):
    return [
        None if not text else -float(len(ids))
        for text, ids in zip(completions, completion_ids, strict=True)
    ]


EXAMPLES = [
    reward(count_a, beta=0.5, bounds=(0, 3)),
    reward(shout, beta=2.0),
    reward(lambda completions: np.float32([0.1] * len(completions)), 0.3, (-0.1, 0.1), "constant"),
]

ROWS = Rows(
    prompts=["p", "q"],
    completions=["banana", "b" * 200],
    completion_ids=[[1, 2], [3]],
    columns={"answer": ["banana", "x"]},
)


def returning(value):
    return reward(lambda completions: value, beta=0.5, bounds=(-1, 1), name="score")


def test_value_is_reward_over_beta():
    np.testing.assert_allclose(
        EXAMPLES[0].evaluate(Rows(["", ""], ["aab", "b"], [[0], [1]], {})), [4.0, 0.0]
    )
    np.testing.assert_allclose(EXAMPLES[0].bounds, [0, 6])
    assert reward(count_a, 1.0).bounds == (-math.inf, math.inf)
    assert not reward(count_a, 1.0).hard


@pytest.mark.parametrize(
    "fn",
    [
        lambda completions, answer: [
            float(c == a) for c, a in zip(completions, answer, strict=True)
        ],
        lambda prompts, completions, completion_ids, **kw: [
            float(c == a) for c, a in zip(completions, kw["answer"], strict=True)
        ],
        lambda completions, *, answer, scale=1.0: [
            scale * (c == a) for c, a in zip(completions, answer, strict=True)
        ],
        functools.partial(lambda tag, completions: [len(c) < 10 for c in completions], "tag"),
        lambda completions: (len(c) < 10 for c in completions),
        lambda completions: np.asarray([len(c) < 10 for c in completions]),
        lambda completions: jnp.asarray([len(c) < 10 for c in completions]),
    ],
)
def test_function_gets_what_its_signature_accepts(fn):
    assert reward(fn, beta=0.5).evaluate(ROWS).tolist() == [2.0, 0.0]


def test_none_is_no_opinion():
    assert returning([None, 1.0]).evaluate(ROWS).tolist() == [0.0, 2.0]


def test_bounds_survive_rounding():
    """A reward at its bound stays at the bound of the log-potential, for any β."""
    for beta in np.random.default_rng(0).uniform(0.01, 3, 200):
        one = reward(lambda completions: [-0.1, np.float32(0.7)], beta, bounds=(-0.1, 0.7))
        assert one.evaluate(ROWS).tolist() == list(one.bounds)


def test_minus_infinity_needs_no_bounds():
    impossible = reward(lambda completions: [-math.inf, 0.0], beta=1.0)
    assert impossible.evaluate(ROWS).tolist() == [-math.inf, 0.0]
    with pytest.raises(EvidenceError, match="outside its bounds"):
        returning([-math.inf, 0.0]).evaluate(ROWS)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([0.0, math.nan], r"score returned nan.* row 1: 'bbb.*\.\.\.'"),
        ([math.inf, 0.0], r"score returned inf.* row 0: 'banana'"),
        ([0.0, 1e300], r"score returned 1e\+300.* row 1"),
        ([1.5, 0.0], r"score returned 1\.5, outside its bounds \(-1\.0, 1\.0\).* row 0: 'banana'"),
        (["high", 0.0], r"score returned 'high', which is not a number.* row 0"),
        ([0.0, [1.0]], r"score returned \[1\.0\], which is not a number.* row 1"),
        ([1.0], r"score returned 1 values for 2 rows"),
        (1.0, r"score returned a float, not a list"),
        ("ab", r"score returned a str, not a list"),
        (jnp.zeros(()), r"score returned a \w+, not a list"),
        (None, r"score returned a NoneType, not a list"),
    ],
)
def test_bad_values_name_function_and_row(value, said):
    with pytest.raises(EvidenceError, match=said) as caught:
        returning(value).evaluate(ROWS)
    assert "Likely cause" in str(caught.value)
    assert "What to do" in str(caught.value)


def test_none_outside_the_bounds_is_an_error():
    positive = reward(lambda completions: [None, 1.0], 1.0, bounds=(0.5, 1), name="score")
    with pytest.raises(EvidenceError, match="None counts as 0"):
        positive.evaluate(ROWS)


def test_an_exception_is_chained():
    def broken(completions):
        return [1 / 0 for _ in completions]

    with pytest.raises(EvidenceError, match="broken raised ZeroDivisionError") as caught:
        reward(broken, beta=1.0).evaluate(ROWS)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_missing_column_is_named():
    with pytest.raises(EvidenceError, match="asks for 'solution'"):
        reward(lambda completions, solution: [0.0, 0.0], beta=1.0).evaluate(ROWS)


@pytest.mark.parametrize("beta", [0, -1.0, math.nan, math.inf])
def test_beta_must_be_positive(beta):
    with pytest.raises(EvidenceError, match="beta"):
        reward(count_a, beta=beta)


@pytest.mark.parametrize("bounds", [(1, -1), (-math.inf, 0), (0, math.nan)])
def test_bounds_must_be_finite_and_ordered(bounds):
    with pytest.raises(EvidenceError, match="finite and ordered"):
        reward(count_a, beta=1.0, bounds=bounds)


def test_what_cannot_be_called_is_refused_at_once():
    with pytest.raises(EvidenceError, match="not a function"):
        reward([1.0], beta=1.0)
    with pytest.raises(EvidenceError, match="takes none of prompts"):
        reward(lambda text: len(text), beta=1.0)
