"""A variational autoencoder on MNIST: a training step in four libraries, side by side in one run.

    z ~ N(0, I_10),  x ~ Bernoulli(decoder(z));  q(z | x) = N(encoder(x));  784-200-10, tanh

Every side takes the same step, gradient of the mean negative ELBO (one reparameterised sample, no
closed-form KL) and Adam at 1e-3, on the same batch with the same parameters: JAX written by hand,
bayesft with one choice for the batch, bayesft with one choice for each image in a plate, NumPyro's
SVI and GenJAX's ADEV. Step times are medians over rounds in which all sides run in turns; the first
call, tracing and compiling included, is measured from cleared caches.

Run from the repository's root on an idle machine: `python paper/experiments/vae.py` (about four
minutes; `--quick` to see that it runs). Writes paper/results/vae.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from genjax.adev import expectation, multivariate_normal_diag_reparam
from genjax.pjax import seed

import bayesft as bft

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", ROOT.parent / "shared" / "assets"))
RESULTS = Path(__file__).resolve().parents[1] / "results" / "vae.json"
BATCHES, FIRST_CALLS = (64, 128, 256, 512, 1024), (64, 1024)
PIXELS, HIDDEN, LATENT = 784, 200, 10
OPTIMIZER = optax.adam(1e-3)
REPARAMETERIZE = bft.estimators.reparameterize()

# ---- the networks, shared by all sides -----------------------------------------------------------


def layer(key: jax.Array, fan_in: int, fan_out: int) -> dict:
    weights = jax.random.normal(key, (fan_in, fan_out)) * fan_in**-0.5
    return {"weights": weights, "bias": jnp.zeros(fan_out)}


def initial_params(key: jax.Array) -> dict:
    shapes = {
        "encoder": (PIXELS, HIDDEN),
        "loc": (HIDDEN, LATENT),
        "log_scale": (HIDDEN, LATENT),
        "decoder": (LATENT, HIDDEN),
        "logits": (HIDDEN, PIXELS),
    }
    keys = jax.random.split(key, len(shapes))
    return {name: layer(k, *shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}


def linear(params: dict, x: jax.Array) -> jax.Array:
    return x @ params["weights"] + params["bias"]


def encode(params: dict, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    hidden = jnp.tanh(linear(params["encoder"], x))
    return linear(params["loc"], hidden), jnp.exp(linear(params["log_scale"], hidden))


def decode(params: dict, z: jax.Array) -> jax.Array:
    return linear(params["logits"], jnp.tanh(linear(params["decoder"], z)))


# ---- the sides: each gives (state, step), step(state, key, images) -> (state, loss) --------------


def normal_log_prob(x, loc, scale):
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * jnp.log(2 * jnp.pi)


def bernoulli_log_prob(x, logits):
    return x * logits - jax.nn.softplus(logits)


def adam(value_and_grad: Callable) -> tuple:
    def step(state, key, images):
        params, moments = state
        value, gradient = value_and_grad(key, params, images)
        updates, moments = OPTIMIZER.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    params = initial_params(jax.random.key(0))
    return (params, OPTIMIZER.init(params)), step


def by_hand():
    def loss(params, key, images):
        loc, scale = encode(params, images)
        z = loc + scale * jax.random.normal(key, loc.shape)
        log_q = normal_log_prob(z, loc, scale).sum()
        log_p = (
            normal_log_prob(z, 0.0, 1.0).sum() + bernoulli_log_prob(images, decode(params, z)).sum()
        )
        return (log_q - log_p) / len(images)

    return adam(lambda key, params, images: jax.value_and_grad(loss)(params, key, images))


def log_joint(params, z, images):
    log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum()
    return log_prior + dist.Bernoulli(logits=decode(params, z)).log_prob(images).sum()


def bayesft_batch():
    @bft.expectation(estimator=REPARAMETERIZE)
    def negative_elbo(params, images):
        q = dist.Normal(*encode(params, images)).to_event(2)
        z, log_q = bft.draw("z", q, with_log_prob=True)
        return (log_q - log_joint(params, z, images)) / len(images)

    return adam(negative_elbo.value_and_grad)


def bayesft_plate():
    @bft.expectation(estimator=REPARAMETERIZE)
    def negative_elbo(params, images):
        def of_image(i):
            q = dist.Normal(*encode(params, images[i])).to_event(1)
            z, log_q = bft.draw("z", q, with_log_prob=True)
            bft.cost((log_q - log_joint(params, z, images[i])) / len(images))

        bft.plate(of_image, len(images))
        return 0.0

    return adam(negative_elbo.value_and_grad)


def numpyro_svi():
    def params_of(start):
        return {
            name: {part: numpyro.param(f"{name}.{part}", value) for part, value in each.items()}
            for name, each in start.items()
        }

    start = initial_params(jax.random.key(0))

    def model(images):
        params = params_of(start)
        with numpyro.plate("images", len(images)), numpyro.handlers.scale(scale=1 / len(images)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1.0).to_event(1))
            pixels = dist.Bernoulli(logits=decode(params, z)).to_event(1)
            numpyro.sample("x", pixels, obs=images)

    def guide(images):
        params = params_of(start)
        with numpyro.plate("images", len(images)), numpyro.handlers.scale(scale=1 / len(images)):
            numpyro.sample("z", dist.Normal(*encode(params, images)).to_event(1))

    svi = numpyro.infer.SVI(model, guide, OPTIMIZER, numpyro.infer.Trace_ELBO())
    state = svi.init(jax.random.key(0), jnp.zeros((2, PIXELS)))
    return state, lambda state, key, images: svi.update(state, images)


def genjax_adev():
    def value_and_grad(key, params, images):
        @expectation
        def negative_elbo(params):
            loc, scale = encode(params, images)
            z = multivariate_normal_diag_reparam(loc.ravel(), scale.ravel()).reshape(loc.shape)
            log_q = normal_log_prob(z, loc, scale).sum()
            log_p = normal_log_prob(z, 0.0, 1.0).sum()
            log_p += bernoulli_log_prob(images, decode(params, z)).sum()
            return (log_q - log_p) / len(images)

        # ADEV gives the gradient alone; no side's loss is read.
        return jnp.zeros(()), seed(negative_elbo.grad_estimate)(key, params)

    return adam(value_and_grad)


SIDES = {
    "by hand": by_hand,
    "bayesft": bayesft_batch,
    "bayesft, plate": bayesft_plate,
    "numpyro SVI": numpyro_svi,
    "genjax": genjax_adev,
}


# ---- measuring -----------------------------------------------------------------------------------


def digits(size: int) -> jax.Array:
    images = np.load(ASSETS / "mnist" / "mnist_train_12k.npz")["x"][:size]
    return jnp.asarray(images.reshape(size, PIXELS) > 127, jnp.float32)


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


def first_calls(size: int, rounds: int) -> dict[str, float]:
    """Median seconds of the first step of every side, from cleared caches."""
    images, key = digits(size), jax.random.key(1)
    found: dict[str, list[float]] = {name: [] for name in SIDES}
    for _ in range(rounds):
        for name, make in SIDES.items():
            state, step = make()
            jax.clear_caches()
            found[name].append(
                seconds(lambda step=step, state=state: jax.jit(step)(state, key, images))
            )
    return {name: statistics.median(values) for name, values in found.items()}


def steps(size: int, rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Seconds per step of every side in every round; the order turns from round to round."""
    images, keys = digits(size), jax.random.split(jax.random.key(2), num_steps)
    ready = {}
    for name, make in SIDES.items():
        state, step = make()
        jitted = jax.jit(step, donate_argnums=0)
        ready[name] = (jitted, jax.block_until_ready(jitted(state, keys[0], images))[0])

    def run(name: str) -> float:
        step, state = ready[name]
        started = time.perf_counter()
        for key in keys:
            state, _ = step(state, key, images)
        jax.block_until_ready(state)
        ready[name] = (step, state)
        return (time.perf_counter() - started) / num_steps

    keys = list(keys)
    names = list(SIDES)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            found[name].append(run(name))
    return found


def gradients_agree(size: int = 64, num_draws: int = 300) -> dict[str, float]:
    """Largest gap of a side's mean gradient from the one by hand, in standard errors of the gap."""
    images = digits(size)

    def means(make):
        state, step = make()

        @jax.jit
        def of_key(key):
            after, _ = step(state, key, images)
            return (
                jnp.concatenate([m.ravel() for m in jax.tree.leaves(after[1][0].mu)])[::997] / 0.1
            )

        found = np.stack([of_key(key) for key in jax.random.split(jax.random.key(3), num_draws)])
        return found.mean(0), found.var(0) / num_draws

    sides = {name: means(make) for name, make in SIDES.items() if name != "numpyro SVI"}
    mean, variance = sides.pop("by hand")
    return {
        name: float(np.max(np.abs(m - mean) / np.sqrt(v + variance + 1e-20)))
        for name, (m, v) in sides.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A VAE step in four libraries, side by side.")
    parser.add_argument("--quick", action="store_true", help="one round of two sizes, no results")
    parser.add_argument("--check", action="store_true", help="compare gradients, and stop")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # first calls compile
    if args.check:
        print(gradients_agree())
        return
    rounds = 1 if args.quick else 25
    results: dict = {"cores": os.cpu_count(), "first_call_seconds": {}, "step_seconds": {}}
    results |= {"step_over_by_hand": {}, "first_call_over_by_hand": {}}
    for size in FIRST_CALLS[: 1 if args.quick else None]:
        found = first_calls(size, 1 if args.quick else 5)
        ratios = {name: value / found["by hand"] for name, value in found.items()}
        results["first_call_seconds"][size] = found
        results["first_call_over_by_hand"][size] = ratios
        print(f"first call, batch {size}:", line(found, ratios, 1.0, "s"), flush=True)
    for size in BATCHES[: 1 if args.quick else None]:
        found = steps(size, rounds, num_steps=max(5, 6400 // size))
        medians = {name: statistics.median(values) for name, values in found.items()}
        # Of each round, since what else the machine does is then the same for both.
        ratios = {
            name: statistics.median(np.divide(values, found["by hand"]).tolist())
            for name, values in found.items()
        }
        results["step_seconds"][size], results["step_over_by_hand"][size] = medians, ratios
        print(f"step, batch {size}:", line(medians, ratios, 1e3, "ms"), flush=True)
    if not args.quick:
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def line(values: dict, ratios: dict, scale: float, unit: str) -> str:
    cells = (f"{n} {scale * v:.2f} {unit} ({ratios[n]:.3f}×)" for n, v in values.items())
    return "; ".join(cells)


if __name__ == "__main__":
    main()
