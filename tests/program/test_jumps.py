"""A jump on the path of a reparameterised value is refused, by whatever route the program is run;
what has a right gradient is not."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from flax import nnx

import bayesft as bft
from bayesft.errors import EstimatorError

PATH, SCORE = bft.estimators.reparameterize(), bft.estimators.score_function()
TABLE = jnp.arange(4.0)


def normal(t, estimator=PATH):
    return bft.draw("z", dist.Normal(t, 1.0), estimator)


def vector(t):
    return bft.draw("z", dist.Normal(t, 1.0).expand([4]).to_event(1), PATH)


def in_plate(t):
    bft.plate(lambda i: bft.cost(jnp.where(normal(t) > i, 1.0, 0.0)), 2)
    return 0.0


def in_scan(t):
    def step(carry, _):
        return jnp.floor(carry + normal(t)), None

    return bft.scan(step, 0.0, length=3)[0]


def carried_through_a_loop(t):
    """What is rounded came into the carry a round before."""

    def step(carry, _):
        older, newer = carry
        return (newer, jnp.round(2.0 * older)), None

    return jax.lax.scan(step, (0.0 * t, normal(t)), None, length=3)[0][1]


def in_bft_cond(t):
    return bft.cond(normal(t) > 0, lambda: 1.0 * t, lambda: 2.0 * t)


def in_while(t):
    return jax.lax.while_loop(lambda c: c < 3.0, lambda c: c + 1.0, normal(t))


def shapes_a_later_choice(t):
    p = jnp.where(normal(t) > 0, 0.9, 0.1)
    return 1.0 * bft.draw("b", dist.Bernoulli(probs=p), SCORE)


JUMPS = {
    "compared": lambda t: jnp.where(normal(t) > 0, 1.0, 2.0),
    "compared by name": lambda t: jnp.where(jnp.less(0.0, normal(t)), 1.0, 2.0),
    "equal": lambda t: (normal(t) == 0.5) * 1.0,
    "floor": lambda t: jnp.floor(3 * normal(t)),
    "round": lambda t: jnp.round(normal(t)),
    "built-in round": lambda t: round(normal(t)),
    "sign": lambda t: jnp.sign(normal(t)),
    "floor division": lambda t: normal(t) // 2.0,
    "integer": lambda t: TABLE[normal(t).astype(int)],
    "argmax": lambda t: TABLE[jnp.argmax(vector(t))],
    "argsort": lambda t: TABLE[jnp.argsort(vector(t))[0]],
    "bins": lambda t: TABLE[jnp.searchsorted(TABLE, normal(t))],
    "remainder": lambda t: normal(t) % 1.0,
    "fmod": lambda t: jnp.fmod(normal(t), 1.0),
    "lax.rem": lambda t: jax.lax.rem(normal(t), 1.0),
    "divmod": lambda t: divmod(normal(t), 1.0)[1],
    "modf": lambda t: jnp.modf(normal(t))[0],
    "around": lambda t: jnp.around(normal(t), 1),
    "copysign": lambda t: jnp.copysign(1.0, normal(t)),
    "int32": lambda t: 1.0 * jnp.int32(normal(t)),
    "array of integers": lambda t: TABLE[jnp.asarray(normal(t), int)],
    "bits": lambda t: 1.0 * jax.lax.bitcast_convert_type(normal(t), jnp.int32),
    "top_k": lambda t: TABLE[jax.lax.top_k(vector(t), 1)[1][0]],
    "sorted by it": lambda t: jax.lax.sort_key_val(vector(t), TABLE)[1][0],
    "ranks": lambda t: jax.scipy.stats.rankdata(vector(t))[0],
    "unwrap": lambda t: jnp.unwrap(9.0 * vector(t))[3],
    "raw cond": lambda t: jax.lax.cond(normal(t) > 0, lambda: t, lambda: 2 * t),
    "raw while": in_while,
    "in jit": lambda t: jax.jit(lambda z: jnp.where(z > 0, 1.0, 2.0))(normal(t)),
    "in vmap": lambda t: jax.vmap(lambda z: jnp.where(z > 0, 1.0, 2.0))(vector(t)).sum(),
    "in checkpoint": lambda t: jax.checkpoint(lambda z: jnp.floor(z) * t)(normal(t)),
    "plate": in_plate,
    "scan": in_scan,
    "carry": carried_through_a_loop,
    "bft.cond": in_bft_cond,
    "a later choice": shapes_a_later_choice,
}
ROUTES = {
    "eager": lambda e: e.estimate(jax.random.key(0), 0.3),
    "jit(grad)": lambda e: jax.jit(lambda p: e.value_and_grad(jax.random.key(0), p))(0.3),
    "vmap": lambda e: jax.vmap(lambda t: e.estimate(jax.random.key(0), t))(jnp.ones(2)),
}


def straight_through(t):
    z = normal(t)
    return z + jax.lax.stop_gradient(jnp.round(z) - z)


def smooth_layers(t):
    z = vector(t)
    layers = (jax.nn.relu, jax.nn.leaky_relu, jax.nn.elu, jax.nn.gelu, jax.nn.softplus, jax.nn.silu)
    total = sum(layer(z).sum() for layer in layers)
    return total + jax.nn.logsumexp(z) + jnp.linalg.norm(z) + jnp.median(z) + jnp.sort(z)[0]


def densities(t):
    p = jax.nn.sigmoid(normal(t))
    total = dist.Beta(2.0, 3.0).log_prob(p) + dist.Gamma(2.0, 1.0).log_prob(jnp.exp(p))
    total += dist.Uniform(0.0, 1.0, validate_args=True).log_prob(p)
    return total + dist.TruncatedNormal(0.0, 1.0, low=-9.0).log_prob(p)


FINE = {
    "abs, clip and maximum": lambda t: (
        lambda z: abs(z) + jnp.clip(z, 0.0, 1.0) + jnp.maximum(z, 0.0)
    )(normal(t)),
    "layers": smooth_layers,
    "densities": densities,
    "straight through": straight_through,
    "declared": lambda t: (lambda z: jnp.where(jax.lax.stop_gradient(z) > 0, z, 0.1 * z))(
        normal(t)
    ),
    "not in the cost": lambda t: (lambda z: (z > 0, z)[1])(normal(t)),
    "without a gradient": lambda t: jnp.where(normal(t, SCORE) > 0, 1.0, 2.0),
    "a mask of NaNs": lambda t: (lambda z: jnp.where(jnp.isnan(z) | ~jnp.isfinite(z), 0.0, z))(
        normal(t)
    ),
    "parameters": lambda t: normal(jnp.where(t > 0, t, 0.0)),
    "interpolated": lambda t: jnp.interp(normal(t), TABLE, TABLE**2),
    "sorted": lambda t: jax.lax.sort_key_val(vector(t), TABLE)[0][0],
    "the largest": lambda t: jax.lax.top_k(vector(t), 2)[0].sum(),
    "nnx": lambda t: nnx.relu(normal(t)),
    "log_mean_exp": lambda t: -bft.log_mean_exp(lambda _: normal(t), 3),
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_is_refused_with_its_line(name):
    with pytest.raises(
        EstimatorError, match=r"'z' is reparameterised.*test_jumps\.py:\d+[\s\S]*measure_valued"
    ):
        bft.expectation(JUMPS[name]).init(0.3)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ["compared", "scan"])
def test_it_is_refused_by_every_route(name, route):
    with pytest.raises(EstimatorError, match="'z' is reparameterised"):
        ROUTES[route](bft.expectation(JUMPS[name]))


@pytest.mark.parametrize("name", FINE)
def test_what_has_a_right_gradient_is_not_refused(name):
    bft.expectation(FINE[name]).init(0.3)


def test_the_gradient_that_is_refused_is_wrong():
    """P(z > 0) by the path is flat; by the score it has the slope of the normal density."""
    program = lambda t, e: jnp.where(normal(t, e) > 0, 1.0, 0.0)
    declared = lambda t: jnp.where(jax.lax.stop_gradient(normal(t)) > 0, 1.0, 0.0)
    keys = jax.random.split(jax.random.key(1), 20_000)
    runs = [bft.expectation(f) for f in (declared, lambda t: program(t, SCORE))]
    gradient = lambda key: [
        run.value_and_grad(jax.random.fold_in(key, i), 0.3)[1] for i, run in enumerate(runs)
    ]
    by_path, by_score = jax.jit(jax.vmap(gradient))(keys)
    slope = float(jnp.exp(dist.Normal(0.0, 1.0).log_prob(0.3)))
    bft.testing.assert_unbiased(by_score, slope, resolution=0.05)
    assert slope > 0.3 and not by_path.any()
