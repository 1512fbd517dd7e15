"""Hidden states: those that the logits are read from, stepping and teacher-forced alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft.lm
from bayesft.base import Prior, Prompt, ShowsHidden
from bayesft.lm import language_model
from bayesft.lm.contexts import Alone

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


LONG = jnp.asarray(np.random.default_rng(1).integers(0, 23, (2, 2, 32)), jnp.int32)


@pytest.fixture(scope="module")
def learned():
    """Positions are learned: turning angles count differences alone."""
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 23}
    own = {"model_type": "gpt2", "initializer_range": 0.4, "eos_token_id": 2}
    return bayesft.lm.initialise(sizes | own, jax.random.key(3))


def _in_one_pass(prior):
    return jax.jit(jax.vmap(lambda x, rows: jax.vmap(lambda y: prior.hidden_states(y, x))(rows)))(
        XS, LONG
    )


@pytest.mark.parametrize("fixture", ["tiny", "windowed", "learned"])
def test_a_short_prompt_goes_along_with_its_completions(fixture, request, monkeypatch):
    """Behind its padding, which neither moves positions nor is seen, in any prompt of a batch."""
    prior = request.getfixturevalue(fixture)
    together = _in_one_pass(prior)
    monkeypatch.setattr(language_model, "ALONG", 9)  # 32 tokens are 8 times the prompts' size of 4
    assert np.abs(together - _in_one_pass(prior)).max() < 2e-5
    monkeypatch.undo()
    unpadded = Prompt(XS.tokens[1, :1], XS.length[1], XS.id[1])
    alone = jax.jit(prior.hidden_states)(LONG[1, 0], unpadded)
    np.testing.assert_allclose(alone, together[1, 0], **TOLERANCE)


def test_a_prompt_that_goes_along_halves_the_program(tiny, monkeypatch):
    def num_products() -> int:
        run = lambda: _in_one_pass(tiny)
        return jax.jit(run).lower().as_text().count("dot_general")

    along = num_products()
    monkeypatch.setattr(language_model, "ALONG", 9)
    assert 2 * along <= num_products()


@pytest.mark.parametrize("bug", ["seen", "moves positions"])
def test_padding_that_is_seen_or_moves_positions_is_caught(learned, bug, monkeypatch):
    """The planted bugs."""
    together = _in_one_pass(learned)
    if bug == "seen":
        monkeypatch.setattr(language_model, "Alone", lambda padding: Alone())
    else:
        monkeypatch.setattr(language_model.jnp, "maximum", lambda index, zero: index + 3)
    assert np.abs(together - _in_one_pass(learned)).max() > 0.01
