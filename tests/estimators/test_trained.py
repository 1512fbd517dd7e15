"""Estimators whose own parameters are trained: less variance, no bias, carried by every driver."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
import pytest

import bayesft as bft
from bayesft.base import Prompt
from bayesft.errors import EstimatorError
from bayesft.program import record, replay_value_and_grad
from bayesft.testing import assert_unbiased

E = bft.estimators
LOGITS = jnp.array([0.3, -0.6, 0.9])


def squares(x):
    """The toy of the REBAR and RELAX papers: E[Σ (x − 0.45)²] of independent bits."""
    return jnp.sum((x - 0.45) ** 2)


def network(params, z):
    hidden = jnp.tanh(params["in"] @ z + params["bias"])
    return params["out"] @ hidden


NETWORK = {
    "in": 0.5 * jnp.cos(jnp.arange(12.0)).reshape(4, 3),
    "bias": jnp.zeros(4),
    "out": 0.1 * jnp.ones(4),
}
TRAINED = {
    "relax": E.relax(network, NETWORK, optax.adam(0.03)),
    "trained_rebar": E.trained_rebar(squares, 2.0, 0.3, optax.adam(0.03)),
}


def toy(estimator):
    def program(logits):
        bits = bft.draw("x", dist.Bernoulli(logits=logits).to_event(1), estimator)
        return squares(bits)

    return program


def exact_gradient():
    mean = lambda logits: jnp.sum(0.45**2 + jax.nn.sigmoid(logits) * (0.55**2 - 0.45**2))
    return jax.grad(mean)(LOGITS)


def trained_state(run, num_steps=400):
    def step(states, i):
        states, _ = run.step(jax.random.fold_in(jax.random.key(0), i), states, LOGITS)
        return states, None

    return jax.lax.scan(step, run.init(LOGITS), jnp.arange(num_steps))[0]


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_variance_and_leaves_the_mean(name):
    run = bft.expectation(toy(TRAINED[name]), require="unbiased")

    @jax.jit
    def gradients(key, states):
        keys = jax.random.split(key, 5_000)
        return jax.vmap(lambda key: run.step(key, states, LOGITS)[1][1])(keys)

    variances = []
    for seed, states in enumerate((run.init(LOGITS), jax.jit(lambda: trained_state(run))())):
        gradient = gradients(jax.random.key(seed), states)
        assert_unbiased(gradient, exact_gradient(), family=4, resolution=0.1)
        variances.append(float(gradient.var(0).sum()))
    assert variances[1] < 0.5 * variances[0]


def test_replays_keep_the_control_variate_and_records_carry_its_parameters():
    estimator = TRAINED["relax"]
    xs = Prompt(
        tokens=jnp.zeros((1, 1), jnp.int32), length=jnp.zeros(1, jnp.int32), id=jnp.arange(1)
    )
    program = lambda logits, x: toy(estimator)(logits)

    @jax.jit
    def one(key):
        keys = jax.random.split(key)
        first = record(program, keys[0], (LOGITS,), xs)
        second = record(program, keys[1], (LOGITS,), xs, states=first.states)
        return replay_value_and_grad(program, lambda p: (p,), LOGITS, second)[1], first.states

    gradient, states = jax.vmap(one)(jax.random.split(jax.random.key(3), 5_000))
    assert_unbiased(gradient, exact_gradient(), resolution=0.1)
    assert all((leaf != leaf[:1]).any() for leaf in jax.tree.leaves(states["x"][0]))


def test_a_learned_baseline_tells_hard_prompts_from_easy_ones():
    """Costs of −20 and +20 by prompt: their mean says nothing, a regression all."""
    language = bft.priors.markov(
        jnp.log(jnp.full(3, 1 / 3)),
        jnp.log(jnp.full((3, 3), 1 / 3)),
        eos=2,
        vocabulary=("a", "b", ""),
    )
    target = bft.Target(language, prompts=["a", "b"], max_new_tokens=3)

    def objective(guide, target, x):
        y = bft.draw("y", guide(x))
        return jnp.where(x.tokens[0] == 0, -20.0, 20.0) + jnp.sum(y == 1)

    def norms(estimator):
        fitted = bft.fit(
            target,
            bft.trainable(language),
            objective=objective,
            estimator=estimator,
            require="unbiased",
            optimizer=optax.sgd(0.0),
            prompts_per_step=1,
            num_steps=40,
            key=jax.random.key(0),
        )
        return np.array([info.metrics["grad_norm"] for info in fitted.history])

    by_prompt = norms(E.learned_baseline(lambda q: jax.nn.one_hot(q.x.tokens[0], 2), 2))
    average = norms(E.moving_average())
    np.testing.assert_allclose(by_prompt[0], average[0], rtol=1e-5)
    assert by_prompt[5:].mean() < 0.2 * average[5:].mean()


def test_misuse_is_refused():
    wrong = E.learned_baseline(lambda d: jnp.ones(3), 2)
    bits = dist.Bernoulli(probs=0.3)
    with pytest.raises(EstimatorError, match=r"'x' have shape \(3,\)[\s\S]*num_features=2"):
        bft.expectation(lambda p: bft.draw("x", bits, wrong)).init(0.3)
    with pytest.raises(EstimatorError, match="is no regression"):
        E.learned_baseline(lambda d: jnp.ones(1), 0)
    with pytest.raises(EstimatorError, match="is no relaxation"):
        E.trained_rebar(squares, temperature=0.0)
