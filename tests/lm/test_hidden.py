"""Hidden states: those that the logits are read from, stepping and teacher-forced alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.base import Prior, Prompt, ShowsHidden

# Sums of at most 64 terms of size 1 in another order differ by about 64 · 2⁻²⁴ = 4e-6.
TOLERANCE = dict(rtol=2e-5, atol=2e-5)
XS = Prompt(
    jnp.asarray([[3, 4, 5, 0], [7, 0, 0, 0]], jnp.int32),
    jnp.asarray([3, 1], jnp.int32),
    jnp.arange(2, dtype=jnp.int32),
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 23, (2, 3, 5)), jnp.int32)


@jax.jit
def step_through(prior):
    state, logits, hidden = prior.start_hidden(XS, 3, 5)

    def step(carry, token):
        state, logits, hidden = carry
        return prior.advance_hidden(state, token), (logits, hidden)

    _, found = jax.lax.scan(step, (state, logits, hidden), jnp.moveaxis(TOKENS, 2, 0))
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2), found)


def over_rows(fn):
    return jax.jit(jax.vmap(lambda x, rows: jax.vmap(lambda y: fn(y, x))(rows)))(XS, TOKENS)


def test_a_decoder_shows_the_hidden_states_behind_its_logits(tiny):
    assert isinstance(tiny, ShowsHidden) and tiny.hidden_size == 16
    logits, hidden = step_through(tiny)
    np.testing.assert_allclose(tiny.decoder().logits(hidden), logits, **TOLERANCE)
    np.testing.assert_allclose(over_rows(tiny.hidden_states), hidden, **TOLERANCE)


@pytest.mark.parametrize("fixture", ["tiny", "windowed"])
def test_teacher_forced_logits_are_those_of_stepping(fixture: str, request: pytest.FixtureRequest):
    prior = request.getfixturevalue(fixture)
    logits, _ = step_through(prior)
    np.testing.assert_allclose(over_rows(prior.token_logits), logits, **TOLERANCE)
    by_stepping = over_rows(lambda y, x: Prior.token_logits(prior, y, x))
    np.testing.assert_allclose(by_stepping, logits, **TOLERANCE)
    alone = prior.token_logits(TOKENS[0, 0, :1], jax.tree.map(lambda a: a[0], XS))
    np.testing.assert_allclose(alone, logits[0, 0, :1], **TOLERANCE)
