"""`bft.cost(..., shares=)`: elements of a choice are credited with their own part of a cost."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayesft as bft

LOGITS = jnp.array([0.4, -0.7, 0.1])


def program(shares):
    def run(logits):
        z = bft.draw("z", dist.Bernoulli(logits=logits), bft.estimators.score_function())
        parts = (z + 1.0) ** 2
        bft.cost(parts.sum(), shares={"z": parts} if shares else None)
        bft.cost(0.5)  # credited to every element, as ever
        return jnp.zeros(())

    return bft.expectation(run)


@pytest.mark.parametrize("shares", [True, False])
def test_an_element_is_credited_with_its_share(shares):
    """One sample's gradient is Σ_i credit_i·∇ log q(z_i), which tells z and so the credit."""
    value, gradient = jax.jit(program(shares).value_and_grad)(jax.random.key(0), LOGITS)
    z = (gradient > 0).astype(jnp.float32)  # ∇ log q(z_i) = z_i − p_i, and credits are positive
    parts = (z + 1) ** 2
    credit = (parts if shares else parts.sum()) + 0.5
    assert jnp.allclose(value, parts.sum() + 0.5)
    assert jnp.allclose(gradient, credit * (z - jax.nn.sigmoid(LOGITS)), atol=1e-5)
