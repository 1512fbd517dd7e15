"""The cone: six bounds on one log evidence, from naive to doubly importance-weighted.

    x, y ~ N(0, 10),  z ~ N(x² + y², 0.1 + (x² + y²)/100),  observed z = 5   (standard deviations)

Run from the repository's root: `python paper/experiments/cone.py`. Writes paper/results/cone.json.
Names of bounds as arguments run those alone, and keep the results of the others.
Every run is 5000 steps of SGD at 1e-3 with 64 samples per step (IWELBO: 1), and reports the mean of
5000 evaluations at the last parameters with its standard error.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy import integrate, stats

import bayesft as bft
from bayesft import objectives

OBSERVED = 5.0
LEARNING_RATE, NUM_STEPS, NUM_EVALUATIONS = 1e-3, 5000, 5000
RESULTS = Path(__file__).resolve().parents[1] / "results" / "cone.json"


def log_evidence() -> float:
    """log ∫ N(x; 0, 10) N(y; 0, 10) N(5; r², 0.1 + r²/100) dx dy, over s = r² ~ Exp(mean 200)."""
    density = lambda s: stats.expon.pdf(s, scale=200) * stats.norm.pdf(OBSERVED, s, 0.1 + s / 100)
    value, _ = integrate.quad(density, 0, 100, points=[OBSERVED], epsabs=0, epsrel=1e-10, limit=500)
    return float(np.log(value))


# ---- the model and its guides, as programs -------------------------------------------------------


@bft.model
def cone():
    x = bft.draw("x", dist.Normal(0.0, 10.0))
    y = bft.draw("y", dist.Normal(0.0, 10.0))
    square = x**2 + y**2
    bft.draw("z", dist.Normal(square, 0.1 + square / 100))


@bft.model
def mean_field(params):
    bft.draw("x", dist.Normal(params["mean_x"], jnp.exp(params["log_sd_x"])))
    bft.draw("y", dist.Normal(params["mean_y"], jnp.exp(params["log_sd_y"])))


@bft.model
def ring(params):
    angle = 2 * jnp.pi * bft.draw("u", dist.Uniform(0.0, 1.0))
    radius = jnp.sqrt(OBSERVED)
    bft.draw("x", dist.Normal(radius * jnp.cos(angle), jnp.exp(params["log_sd_x"])))
    bft.draw("y", dist.Normal(radius * jnp.sin(angle), jnp.exp(params["log_sd_y"])))


@bft.model
def uniform_angle():
    bft.draw("u", dist.Uniform(0.0, 1.0))


POSTERIOR = cone().condition({"z": jnp.float32(OBSERVED)})
TARGET = SimpleNamespace(log_density=lambda trace, _: POSTERIOR.log_density(trace))


def naive_guide(params):
    return lambda _: mean_field(params)


def ring_guide(params):
    return bft.distributions.hierarchical_guide(
        lambda _: ring(params), keep=("x", "y"), reverse=lambda kept, _: uniform_angle()
    )


NAIVE = {"mean_x": 0.0, "mean_y": 0.0, "log_sd_x": 1.0, "log_sd_y": 1.0}
RING = {"log_sd_x": 0.0, "log_sd_y": 0.0}
# name: objective, guide, start, samples per step, published value(s)
RUNS = {
    "ELBO": (objectives.reverse_kl, naive_guide, NAIVE, 64, [-8.08]),
    "IWELBO(5)": (objectives.iwae(5), naive_guide, {**NAIVE, "mean_x": 3.0}, 1, [-7.79, -7.67]),
    "HVI": (objectives.hierarchical, ring_guide, RING, 64, [-9.75]),
    "IWHVI(5)": (objectives.iwhvi(5), ring_guide, RING, 64, [-8.18]),
    "DIWHVI(5, 5)": (objectives.diwhvi(5, 5), ring_guide, RING, 64, [-7.33]),
}


# ---- fitting -------------------------------------------------------------------------------------


def mean_estimate(bound, key, params, num_samples):
    return jax.vmap(lambda k: bound.estimate(k, params))(jax.random.split(key, num_samples)).mean()


@functools.partial(jax.jit, static_argnums=(0, 3))
def fit(bound, key, params, num_samples):
    """SGD under one scan: the parameters after the last step."""

    def step(params, key):
        gradient = jax.grad(lambda p: mean_estimate(bound, key, p, num_samples))(params)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient), None

    return jax.lax.scan(step, params, jax.random.split(key, NUM_STEPS))[0]


@functools.partial(jax.jit, static_argnums=0)
def evaluate(bound, key, params):
    keys = jax.random.split(key, NUM_EVALUATIONS)
    return -jax.vmap(lambda k: bound.estimate(k, params))(keys)


def run(name: str, seed: int = 0) -> dict:
    objective, guide, start, num_samples, published = RUNS[name]
    bound = bft.expectation(
        lambda params: objective(guide(params), TARGET, None),
        estimator=bft.estimators.reparameterize(),
    )
    first, last = jax.random.split(jax.random.key(seed))
    started = time.perf_counter()
    params = fit(bound, first, jax.tree.map(jnp.float32, start), num_samples)
    values = np.asarray(evaluate(bound, last, params), np.float64)
    return {
        "value": values.mean(),
        "standard_error": values.std(ddof=1) / np.sqrt(len(values)),
        "published": published,
        "params": {key: float(value) for key, value in params.items()},
        "seconds": time.perf_counter() - started,
    }


def main(names: list[str]) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"bounds": {}}
    results |= {"log_evidence": log_evidence(), "seed": 0}
    print(f"{'log evidence':14s} {results['log_evidence']:9.4f}", flush=True)
    for name in names or RUNS:
        result = results["bounds"][name] = run(name)
        published = " … ".join(f"{value:.2f}" for value in result["published"])
        print(
            f"{name:14s} {result['value']:9.4f} ± {result['standard_error']:.4f}"
            f"   published {published}   {result['seconds']:.0f} s   {result['params']}",
            flush=True,
        )
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
