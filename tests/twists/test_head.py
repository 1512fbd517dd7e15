"""Heads on hidden states: nothing at first, the same by stepping and teacher-forced, learned."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from samplers.language import LANGUAGE

import bayesft.lm
from bayesft._sample import sample
from bayesft.errors import SamplerError
from bayesft.evidence import potential
from bayesft.samplers import importance, twisted
from bayesft.target import Target
from bayesft.twists import contrastive, fit, head

NUM_TOKENS = 8
CONFIG = {
    "model_type": "llama",
    "vocab_size": 23,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "rope_theta": 100.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def key():
    """Afresh each time, for a key may be used once."""
    return jax.random.key(0)


def _fives(tokens, length):
    return 2.0 * jnp.sum((tokens == 5) & (jnp.arange(tokens.shape[0]) < length))


@pytest.fixture(scope="module")
def target():
    lm = bayesft.lm.initialise(CONFIG, key())
    return Target(lm, potential(_fives), prompts=[[1, 4]], max_new_tokens=NUM_TOKENS)


def test_at_first_a_head_changes_nothing(target):
    twist = head(target.prior, key())
    plain = sample(target, importance(64), key())
    draws = sample(target, twisted(twist, 64, ess_threshold=0), key())
    assert (draws.tokens == plain.tokens).all()
    np.testing.assert_allclose(draws.log_weights, plain.log_weights, atol=1e-5)


def test_learning_makes_weights_even(target):
    twist = head(target.prior, key(), width=32)
    fitted = fit(
        target,
        twist,
        objective=contrastive(),
        optimizer=optax.adam(0.02),
        num_steps=60,
        num_particles=128,
        key=key(),
    )
    shares = [
        float(sample(target, twisted(each, 1024, ess_threshold=0), key()).ess[0]) / 1024
        for each in (twist, fitted.twist)
    ]
    assert shares[0] < 0.3 and shares[1] > 2 * shares[0]


def test_reading_teacher_forced_is_reading_hidden_states(target):
    twist = head(target.prior, key(), width=4)
    noise = {name: value + 0.1 for name, value in twist.params.items()}
    twist, x = twist.with_params(noise), jax.tree.map(lambda a: a[0], target.xs)
    tokens = jnp.asarray([3, 5, 7, 9], jnp.int32)
    rows = twist.log_twists(tokens, x, target.prior)
    assert rows.shape == (4, 23)
    path = twist.path_log_twists(tokens, x, target.prior)
    np.testing.assert_allclose(path, rows[jnp.arange(4), tokens], atol=1e-5)
    state, _, hidden = target.prior.start_hidden(target.xs, 1, 4)
    np.testing.assert_allclose(rows[0], twist.read(hidden)[0, 0], atol=2e-5)
    _, _, hidden = target.prior.advance_hidden(state, tokens[:1][None])
    np.testing.assert_allclose(rows[1], twist.read(hidden)[0, 0], atol=2e-5)


def test_a_prior_without_hidden_states_is_refused(target):
    with pytest.raises(SamplerError, match="no hidden states"):
        head(LANGUAGE, key())
    with pytest.raises(SamplerError, match="width"):
        head(target.prior, key(), width=0)
    twist = head(target.prior, key())
    toy = Target(LANGUAGE, max_new_tokens=4)
    with pytest.raises(SamplerError, match="hidden states"):
        sample(toy, twisted(twist, 8), key())
    with pytest.raises(SamplerError, match="hidden states"):
        fit(toy, twist, objective=contrastive(), optimizer=optax.adam(0.1), num_steps=1, key=key())
