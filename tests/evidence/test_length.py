"""Bounds on the number of tokens, against the lengths of all outcomes."""

import jax
import numpy as np
import pytest
from evidence.texts import language

from bayesft.errors import EvidenceError
from bayesft.evidence import length
from bayesft.target import Target
from bayesft.testing import enumerate_target

EXAMPLES = [length(2, None, language()), length(0, 2, language(), name="short")]


@pytest.mark.parametrize("eos", ["truncate", "condition", "force"])
@pytest.mark.parametrize("bounds", [(2, None), (0, 2), (2, 3), (4, 4), (1, 1)])
def test_outcomes_have_these_lengths(bounds, eos):
    low, high = bounds
    target = Target(language(), length(low, high, language()), max_new_tokens=4, eos=eos)
    exact = enumerate_target(target)
    inside = (exact.lengths >= low) & (exact.lengths <= (high or 4))
    possible = np.asarray(exact.log_prior) > -np.inf
    truth = np.where(inside, 0.0, -np.inf)
    assert (np.asarray(exact.log_evidence)[possible] == truth[possible]).all()


@pytest.mark.parametrize(("eos", "open_end"), [("truncate", 0.0), ("condition", -np.inf)])
def test_a_prefix_that_must_end_may_not_go_on(eos, open_end):
    for horizon, at_limit in ((3, -np.inf), (2, open_end)):
        target = Target(language(), length(1, 2, language()), max_new_tokens=horizon, eos=eos)
        evidence = target.terms[0].evidence
        x = jax.tree.map(lambda a: a[0], target.xs)
        state, increment = evidence.step(evidence.init(x), np.int32(0))
        assert increment == 0.0
        assert evidence.increments(state, 3).tolist() == [at_limit, at_limit, 0.0]


def test_declaration_is_checked():
    for low, high in ((-1, 2), (3, 2), (0, 0)):
        with pytest.raises(EvidenceError, match="No sequence has between"):
            length(low, high, language())
    with pytest.raises(EvidenceError, match="at least 4 tokens does not fit"):
        Target(language(), length(4, None, language()), max_new_tokens=3)
