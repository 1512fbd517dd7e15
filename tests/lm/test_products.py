"""Products of rows with a matrix: those of `@`, and one product for all lanes of a `vmap`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayesft.lm.products import AsDots, rows_product

LANES, ROWS, IN, OUT = 5, 3, 4, 2
# Sums of at most 15 terms of size 1 in another order differ by some √15 roundings of 2⁻²⁴.
TOLERANCE = dict(rtol=1e-5, atol=1e-5)
KEY = jax.random.key(0)
X = jax.random.normal(KEY, (LANES, ROWS, IN))
MATRIX = jax.random.normal(jax.random.fold_in(KEY, 1), (IN, OUT))
MATRICES = jax.random.normal(jax.random.fold_in(KEY, 2), (LANES, IN, OUT))
FORMS = {
    0: (rows_product, lambda x, matrix: x @ matrix),
    1: (lambda x, m: rows_product(x, m.T, axis=1), lambda x, matrix: x @ matrix),
}


def loss(times, x, matrix):
    return jnp.sum(jnp.sin(times(x, matrix)))


def over_lanes(times, x, matrix):
    return jax.vmap(loss, (None, 0, None))(times, x, matrix).sum()


CASES = {
    "value": lambda times: times(X[0], MATRIX),
    "lanes": lambda times: jax.vmap(times, (0, None))(X, MATRIX),
    "lanes last": lambda times: jax.vmap(times, (2, None), 1)(jnp.moveaxis(X, 0, 2), MATRIX),
    "lanes of matrices": lambda times: jax.vmap(times, (None, 0))(X[0], MATRICES),
    "lanes of both": lambda times: jax.vmap(times)(X, MATRICES),
    "lanes of lanes": lambda times: jax.vmap(lambda m: jax.vmap(times, (0, None))(X, m))(MATRICES),
    "gradient": lambda times: jax.grad(over_lanes, (1, 2))(times, X, MATRIX),
    "gradient per lane": lambda times: jax.vmap(jax.grad(loss, (1, 2)), (None, 0, None))(
        times, X, MATRIX
    ),
    "gradient of matrices": lambda times: jax.vmap(jax.grad(over_lanes, (1, 2)), (None, None, 0))(
        times, X, MATRICES
    ),
    "tangent": lambda times: jax.jvp(times, (X[0], MATRIX), (X[1], MATRICES[0])),
    "curvature": lambda times: jax.jvp(
        jax.grad(over_lanes, 2).__get__(times), (X, MATRIX), (X[::-1], MATRICES[0])
    ),
}


@pytest.mark.parametrize("axis", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_product_under_every_transformation(name, axis):
    ours, plain = (jax.jit(lambda times=times: CASES[name](times))() for times in FORMS[axis])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), ours, plain)
    eager = CASES[name](FORMS[axis][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), eager, ours)


def test_half_precision_is_summed_in_the_dtype_that_is_given():
    x, matrix = X[0].astype(jnp.bfloat16), MATRIX.astype(jnp.bfloat16)
    assert rows_product(x, matrix).dtype == jnp.bfloat16
    assert rows_product(x, MATRIX).dtype == jnp.float32
    wide = rows_product(x, matrix, dtype=jnp.float32)
    np.testing.assert_allclose(wide, x.astype(np.float32) @ matrix.astype(np.float32), **TOLERANCE)
    gradients = jax.grad(lambda x, m: rows_product(x, m, dtype=jnp.float32).sum(), (0, 1))(
        x, matrix
    )
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype(jnp.bfloat16)}


def test_a_wide_cotangent_is_rounded_after_the_product_only():
    """64 terms 1 + 2⁻⁹, which bfloat16 rounds to 1, less 64 terms 1 leave 1/8."""
    matrix = jnp.concatenate([jnp.ones((1, 64)), -jnp.ones((1, 64))], 1).astype(jnp.bfloat16)
    cotangent = jnp.concatenate([jnp.full((1, 64), 1 + 2.0**-9), jnp.ones((1, 64))], 1)
    x = jnp.ones((1, 1), jnp.bfloat16)
    product = lambda x, matrix: rows_product(x, matrix, dtype=jnp.float32)
    along_x, along_matrix = jax.vjp(product, x, matrix)[1](cotangent)
    assert float(along_x[0, 0]) == 0.125
    np.testing.assert_array_equal(along_matrix, cotangent.astype(jnp.bfloat16))
    rounded, _ = jax.vjp(product, x, matrix)[1](cotangent.astype(jnp.bfloat16).astype(jnp.float32))
    assert float(rounded[0, 0]) == 0.0  # the planted bug: rounded before


def test_the_precision_is_that_of_the_call():
    def lowered(times) -> str:
        def call(x, matrix):
            with jax.default_matmul_precision("highest"):
                return times(x, matrix).sum()

        return jax.jit(jax.grad(call, (0, 1))).lower(X[0], MATRIX).as_text()

    ours, plain = (lowered(times).count("HIGHEST") for times in FORMS[0])
    assert ours == plain > 0
    assert "HIGHEST" not in jax.jit(rows_product).lower(X[0], MATRIX).as_text()


def _most_axes_summed(times) -> int:
    """Of the products in a gradient over lanes within lanes, the most axes that one sums over."""
    nested = lambda x, matrix: jax.vmap(over_lanes, (None, 0, None))(times, x, matrix).sum()
    text = jax.jit(jax.grad(nested, (0, 1))).lower(X[None], MATRIX).as_text()
    found = re.findall(r"contracting_dims = \[([\d, ]*)\] x", text)
    assert len(found) == 3  # the product, and its two gradients
    return max(len(axes.split(",")) for axes in found)


def test_the_gradient_of_lanes_sums_over_one_axis():
    assert _most_axes_summed(rows_product) == 1


def test_the_gradient_of_lanes_of_a_plain_product_sums_over_three():
    """The planted bug: what XLA transposes its operands for."""
    assert _most_axes_summed(lambda x, matrix: x @ matrix) == 3


def _dots(policy) -> int:
    """Products in the gradient of three in a row, after rematerialisation by a policy."""

    def chain(x, matrix):
        for _ in range(3):
            x = jnp.sin(rows_product(x, matrix))
        return x.sum()

    run = jax.checkpoint(chain, policy=policy)
    text = str(jax.make_jaxpr(jax.grad(run))(X[0], jnp.eye(IN)))
    return text.count("rows_product[")


def test_policies_take_it_for_the_dot_that_it_becomes():
    policies = jax.checkpoint_policies
    for policy in (policies.dots_saveable, policies.dots_with_no_batch_dims_saveable):
        assert _dots(AsDots(policy)) == _dots(policies.everything_saveable)
        assert _dots(policy) > _dots(AsDots(policy))  # the planted bug: a policy that has no AsDots
    assert AsDots(policy) == AsDots(policy)  # equal policies share a trace
