"""Log-probs by logits have the derivative of those by probabilities, at a logit of 0 as well."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from bayesft.program.logits import differentiable

HALF = dist.Categorical(probs=jnp.array([0.5, 0.5]))
HOLDERS = {
    "alone": lambda make, l: make(l),
    "independent": lambda make, l: make(jnp.stack([l, l])).to_event(1),
    "expanded": lambda make, l: make(l).expand((2,)),
    "masked": lambda make, l: make(l).mask(True),
    "zero-inflated": lambda make, l: dist.ZeroInflatedDistribution(make(l), gate=0.3),
    "mixture": lambda make, l: dist.MixtureSameFamily(HALF, make(jnp.stack([l, l + 1]))),
    "general mixture": lambda make, l: dist.MixtureGeneral(HALF, [make(l), make(l + 1)]),
}
BERNOULLI, BINOMIAL = dist.Bernoulli, lambda **by: dist.Binomial(3, **by)
CASES = [(holder, trials) for holder in HOLDERS for trials in (BERNOULLI, BINOMIAL)]
CASES.remove(("mixture", BINOMIAL))  # numpyro's mixtures of one family have a fixed support


@pytest.mark.parametrize(("holder", "trials"), CASES)
def test_the_derivative_is_that_by_probabilities(holder, trials):
    def slope(make, change=lambda distribution: distribution):
        held = lambda l: change(HOLDERS[holder](make, l)).log_prob(jnp.ones(())).sum()
        return jax.grad(held)(0.0)

    by_logits = lambda l: trials(logits=l)
    exact = slope(lambda l: trials(probs=jax.nn.sigmoid(l)))
    np.testing.assert_allclose(slope(by_logits, differentiable), exact, rtol=1e-5)
    assert abs(slope(by_logits) - exact) > 0.1  # numpyro's own
