"""Choices inside raw JAX transformations are refused, by whatever route the program is run."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from flax import nnx

import bayesft as bft
from bayesft.errors import ChoiceError

SCORE = bft.estimators.score_function()


def choice(p):
    return bft.draw("b", dist.Bernoulli(probs=p), SCORE).astype(jnp.float32)


def custom_vjp(p):
    wrapped = jax.custom_vjp(choice)
    wrapped.defvjp(lambda p: (choice(p), p), lambda _, g: (g,))
    return wrapped(p)


def custom_jvp(p):
    wrapped = jax.custom_jvp(choice)
    wrapped.defjvp(lambda p, t: (choice(p[0]), t[0]))
    return wrapped(p)


RAW = {
    "scan": lambda p: jax.lax.scan(lambda c, _: (c, choice(p)), 0.0, None, 3)[1].sum(),
    "map": lambda p: jax.lax.map(lambda i: choice(p), jnp.arange(2)).sum(),
    "fori_loop": lambda p: jax.lax.fori_loop(0, 3, lambda i, c: c + choice(p), 0.0),
    "while_loop": lambda p: jax.lax.while_loop(lambda c: c < 1, lambda c: c + 1 + choice(p), 0.0),
    "cond": lambda p: jax.lax.cond(p > 0.0, choice, choice, p),
    "cond on a constant": lambda p: jax.lax.cond(True, choice, choice, p),
    "switch": lambda p: jax.lax.switch(0, [choice, choice], p),
    "jit": lambda p: jax.jit(choice)(p),
    "jit without arguments": lambda p: jax.jit(lambda: choice(0.3))(),
    "vmap": lambda p: jax.vmap(lambda i: choice(p))(jnp.arange(3)).sum(),
    "checkpoint": lambda p: jax.checkpoint(choice)(p),
    "grad": lambda p: jax.grad(lambda q: choice(q) * q)(p),
    "jvp": lambda p: jax.jvp(choice, (p,), (1.0,))[0],
    "custom_vjp": custom_vjp,
    "custom_jvp": custom_jvp,
    "nnx.jit": lambda p: nnx.jit(choice)(p),
    "nnx.remat": lambda p: nnx.remat(choice)(p),
}
ROUTES = {
    "eager": lambda e: e.estimate(jax.random.key(0), 0.3),
    "jit(grad)": lambda e: jax.jit(lambda p: e.value_and_grad(jax.random.key(0), p))(0.3),
    "vmap": lambda e: jax.vmap(lambda k: e.estimate(k, 0.3))(
        jax.random.split(jax.random.key(0), 2)
    ),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", RAW)
def test_a_choice_in_raw_control_flow_is_refused(name, route):
    with pytest.raises(ChoiceError, match=r"(?s)'b'.*raw JAX.*bft\.scan, bft\.plate or bft\.cond"):
        ROUTES[route](bft.expectation(RAW[name]))


def test_a_choice_in_associative_scan_is_a_duplicate():
    """It calls its function as plain Python, several times in the trace of the program."""

    def program(p):
        return jax.lax.associative_scan(lambda a, c: a + c + choice(p), jnp.arange(4.0)).sum()

    with pytest.raises(ChoiceError, match=r"'b' stands twice"):
        bft.expectation(program).estimate(jax.random.key(0), 0.3)


def test_costs_and_loops_in_raw_control_flow_are_refused():
    def paid(p):
        return jax.lax.map(lambda i: bft.cost(p) or 0.0, jnp.arange(2)).sum()

    def plated(p):
        return jax.lax.map(lambda i: bft.plate(lambda j: choice(p), 2).sum(), jnp.arange(2)).sum()

    for program in (paid, plated):
        with pytest.raises(ChoiceError, match="raw JAX"):
            bft.expectation(program).estimate(jax.random.key(0), 0.3)


def test_a_helper_that_was_refused_once_is_refused_again():
    helper = jax.jit(lambda p: p + choice(p))
    for _ in range(2):
        with pytest.raises(ChoiceError, match="raw JAX"):
            bft.expectation(helper).estimate(jax.random.key(0), 0.3)


def test_raw_control_flow_without_choices_is_free():
    def program(p):
        return jax.lax.fori_loop(0, 3, lambda i, c: c + p, choice(p))

    gradient = bft.expectation(program).value_and_grad(jax.random.key(0), 0.3)[1]
    assert jnp.isfinite(gradient)
