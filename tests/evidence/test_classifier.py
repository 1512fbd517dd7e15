"""Classifiers in Python: the probability of a label, checked and floored."""

import math

import numpy as np
import pytest

from bayesft.base import Rows
from bayesft.errors import EvidenceError
from bayesft.evidence import classifier
from bayesft.priors import markov
from bayesft.target import Target
from bayesft.testing import enumerate_target


def begins_with_a(completions):
    return [0.9 if text.startswith("a") else 0.2 for text in completions]


def three_classes(completions):
    return np.stack([np.full(3, 1 / 3)] * len(completions)).astype(np.float32)


def named(completions):
    return [{"bad": 0.25, "good": 0.75} if text else None for text in completions]


EXAMPLES = [
    classifier(begins_with_a),
    classifier(three_classes, label=2, weight=2.0),
    classifier(named, label="bad", weight=-1.0, floor=0.1, name="not bad"),
]
ROWS = Rows(["", ""], ["ab", "b" * 200], [[0, 1], [1]], {})
LANGUAGE = markov(
    np.log([0.5, 0.3, 0.2]), np.log([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [1 / 3] * 3]), eos=2,
    vocabulary=("a", "b", ""),
)  # fmt: skip


def returning(value, label=1, **settings):
    return classifier(lambda completions: value, label, name="judge", **settings)


@pytest.mark.parametrize(
    ("value", "label", "expected"),
    [
        ([0.9, 0.2], 1, [0.9, 0.2]),
        ([0.9, 0.2], 0, [0.1, 0.8]),
        ([[0.2, 0.3, 0.5], [0.7, 0.3, 0.0]], 1, [0.3, 0.3]),
        ([[0.2, 0.3, 0.5], [0.7, 0.3, 0.0]], 2, [0.5, 1e-6]),
        ([{"x": 0.4, "y": 0.6}, {"y": 1.0, "x": 0.0}], "y", [0.6, 1.0]),
        ([None, 0.5], 1, [1.0, 0.5]),
    ],
)
def test_value_is_the_log_probability_of_the_label(value, label, expected):
    found = returning(value, label).evaluate(ROWS)
    np.testing.assert_allclose(found, np.log(expected), rtol=1e-5)
    doubled = returning(value, label, weight=-2.0).evaluate(ROWS)
    np.testing.assert_allclose(doubled, -2 * np.log(expected), rtol=1e-5)


def test_posterior_is_bayes_rule():
    """With weight 1, Z = P(label) and the posterior is p(y | label)."""
    found = enumerate_target(Target(LANGUAGE, classifier(begins_with_a), max_new_tokens=4))
    assert math.isclose(math.exp(found.log_z), 0.5 * 0.9 + 0.5 * 0.2, rel_tol=1e-6)
    starts = found.mean((found.tokens[:, 0] == 0).astype(float))
    assert math.isclose(starts, 0.45 / 0.55, rel_tol=1e-6)
    # The planted bug: the other label is another posterior.
    wrong = enumerate_target(Target(LANGUAGE, classifier(begins_with_a, 0), max_new_tokens=4))
    assert abs(wrong.mean((wrong.tokens[:, 0] == 0).astype(float)) - 0.45 / 0.55) > 0.5


def test_bounds_are_those_of_the_floor():
    low, high = classifier(begins_with_a, weight=2.0, floor=1e-3).bounds
    assert (low, high) == (pytest.approx(2 * math.log(1e-3)), 0.0)
    low, high = classifier(begins_with_a, weight=-2.0, floor=1e-3).bounds
    assert (low, high) == (0.0, pytest.approx(-2 * math.log(1e-3)))
    assert classifier(begins_with_a, floor=0.0).bounds == (-math.inf, 0.0)
    assert not classifier(begins_with_a, floor=0.0).hard
    assert returning([0.0, 1.0], floor=0.0).evaluate(ROWS).tolist() == [-math.inf, 0.0]
    assert (classifier(begins_with_a, weight=0.0, floor=0.0).evaluate(ROWS) == 0).all()


@pytest.mark.parametrize(
    ("value", "label", "message"),
    [
        ([0.5, 1.2], 1, r"judge returned 1.2, which is not within \[0, 1\], for row 1: 'bbb"),
        ([math.nan, 0.5], 1, "not within .* for row 0"),
        ([[0.5, 0.5], [0.5, 0.6]], 1, "whose sum is 1.1, not 1, for row 1"),
        ([[0.5, 0.5], [1.0]], 1, "which has no class 1, for row 1"),
        ([0.5, 0.5], 2, "one probability, which has no class 2, for row 0"),
        ([{"x": 1.0}, {"y": 1.0}], "x", "which has no label 'x', for row 1"),
        (["good", 0.5], 1, "which holds no probabilities, for row 0"),
        ([0.5, 0.5], "good", "of which label 'good' is not a probability"),
        ([0.5], 1, "1 values for 2 rows"),
    ],
)
def test_what_is_no_probability_is_refused(value, label, message):
    with pytest.raises(EvidenceError, match=message):
        returning(value, label).evaluate(ROWS)


@pytest.mark.parametrize(
    "settings", [{"floor": 1.0}, {"floor": -0.1}, {"weight": math.nan}, {"weight": -1, "floor": 0}]
)
def test_settings_that_bound_nothing(settings):
    with pytest.raises(EvidenceError, match="bound no log-potential"):
        classifier(begins_with_a, **settings)
