"""A program as a distribution over its choices."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import bayesft as bft
from bayesft.errors import ChoiceError


def chain(mean):
    x = bft.draw("x", dist.Normal(mean, 1.0))
    bft.plate(lambda i: bft.draw("z", dist.Normal(x, 0.5)), 3, name="lanes")
    bft.scan(lambda c, _: (bft.draw("s", dist.Normal(c, 1.0)),) * 2, x, length=2, name="walk")


def joint(mean, trace):
    walk = jnp.concatenate([trace["x"][None], trace["walk"]["s"][:-1]])
    return (
        dist.Normal(mean, 1.0).log_prob(trace["x"])
        + dist.Normal(trace["x"], 0.5).log_prob(trace["lanes"]["z"]).sum()
        + dist.Normal(walk, 1.0).log_prob(trace["walk"]["s"]).sum()
    )


def test_sample_and_log_density_agree_with_the_joint():
    distribution = bft.model(chain)(0.4)
    trace = distribution.sample(jax.random.key(0))
    assert trace["lanes"]["z"].shape == (3,)
    assert trace["walk"]["s"].shape == (2,)
    assert jnp.allclose(distribution.log_density(trace), joint(0.4, trace), rtol=1e-5)
    assert jnp.allclose(distribution.log_prob(trace), joint(0.4, trace), rtol=1e-5)
    gradient = jax.grad(lambda m: bft.model(chain)(m).log_prob(trace))(0.4)
    assert jnp.allclose(gradient, trace["x"] - 0.4, rtol=1e-4)


def test_conditioning_fixes_choices_and_keeps_the_joint():
    trace = bft.model(chain)(0.4).sample(jax.random.key(1))
    conditioned = bft.model(chain)(0.4).condition({"lanes": {"z": trace["lanes"]["z"]}})
    rest = {name: value for name, value in trace.items() if name != "lanes"}
    assert jnp.allclose(conditioned.log_density(rest), joint(0.4, trace), rtol=1e-5)
    for misuse in (
        lambda: conditioned.sample(jax.random.key(0)),
        lambda: conditioned.log_prob(rest),
    ):
        with pytest.raises(ChoiceError, match="conditioned"):
            misuse()


def test_a_trace_must_have_the_programs_choices():
    distribution = bft.model(chain)(0.0)
    trace = distribution.sample(jax.random.key(2))
    with pytest.raises(ChoiceError, match=r"lacks \['x'\]"):
        distribution.log_density({k: v for k, v in trace.items() if k != "x"})
    with pytest.raises(ChoiceError, match="extra"):
        distribution.log_density({**trace, "extra": jnp.zeros(())})


def test_costs_make_a_model_unnormalised():
    def paid(mean):
        x = bft.draw("x", dist.Normal(mean, 1.0))
        bft.cost(x**2)

    distribution = bft.model(paid)(0.0)
    value = distribution.log_density({"x": jnp.float32(1.5)})
    assert jnp.allclose(value, dist.Normal(0.0, 1.0).log_prob(1.5) - 2.25)
    with pytest.raises(ChoiceError, match="costs"):
        distribution.log_prob({"x": jnp.float32(1.5)})


def test_a_model_is_a_choice_of_another_program():
    def program(p):
        inner = bft.model(lambda p: bft.draw("b", dist.Bernoulli(probs=p)))
        trace = bft.draw("inner", inner(p), bft.estimators.score_function())
        return 2.0 * trace["b"]

    expectation = bft.expectation(program)
    keys = jax.random.split(jax.random.key(3), 10_000)
    _, gradient = jax.jit(jax.vmap(lambda k: expectation.value_and_grad(k, 0.3)))(keys)
    bft.testing.assert_unbiased(gradient, 2.0)


def test_a_models_choices_are_those_of_the_program_that_draws_it():
    """Its plate and scan keep their names in the trace, and one estimator serves all choices."""

    def program(mean):
        trace, log_prob = bft.draw(
            "inner", bft.model(chain)(mean), bft.estimators.reparameterize(), with_log_prob=True
        )
        gap = log_prob - joint(mean, trace)
        return trace["lanes"]["z"].sum() + trace["walk"]["s"][-1] + jax.lax.stop_gradient(gap)

    value, gradient = bft.expectation(program).value_and_grad(jax.random.key(4), 0.4)
    assert jnp.allclose(gradient, 4.0)  # each of the four moves with the mean
    shifted, _ = bft.expectation(program).value_and_grad(jax.random.key(4), 1.4)
    assert jnp.allclose(shifted - value, 4.0, atol=1e-4)


def test_what_is_not_normalised_is_no_choice():
    def paid(mean):
        bft.cost(bft.draw("x", dist.Normal(mean, 1.0)))

    conditioned = bft.model(chain)(0.0).condition({"x": jnp.float32(0.0)})
    for distribution, match in ((bft.model(paid)(0.0), "costs"), (conditioned, "conditioned")):
        program = bft.expectation(
            lambda _, d=distribution: bft.draw("m", d, with_log_prob=True)[1],
            estimator=bft.estimators.reparameterize(),
        )
        with pytest.raises(ChoiceError, match=match):
            program.estimate(jax.random.key(0), 0.0)
