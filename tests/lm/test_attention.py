"""Causal attention in blocks of queries is attention with later keys masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.lm import attention
from bayesft.lm.attention import Shared, Sight, attend, attend_causally, distances

PROMPTS, PARTICLES, HEADS, GROUP, DIM, PROMPT = 2, 2, 2, 2, 4, 3
# Sums of at most 300 terms of weight 1/300 and size 4 in another order.
TOLERANCE = dict(rtol=1e-5, atol=2e-5)


def arrays(num_tokens: int) -> tuple[jax.Array, ...]:
    rows = PROMPTS * PARTICLES
    shapes = (
        (PROMPTS, PARTICLES, num_tokens, HEADS * GROUP, DIM),
        *[(rows, HEADS, num_tokens, DIM)] * 2,
        *[(PROMPTS, HEADS, PROMPT, DIM)] * 2,
    )
    keys = jax.random.split(jax.random.key(num_tokens), len(shapes))
    return tuple(jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))


def mixed(how, num_tokens: int, window: int | None, per_query: bool):
    """Values and gradients of attention over own keys and a prompt's, of which queries see the
    same or, `per_query`, each its own."""
    query, keys, values, *prompt = arrays(num_tokens)
    visible = Sight(0, window).sees(distances(num_tokens))
    after = jnp.arange(num_tokens)[:, None] - jnp.arange(PROMPT)[None] + PROMPT
    seen = jnp.broadcast_to(after % 3 > 0, (PROMPTS, num_tokens, PROMPT))

    def run(*operands):
        query, keys, values, *prompt = operands
        shared = Shared(*prompt, seen if per_query else seen[:, :1])
        return how(query, keys, values, visible, shared, 5.0)

    value, pull = jax.vjp(run, query, keys, values, *prompt)
    return value, pull(jnp.cos(value))


@pytest.mark.parametrize(
    ("num_tokens", "window", "per_query"),
    [(5, None, True), (130, None, False), (300, None, True), (130, 50, True)],
)
def test_blocks_change_no_value_and_no_gradient(num_tokens, window, per_query):
    run = jax.jit(mixed, static_argnums=(0, 1, 2, 3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE),
        run(attend_causally, num_tokens, window, per_query),
        run(attend, num_tokens, window, per_query),
    )


def test_a_query_that_sees_a_later_key_is_caught():
    """The planted bug would be sight of the future, of which blocks leave out a part."""
    query, keys, values, *_ = arrays(130)
    everything = jnp.ones((130, 130), bool)
    whole = attend(query, keys, values, everything)
    assert np.abs(whole - attend_causally(query, keys, values, everything)).max() > 0.1


def test_there_are_at_most_four_blocks_and_small_ones_only_at_the_end(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        attention, "attend", lambda query, *_: sizes.append(query.shape[2]) or query
    )
    for num_tokens in (63, 130, 1000):
        query, keys, values, *_ = arrays(num_tokens)
        attend_causally(query, keys, values, jnp.ones((num_tokens, num_tokens), bool))
    assert sizes == [63, 64, 64, 2, 250, 250, 250, 250]
