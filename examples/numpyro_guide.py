"""Which causes matter? A NumPyro model whose guide draws discrete switches, fitted by its SVI.

    python examples/numpyro_guide.py [--quick]

Spike and slab regression: y = Σ_j s_j·w_j·x_j + noise with a switch s_j for each cause. The guide
has a switch and a weight per cause. `Trace_ELBO` leaves out the switches' score, with a warning,
and goes astray; `bft.interop.numpyro.loss` differentiates them as their sites say. The truth is a
sum over all 2^D settings.
"""

import argparse
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import bayesft as bft

NUM_ROWS, NUM_CAUSES, NOISE, INCLUDED = 40, 5, 1.0, 0.3


def data() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(3)
    x = draws.normal(size=(NUM_ROWS, NUM_CAUSES))
    weights = np.array([1.2, -0.6, 0.35, 0.0, 0.0])
    return x, x @ weights + NOISE * draws.normal(size=NUM_ROWS)


def model(x, y):
    with numpyro.plate("causes", NUM_CAUSES):
        s = numpyro.sample("s", dist.Bernoulli(INCLUDED))
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x @ (s * w), NOISE).to_event(1), obs=y)


def guide(x, y):
    logits = numpyro.param("logits", jnp.zeros(NUM_CAUSES))
    means = numpyro.param("means", jnp.zeros((2, NUM_CAUSES)))
    scales = numpyro.param(
        "scales", 0.5 * jnp.ones((2, NUM_CAUSES)), constraint=dist.constraints.positive
    )
    with numpyro.plate("causes", NUM_CAUSES):
        each = {"estimator": bft.estimators.leave_one_out(8)}
        s = numpyro.sample("s", dist.Bernoulli(logits=logits), infer=each)
        on = s == 1  # the weight of a cause that is off follows the prior
        mean, scale = (jnp.where(on, two[1], two[0]) for two in (means, scales))
        numpyro.sample("w", dist.Normal(mean, scale))


def exact(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """P(s_j = 1 | y) and log p(y): given the switches, y is normal."""
    settings = np.array(list(itertools.product((0, 1), repeat=NUM_CAUSES)))
    log_joint = np.array(
        [
            stats.bernoulli.logpmf(s, INCLUDED).sum()
            + stats.multivariate_normal.logpdf(
                y, cov=NOISE**2 * np.eye(NUM_ROWS) + (x * s) @ (x * s).T
            )
            for s in settings
        ]
    )
    log_evidence = np.logaddexp.reduce(log_joint)
    return np.exp(log_joint - log_evidence) @ settings, float(log_evidence)


def fit(loss, x, y, num_steps: int):
    svi = SVI(model, guide, optax.adam(0.02), loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Trace_ELBO: "does not support … discrete latents"
        done = svi.run(jax.random.key(0), num_steps, x, y, progress_bar=False)
    return np.asarray(jax.nn.sigmoid(done.params["logits"])), -float(done.losses[-200:].mean())


def main(num_steps: int) -> None:
    x, y = data()
    truth, log_evidence = exact(x, y)
    losses = {"bft.interop.numpyro.loss()": bft.interop.numpyro.loss(), "Trace_ELBO": Trace_ELBO()}
    fitted = {name: fit(loss, x, y, num_steps) for name, loss in losses.items()}

    table = Table(title="P(cause is included | data)", box=box.SIMPLE_HEAD)
    table.add_column("")
    for j in range(NUM_CAUSES):
        table.add_column(f"cause {j + 1}", justify="right")
    table.add_column("log p(y) or its bound", justify="right")
    for name, (included, bound) in (("exact", (truth, log_evidence)), *fitted.items()):
        table.add_row(name, *(f"{p:.3f}" for p in included), f"{bound:.2f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    main(500 if parser.parse_args().quick else 4000)
