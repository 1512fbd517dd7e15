"""Tables: numbered like a heap, the same by stepping and teacher-forced, of bounded size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers.language import LANGUAGE, NUM_TOKENS, replicated

from bayesft.errors import NotEnumerableError
from bayesft.twists import tabular

XS = replicated(None, 1).xs


def test_stepping_equals_teacher_forcing():
    twist = tabular(3, NUM_TOKENS)
    assert twist.params.shape == (1 + 3 + 9 + 27, 3) and not np.asarray(twist.params).any()
    rng = np.random.default_rng(0)
    twist = twist.with_params(jnp.asarray(rng.normal(size=twist.params.shape), jnp.float32))
    tokens = jnp.asarray(rng.integers(0, 3, (1, 50, NUM_TOKENS)), jnp.int32)
    state, rows = twist.start(XS, 50, NUM_TOKENS)
    stepped = [rows]
    for t in range(NUM_TOKENS - 1):
        state, rows = twist.advance(state, tokens[:, :, t])
        stepped.append(rows)
    x = jax.tree.map(lambda a: a[0], XS)
    forced = jax.vmap(lambda y: twist.log_twists(y, x, LANGUAGE))(tokens[0])
    np.testing.assert_array_equal(np.stack(stepped, axis=2)[0], forced)
    prefixes = np.asarray(jax.vmap(twist.prefixes)(tokens[0]))
    distinct = {tuple(row[:3].tolist()) for row in np.asarray(tokens[0])}
    assert len(set(prefixes[:, 3].tolist())) == len(distinct)


def test_reordering_moves_the_prefixes():
    twist = tabular(3, NUM_TOKENS)
    state = jnp.asarray([[5, 6, 7]], jnp.int32)
    moved = twist.reorder(state, jnp.asarray([[2, 1, 2]], jnp.int32))
    np.testing.assert_array_equal(moved, [[7, 6, 7]])


def test_tables_that_are_too_large_or_empty_are_refused():
    for sizes in ((512, 64), (3, 0)):
        with pytest.raises(NotEnumerableError, match="entries"):
            tabular(*sizes)
