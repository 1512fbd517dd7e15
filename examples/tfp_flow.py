"""A normalising flow of TensorFlow Probability as a guide, and a direction on the circle.

    python examples/tfp_flow.py [--quick]

Bijectors become a numpyro transform, so that the flow is a distribution that `bft.draw` takes; it
is fitted to a banana of known log Z. The second fit is of a von Mises distribution, whose sample
TFP differentiates implicitly, to a bump on the circle; its log Z comes from a sum over the circle.
"""

import argparse

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import optax
from rich import box
from rich.console import Console
from rich.table import Table
from tensorflow_probability.substrates import jax as tfp

import bayesft as bft

tfb, tfd = tfp.bijectors, tfp.distributions
WIDTH, NUM_LAYERS, NUM_SAMPLES = 16, 4, 32
LOG_Z = 1.0  # of the banana: a density times e


def banana(y):
    bent = jnp.stack([y[0], y[1] - 0.5 * (y[0] ** 2 - 1.0)])
    return dist.Normal(0.0, jnp.array([1.0, 0.3])).log_prob(bent).sum() + LOG_Z


def bump(angle):
    return 2.0 * jnp.cos(angle - 1.0) + 0.5 * jnp.cos(2 * angle)


def first_flow(key):
    keys = jax.random.split(key, 2 * NUM_LAYERS).reshape(NUM_LAYERS, 2)
    normal = jax.random.normal
    return [
        {
            "in": normal(one, (1, WIDTH)),
            "bias": jnp.zeros(WIDTH),
            "out": 0.01 * normal(two, (WIDTH, 2)),
        }
        for one, two in keys
    ]


def flow(params):
    """Coupling layers with the coordinates swapped between them."""

    def layer(p):
        def shift_and_log_scale(x, _):
            out = jnp.tanh(x @ p["in"] + p["bias"]) @ p["out"]
            return out[..., :1], jnp.tanh(out[..., 1:])

        return tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=shift_and_log_scale)

    swap = tfb.Permute(jnp.array([1, 0]))
    steps = [bijector for p in params for bijector in (layer(p), swap)]
    base = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    return dist.TransformedDistribution(base, bft.interop.tfp.transform(tfb.Chain(steps)))


def circle(params):
    return tfd.VonMises(params["angle"], jax.nn.softplus(params["raw"]))


def gap(make, log_density):
    """E[log q(y) − log p̃(y)] = KL(q ‖ p) − log Z, differentiated through y."""

    @bft.expectation(estimator=bft.estimators.reparameterize())
    def objective(params):
        y, log_q = bft.draw("y", make(params), with_log_prob=True)
        return log_q - log_density(y)

    def mean(key, params):
        keys = jax.random.split(key, NUM_SAMPLES)
        values, gradients = jax.vmap(objective.value_and_grad, (0, None))(keys, params)
        return values.mean(), jax.tree.map(lambda g: g.mean(0), gradients)

    return mean


def fit(mean, params, num_steps, rate, key):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, num_steps))

    def step(carry, key):
        params, state = carry
        value, gradient = mean(key, params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(key, num_steps)
    (params, _), values = jax.jit(lambda c: jax.lax.scan(step, c, keys))(
        (params, optimizer.init(params))
    )
    return params, values


def main(num_steps: int) -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    angles = jnp.linspace(-jnp.pi, jnp.pi, 1025)[:-1]
    log_z = jax.nn.logsumexp(bump(angles)) + jnp.log(2 * jnp.pi / 1024)
    _, bananas = fit(gap(flow, banana), first_flow(keys[0]), num_steps, 5e-3, keys[1])
    start = {"angle": jnp.array(-1.0), "raw": jnp.array(0.5)}
    found, bumps = fit(gap(circle, bump), start, num_steps, 3e-2, keys[2])
    log_q = circle(found).log_prob(angles)
    kl = jnp.sum(jnp.exp(log_q) * (log_q - bump(angles))) * 2 * jnp.pi / 1024 + log_z

    table = Table(title="KL(guide ‖ target) in nats", box=box.SIMPLE_HEAD)
    for column in ("", "at first", "in the end"):
        table.add_column(column, justify="right" if column else "left")
    tail = num_steps // 10
    for name, values, z in (("flow, banana", bananas, LOG_Z), ("von Mises, bump", bumps, log_z)):
        table.add_row(name, f"{values[0] + z:.3f}", f"{values[-tail:].mean() + z:.3f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"von Mises, by a sum over the circle: {float(kl):.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    main(100 if parser.parse_args().quick else 1500)
