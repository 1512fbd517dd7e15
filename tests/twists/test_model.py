"""A separate model as twist: its logits, by stepping and teacher-forced; weights stay proper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.claims import assert_proper_weights
from samplers.language import LANGUAGE, TOKEN_BY_TOKEN, guide, replicated

from bayesft.errors import SamplerError
from bayesft.samplers import twisted
from bayesft.twists import model


def test_weights_are_proper_with_any_model():
    target = replicated(TOKEN_BY_TOKEN, 4000, "condition")
    assert_proper_weights(target, twisted(model(guide()), 16, ess_threshold=0.9))


def test_log_twists_are_its_logits():
    twist = model(guide())
    x = jax.tree.map(lambda a: a[0], replicated(None, 1).xs)
    tokens = jnp.asarray([0, 1, 1, 2], jnp.int32)
    rows = twist.log_twists(tokens, x, LANGUAGE)
    prior = guide().prior
    expected = jnp.stack([prior.initial_logits, *prior.transition_logits[tokens[:-1]]])
    np.testing.assert_array_equal(rows, expected)
    assert twist.params is twist.guide.params
    zeros = jax.tree.map(jnp.zeros_like, twist.params)
    assert not np.asarray(twist.with_params(zeros).log_twists(tokens, x, LANGUAGE)).any()


def test_a_prior_becomes_a_guide_and_nothing_else_is_taken():
    assert model(LANGUAGE).params
    with pytest.raises(SamplerError, match="cannot be a twist"):
        model(replicated(None, 1))  # pyright: ignore
