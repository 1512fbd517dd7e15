"""Prefix potentials in JAX."""

import math

import jax.numpy as jnp
import pytest
from jax.tree_util import Partial

from bayesft.errors import EvidenceError
from bayesft.evidence import prefix_potential


def repeats(state, token):
    """+1 for every token that repeats the one before."""
    return token, jnp.where(token == state, 1.0, 0.0)


def weighted(weights, state, token):
    return {"n": state["n"] + 1}, weights[token] * state["n"]


EXAMPLES = [
    prefix_potential(repeats, -1, bounds=(0, 2)),
    prefix_potential(Partial(weighted, jnp.array([0.1, -0.2, 0.3])), {"n": 1}, name="weighted"),
    prefix_potential(
        lambda state, token: (state, jnp.where(token == 1, -jnp.inf, 0.0)),
        (),
        bounds=(-math.inf, 0),
        name="no_b",
    ),
]


def test_state_and_increment():
    state, increment = EXAMPLES[0].step(jnp.int32(1), jnp.int32(1))
    assert (int(state), float(increment)) == (1, 1.0)
    state, increment = EXAMPLES[1].step({"n": jnp.int32(2)}, jnp.int32(1))
    assert int(state["n"]) == 3
    assert math.isclose(float(increment), -0.4, rel_tol=1e-6)
    assert EXAMPLES[2].hard


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda state, token: (jnp.zeros(2), 0.0), "returned a state of"),
        (lambda state, token: ((state, state), 0.0), "returned a state of"),
        (lambda state, token: (state, jnp.zeros(2)), "increment of shape"),
        (lambda state, token: (state + 0.5, 0.0), "from int32 to float32"),
    ],
)
def test_a_state_that_changes_is_refused(step, said):
    with pytest.raises(EvidenceError, match=said):
        prefix_potential(step, 0).step(jnp.int32(0), jnp.int32(1))


def test_declaration_is_checked():
    with pytest.raises(EvidenceError, match="ordered"):
        prefix_potential(repeats, 0, bounds=(1, 0))
    with pytest.raises(EvidenceError, match="not a function"):
        prefix_potential(None, 0)
