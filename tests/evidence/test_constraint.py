"""Constraints in Python: soft, hard, and never reversed into +inf."""

import math

import jax.numpy as jnp
import pytest

from bayesft.base import Rows
from bayesft.errors import EvidenceError, HardConstraintError, TargetError
from bayesft.evidence import constraint
from bayesft.priors.markov import markov
from bayesft.target import Target


def has_no_b(completions):
    return ["b" not in text for text in completions]


EXAMPLES = [
    constraint(has_no_b),
    constraint(has_no_b, log_penalty=-10.0, name="soft"),
    constraint(
        lambda completion_ids: [None if len(i) > 2 else False for i in completion_ids],
        -1,
        name="opinion",
    ),
]
ROWS = Rows(["", "", ""], ["a", "ab", ""], [[0], [0, 1], [2]], {})


def language():
    return markov(jnp.zeros(3), jnp.zeros((3, 3)), eos=2, vocabulary=("a", "b", ""))


def test_values():
    assert EXAMPLES[0].evaluate(ROWS).tolist() == [0, -math.inf, 0]
    assert EXAMPLES[1].evaluate(ROWS).tolist() == [0, -10, 0]
    unsure = constraint(lambda completions: [None, 0, 1])
    assert unsure.evaluate(ROWS).tolist() == [0, -math.inf, 0]


def test_only_a_hard_one_is_hard():
    assert EXAMPLES[0].hard
    assert not EXAMPLES[1].hard
    assert EXAMPLES[0].bounds == (-math.inf, 0)
    assert EXAMPLES[1].bounds == (-10, 0)


def test_a_score_is_no_predicate():
    with pytest.raises(EvidenceError, match=r"returned 0\.3, neither true nor false.* row 1: 'ab'"):
        constraint(lambda completions: [True, 0.3, False]).evaluate(ROWS)


@pytest.mark.parametrize("penalty", [0.0, 1.0, math.nan, math.inf])
def test_the_penalty_must_be_below_0(penalty):
    with pytest.raises(EvidenceError, match="log_penalty"):
        constraint(has_no_b, log_penalty=penalty)


def test_reverse_kl_is_refused_only_while_it_is_hard():
    def require(evidence):
        Target(language(), evidence, max_new_tokens=2).require_finite("reverse_kl")

    with pytest.raises(HardConstraintError):
        require(EXAMPLES[0] + EXAMPLES[1])
    require(EXAMPLES[1])
    require(0.0 * EXAMPLES[0])


def test_a_negative_multiple_of_a_hard_one_is_refused():
    with pytest.raises(TargetError, match=r"has_no_b is scaled by -1\.0"):
        Target(language(), -1.0 * EXAMPLES[0], max_new_tokens=2)
    with pytest.raises(TargetError, match="NaN or infinite"):
        Target(language(), math.nan * EXAMPLES[1], max_new_tokens=2)
    Target(language(), -1.0 * EXAMPLES[1], max_new_tokens=2)
    Target(language(), -1.0 * (-2.0 * EXAMPLES[0]), max_new_tokens=2)
