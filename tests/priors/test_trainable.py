"""Guides made of priors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bayesft.errors import GuideError
from bayesft.priors import markov, trainable
from bayesft.target import Target
from bayesft.testing import enumerate_target


def sparse():
    with np.errstate(divide="ignore"):
        return markov(np.log([0.5, 0.5, 0.0]), np.log([[0, 0.5, 0.5], [1, 0, 0], [0, 0, 1]]), eos=2)


def test_what_is_impossible_stays_so_under_weight_decay():
    guide = trainable(sparse())
    exact = enumerate_target(Target(sparse(), max_new_tokens=3))
    x = exact.x
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    params, state = guide.params, optimizer.init(guide.params)
    rows = jnp.asarray(exact.tokens[exact.log_prior > -np.inf])
    for _ in range(3):
        gradient = jax.grad(
            lambda params: (
                guide.with_params(params).token_log_probs(rows[-1], x, exact.target.horizon).sum()
            )
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    moved = exact.log_probs_of(guide.with_params(params))
    assert ((moved == -np.inf) == (exact.log_prior == -np.inf)).all()
    assert abs(np.exp(moved).sum() - 1) < 1e-5
    assert not np.allclose(moved, exact.log_prior, atol=1e-3)


def test_params_are_the_floating_point_leaves():
    guide = trainable(sparse())
    assert sorted(guide.params) == [".initial_logits", ".transition_logits"]
    assert all(jnp.isfinite(leaf).all() for leaf in guide.params.values())
    assert trainable(guide) is guide


def test_what_is_no_prior_is_refused():
    with pytest.raises(GuideError, match="Target is not a prior"):
        trainable(Target(sparse(), max_new_tokens=2))
