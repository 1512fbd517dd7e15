"""Soft prompts: embeddings of tokens stand for the tokens, and what is sampled follows them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bayesft as bft
from bayesft.base import Horizon, Prompt
from bayesft.errors import GuideError, PromptError
from bayesft.priors.sequence import SequenceDistribution, bind

# Sums of at most 64 terms of size 1 in another order differ by about 64 · 2⁻²⁴ = 4e-6.
TOLERANCE = dict(rtol=2e-5, atol=2e-5)
HARD = Prompt(
    jnp.asarray([[3, 4, 5, 0], [7, 2, 0, 0]], jnp.int32),
    jnp.asarray([3, 2], jnp.int32),
    jnp.arange(2, dtype=jnp.int32),
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 23, (2, 3, 5)), jnp.int32)


def softened(prior, first):
    """The prompts with the embeddings of their `first` tokens in place of the tokens."""
    rows = prior.decoder().embedding[...][first]
    tokens = jnp.pad(HARD.tokens[:, 1:], ((0, 0), (0, 1)))
    return Prompt(tokens, HARD.length - 1, HARD.id, soft=rows[:, None])


@jax.jit
def both_ways(prior, xs):
    """Logits by stepping, [P, N, T, V], and teacher-forced log-probs, [P, N, T]."""
    state, logits = prior.start(xs, 3, 5)

    def step(carry, token):
        return prior.advance(carry[0], token), carry[1]

    _, stepped = jax.lax.scan(step, (state, logits), jnp.moveaxis(TOKENS, 2, 0))
    score = lambda x, rows: jax.vmap(lambda y: prior.token_log_probs(y, x, Horizon(5)))(rows)
    return jnp.moveaxis(stepped, 0, 2), jax.vmap(score)(xs, TOKENS)


@pytest.mark.parametrize("fixture", ["tiny", "windowed"])
def test_embeddings_stand_for_their_tokens(fixture: str, request: pytest.FixtureRequest):
    prior = request.getfixturevalue(fixture)
    expected = both_ways(prior, HARD)
    same, other = (both_ways(prior, softened(prior, HARD.tokens[:, 0] + i)) for i in (0, 1))
    for part, found, wrong in zip(expected, same, other, strict=True):
        np.testing.assert_allclose(found, part, **TOLERANCE)
        assert np.abs(wrong - part).max() > 100 * TOLERANCE["atol"]


def test_lanes_may_have_soft_prompts_of_their_own(tiny):
    """A vmap over soft prompts samples like a loop, and a gradient reaches them by the score."""
    x = jax.tree.map(lambda a: a[0], softened(tiny, HARD.tokens[:, 0]))
    keys = lambda: jax.random.split(jax.random.key(1), 3)
    softs = jnp.stack([x.soft, 2 * x.soft, -x.soft])

    def sampled(soft, key):
        q = SequenceDistribution(tiny, dataclasses.replace(x, soft=soft), Horizon(5))
        return q.sample_and_log_prob(key)

    def scored(soft, row):
        q = SequenceDistribution(tiny, dataclasses.replace(x, soft=soft), Horizon(5))
        return q.log_prob(row)

    def slope(soft, key):
        return jax.grad(lambda soft: sampled(soft, key)[1])(soft)

    tokens, log_probs = jax.jit(jax.vmap(sampled))(softs, keys())
    alone, _ = jax.jit(sampled)(softs[1], keys()[1])
    np.testing.assert_array_equal(alone, tokens[1])
    direction = jnp.cos(jnp.arange(16.0))[None, None]
    ends = jnp.asarray([-0.01, 0.0, 0.01]).reshape(3, 1, 1, 1)
    around, slopes = jax.jit(
        lambda softs, rows: (
            jax.vmap(lambda end: jax.vmap(scored)(softs + end * direction, rows))(ends),
            jax.vmap(jax.grad(scored))(softs, rows),
        )
    )(softs, tokens)
    np.testing.assert_allclose(around[1], log_probs, **TOLERANCE)
    expected = (around[2] - around[0]) / 0.02
    np.testing.assert_allclose((slopes * direction).sum((1, 2)), expected, rtol=0.02, atol=0.01)
    assert not np.any(jax.jit(slope)(softs[0], keys()[0]))


def test_a_guide_without_embeddings_refuses_it():
    toy = bft.priors.markov(jnp.zeros(3), jnp.zeros((3, 3)), eos=2)
    soft = Prompt(HARD.tokens[0], HARD.length[0], HARD.id[0], soft=jnp.zeros((1, 4)))
    with pytest.raises(GuideError, match="no embeddings"):
        bind(bft.trainable(toy), Horizon(4))(soft)


def test_it_takes_positions_of_the_context(tiny):
    """Positions past a learned table would be the last one's, without a word."""
    soft = softened(tiny, HARD.tokens[:, 0])
    longest = tiny.max_length - 1 - HARD.tokens.shape[1]
    jax.eval_shape(lambda xs: tiny.start(xs, 1, longest)[1], soft)
    x = jax.tree.map(lambda a: a[0], soft)
    with pytest.raises(PromptError, match="1 embeddings, 4 tokens with their padding and 60 new"):
        tiny.start(soft, 1, longest + 1)
    with pytest.raises(PromptError, match="need 65 positions"):
        tiny.token_log_probs(jnp.zeros(longest + 1, jnp.int32), x, Horizon(longest + 1))
