"""A latent topic vector that prompts a story model: noise in a soft prompt, evidence on the text.

    python examples/topic_prompt.py [--quick] [--json FILE]

The guide draws a topic z and then a text y after a soft prompt that z makes,

    z ~ N(μ, σ)    reparameterised: its gradient is that of its path, through the soft prompt,
    y ~ π(y | e(z), x),   e(z) = e_0 + Σ_d z_d·e_d    tokens: their gradient is that of their score,

and is fitted to a target π0(y | x)·φ(y, x) of texts alone by a bound with the reverse model
r(z | y) = N(z; 0, 1) (hierarchical variational inference, Ranganath et al. 2016),

    E_q[log q(z) − log r(z | y) + log π(y | e(z), x) − log π0(y | x) − log φ(y, x)] ≥ −log Z.

First both gradients are held against quadrature and enumeration, on a prior of three tokens. Model
and data are taken from $BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import optax
from rich import box
from rich.console import Console
from rich.table import Table

import bayesft as bft
from bayesft.base import Prompt
from bayesft.priors.sequence import SequenceDistribution, normalised
from bayesft.priors.stepped import SteppedPrior
from bayesft.program import record, replay_value_and_grad
from bayesft.report import palette
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))


# ---- the guide and its bound ---------------------------------------------------------------------


def start(base: jax.Array, num_topics: int, scale: float, key: jax.Array) -> dict:
    """μ = 0 and σ = 1 [topics], e_0 = `base` [S, D], and small random e_1, … [topics, S, D]."""
    return {
        "mean": jnp.zeros(num_topics),
        "log_sd": jnp.zeros(num_topics),
        "base": base,
        "topics": scale * jax.random.normal(key, (num_topics, *base.shape)),
    }


def soft_prompt(params: dict, z: jax.Array) -> jax.Array:
    return params["base"] + jnp.tensordot(z, params["topics"], 1)


def prompted(params: dict, z: jax.Array, target: bft.Target, x: Prompt) -> SequenceDistribution:
    """Texts after the soft prompt, which stands in place of the first S tokens of the prompt."""
    soft = soft_prompt(params, z)
    rest = {"tokens": x.tokens[len(soft) :], "length": x.length - len(soft)}
    x = dataclasses.replace(x, soft=soft, **rest)
    return SequenceDistribution(target.prior, x, normalised(target.horizon))


def bound_of(num_lanes: int):
    """The bound as a program, its two choices with estimators of their own."""

    def bound(params: dict, target: bft.Target, x: Prompt):
        q_z = dist.Normal(params["mean"], jnp.exp(params["log_sd"])).to_event(1)
        z, log_q_z = bft.draw("z", q_z, bft.estimators.reparameterize(), with_log_prob=True)
        text = prompted(params, z, target, x)
        estimator = bft.estimators.leave_one_out(num_lanes)
        y, log_q_y = bft.draw("y", text, estimator, with_log_prob=True)
        log_r = dist.Normal(0.0, 1.0).log_prob(z).sum()
        # E_y[∇ log π(y | e(z))] = 0 at every z: its noise is left out.
        return log_q_z - log_r + jax.lax.stop_gradient(log_q_y) - target.log_density(y, x)

    return bound


def value_and_grad(bound, key: jax.Array, params: dict, target: bft.Target, xs: Prompt):
    """Record lanes, ask Python for the evidence of all of them at once, and differentiate."""
    resolve = target.evaluate_host if target.host_terms else None
    recording = record(bound, key, (params, target), xs, resolve=resolve)
    return replay(bound, params, target, recording)


def replay(bound, params: dict, target: bft.Target, recording):
    return replay_value_and_grad(bound, lambda params: (params, target), params, recording)


# ---- the enumerable model ------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftMarkov(SteppedPrior):
    """A Markov chain that adds its soft prompt, [1, V], to the logits of every token."""

    initial_logits: jax.Array
    transition_logits: jax.Array
    eos: tuple[int, ...] = dataclasses.field(default=(2,), metadata={"static": True})
    vocabulary: None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def vocab_size(self) -> int:
        return self.initial_logits.shape[-1]

    def init(self, x: Prompt):
        shift = jnp.zeros(self.vocab_size) if x.soft is None else x.soft[0]
        return shift, self.initial_logits + shift

    def step(self, state, token):
        return state, self.transition_logits[token] + state


def toy_target() -> bft.Target:
    random = np.random.default_rng(0)
    prior = SoftMarkov(jnp.float32(random.normal(size=3)), jnp.float32(random.normal(size=(3, 3))))
    evidence = bft.evidence.potential(
        lambda tokens, length: 1.5 * (tokens == 0).sum() - 0.5 * length
    )
    return bft.Target(prior, evidence, prompts=[[0]], max_new_tokens=3)


def toy_params() -> dict:
    params = start(jnp.asarray([[0.5, -0.3, 0.1]]), 1, 0.8, jax.random.key(0))
    return params | {"mean": jnp.asarray([0.7]), "log_sd": jnp.asarray([-0.4])}


def exact_bound(params: dict, every: bft.testing.Enumeration, num_nodes: int = 48):
    """The bound by Gauss–Hermite quadrature over one topic and enumeration of the texts."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    tokens, x = jnp.asarray(every.tokens), every.x
    log_density = jnp.asarray(every.log_prior + every.log_evidence, jnp.float32)

    def at(node):
        z = params["mean"] + jnp.exp(params["log_sd"]) * node
        log_q = jax.vmap(prompted(params, z, every.target, x).log_prob)(tokens)
        gap = jnp.exp(log_q) @ (log_q - log_density)
        log_ratio = dist.Normal(params["mean"], jnp.exp(params["log_sd"])).log_prob(z)
        return (log_ratio - dist.Normal(0.0, 1.0).log_prob(z)).sum() + gap

    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    return weights @ jax.vmap(at)(jnp.asarray(nodes, jnp.float32))


def toy_gradients(num_runs: int, num_lanes: int = 4, seed: int = 0):
    """The exact (value, gradient), and `num_runs` independent estimates of it."""
    target, params, bound = toy_target(), toy_params(), bound_of(num_lanes)
    every = bft.testing.enumerate_target(target)
    exact = jax.jit(jax.value_and_grad(lambda params: exact_bound(params, every)))(params)
    estimate = jax.jit(jax.vmap(lambda key: value_and_grad(bound, key, params, target, target.xs)))
    return exact, estimate(jax.random.split(jax.random.key(seed), num_runs))


def gradients_table(num_runs: int) -> Table:
    (_, exact), (_, estimates) = toy_gradients(num_runs)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in (
        "parameter",
        "exact gradient",
        "mean of estimates",
        "standard error",
        "gap / error",
    ):
        table.add_column(column, justify="left" if column == "parameter" else "right")
    for name, values in exact.items():
        found = np.asarray(estimates[name], np.float64).reshape(num_runs, -1)
        errors = found.std(0, ddof=1) / np.sqrt(num_runs)
        rows = zip(np.ravel(values), found.mean(0), errors, strict=True)
        for i, (truth, mean, error) in enumerate(rows):
            cells = (
                f"{truth:+.4f}",
                f"{mean:+.4f}",
                f"{error:.4f}",
                f"{(mean - truth) / error:+.1f}",
            )
            table.add_row(f"{name}[{i}]", *cells)
    return table


# ---- stories -------------------------------------------------------------------------------------


def pets(completions: list[str]) -> list[float]:
    return [float(bool(re.search(r"\b(cat|dog)s?\b", text.lower()))) for text in completions]


def fit(bound, params: Any, target: bft.Target, num_steps: int, rate: float, key, report):
    """Parameters after Adam, one recording a step."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.adam(optax.cosine_decay_schedule(rate, num_steps, alpha=0.1)),
    )
    state = optimizer.init(params)
    replayed = jax.jit(lambda params, recording: replay(bound, params, target, recording))
    for step in range(num_steps):
        recording = record(
            bound,
            jax.random.fold_in(key, step),
            (params, target),
            target.xs,
            resolve=target.evaluate_host,
        )
        value, gradient = replayed(params, recording)
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        report(step, float(value))
    return params


def told(
    params: dict, target: bft.Target, num: int, key: jax.Array
) -> tuple[np.ndarray, list[str]]:
    """Topics [num, D] of the guide, and a text after each."""
    x = jax.tree.map(lambda a: a[0], target.xs)

    @jax.jit
    @jax.vmap
    def draw(key):
        keys = jax.random.split(key)
        noise = jax.random.normal(keys[0], params["mean"].shape)
        z = params["mean"] + jnp.exp(params["log_sd"]) * noise
        return z, prompted(params, z, target, x).sample(keys[1])

    topics, tokens = draw(jax.random.split(key, num))
    return np.asarray(topics), [target.prior.decode(row) for row in np.asarray(tokens)]


def bound_at(bound, params: dict, target: bft.Target, num_recordings: int, key: jax.Array):
    """Mean of the bound over fresh recordings, and its standard error over lanes."""
    costs = [
        record(bound, each, (params, target), target.xs, resolve=target.evaluate_host).costs
        for each in jax.random.split(key, num_recordings)
    ]
    values = np.ravel(costs)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def main(num_runs: int, num_tokens: int, num_lanes: int, num_steps: int, out: Path | None):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))

    console.print("[bold]Gradients on the enumerable model[/]")
    with progress.call("estimating gradients"):
        table = gradients_table(num_runs)
    console.print(table, f"{num_runs:,} estimates of four lanes each.\n")

    # log φ = 4 where the story has a cat or a dog in it.
    lm = bft.lm.load(ASSETS / "stories260K")
    prompt = "Once upon a time"
    evidence = bft.evidence.reward(pets, beta=0.25, bounds=(0, 1))
    target = bft.Target(lm, evidence, prompts=[prompt], max_new_tokens=num_tokens)
    with progress.call("sampling the prior"):
        prior = bft.sample(target, bft.samplers.importance(32 * num_lanes), next(keys))
    share = float(np.mean(pets(prior.text[0])))

    # The soft prompt starts as the prompt itself, up to its last token, and the topics as little.
    ids = jnp.asarray(lm.encode(prompt)[:-1])
    first = start(lm.decoder().embedding[...][ids], 2, 0.02, next(keys))
    bound, key = bound_of(num_lanes), next(keys)
    with progress.call("evaluating the bound"):
        before = bound_at(bound, first, target, 16, key)

    def report(step: int, value: float) -> None:
        if (step + 1) % 25 == 0:
            console.print(f"step {step + 1}: {value:+.3f} nats", style="dim")

    fitted = fit(bound, first, target, num_steps, 0.01, next(keys), report)
    with progress.call("evaluating the bound"):
        after = bound_at(bound, fitted, target, 16, key)

    draw_key = next(keys)
    drawn = {name: told(p, target, 16 * num_lanes, draw_key) for name, p in
             (("before", first), ("after", fitted))}  # fmt: skip
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("", "bound on −log Z", "stories with a cat or a dog"):
        table.add_column(column, justify="right" if column else "left")
    posterior = share * np.exp(4) / (share * np.exp(4) + 1 - share)
    error = float(np.sqrt(share * (1 - share) / len(prior.text[0])))
    log_z = float(prior.log_z[0])  # pyright: ignore[reportOptionalSubscript]
    table.add_row("prior", f"{-4 * share:+.3f}", f"{share:.1%} ± {error:.1%}")
    rows = {}
    for name, (value, spread) in (("before", before), ("after", after)):
        hits = np.asarray(pets(drawn[name][1]))
        rows[name] = {"bound": value, "error": spread, "share": float(hits.mean())}
        error = hits.std() / np.sqrt(len(hits))
        table.add_row(f"guide {name} its fit", f"{value:+.3f} ± {spread:.3f}",
                      f"{hits.mean():.1%} ± {error:.1%}")  # fmt: skip
    table.add_row("posterior", f"{-log_z:+.3f} (= −log Z)", f"{posterior:.1%}")
    console.print(table, "± one standard error.\n")
    for z, text in list(zip(*drawn["after"], strict=True))[:6]:
        console.print(f"z = {np.round(z, 2)}", style=palette.MUTED)
        console.print(" ".join(text.split()), markup=False)
    if out is not None:
        found = {"log_z": log_z, "prior_share": share, "posterior_share": float(posterior), **rows}
        found |= {"steps": num_steps, "lanes": num_lanes, "tokens": num_tokens}
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    main(*((500, 8, 4, 2) if args.quick else (20_000, 24, 64, 200)), out=args.json)
