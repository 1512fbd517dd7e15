"""Collapse: reward alone, reverse KL and forward KL from the same start on a story model.

    reward alone   min −E_q[log φ]
    reverse KL     min KL(q ‖ p*) = −E_q[log φ] + KL(q ‖ π0) + log Z
    forward KL     min KL(p* ‖ q), by draws of q weighted to p* (distributional policy gradients)

with log φ = sadness/β. Each run has the same LoRA guide, optimiser and number of lanes; along it
stand the entropy of q, distinct-n, reward, and both KLs from the posterior: KL(q ‖ p*) from draws
of q, KL(p* ‖ q) and log Z from exact draws of p* by rejection (Korbak, Perez and Buckley 2022).

Run from the repository's root: `python paper/experiments/collapse.py` (minutes; `--quick` to see
that it runs). Writes paper/results/collapse.json and paper/results/collapse.svg; a run that was
interrupted goes on with the objectives that the file lacks.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import string
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import bayesft as bft
from bayesft._fit import Observing
from bayesft.priors.scoring import log_probs
from bayesft.priors.sequence import bind, normalised
from bayesft.program import record, replay_value_and_grad
from bayesft.report.figure import ACCENT, CURVE, MUTED, drawing

ROOT = Path(__file__).resolve().parents[2]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", ROOT.parent / "shared" / "assets"))
RESULTS = Path(__file__).resolve().parents[1] / "results"
BETA, NUM_TOKENS, NUM_LANES, RATE = 0.3, 32, 64, 5e-4
ORDERS = ("distinct-1", "distinct-2", "distinct-3")


def sadness_of(valences: dict[str, float]):
    """Minus the sentiment score s/√(s² + 15), s the summed valences of a text's words."""

    def sadness(completions: list[str]) -> list[float]:
        words = [[w.strip(string.punctuation) for w in t.lower().split()] for t in completions]
        totals = [sum(valences.get(word, 0.0) for word in each) for each in words]
        return [-total / math.sqrt(total * total + 15) for total in totals]

    return sadness


def story_target() -> bft.Target:
    lines = (ASSETS / "sentiment" / "vader_lexicon.txt").read_text("utf-8").splitlines()
    valences = {word: float(mean) for word, mean, *_ in (line.split("\t") for line in lines)}
    lm = bft.lm.load(ASSETS / "stories260K")
    evidence = bft.evidence.reward(sadness_of(valences), beta=BETA, bounds=(-1, 1))
    return bft.Target(lm, evidence, prompts=["Once upon a time"], max_new_tokens=NUM_TOKENS)


# ---- objectives and their runs -------------------------------------------------------------------


def reward_alone(guide, target, x):
    """−E_q[log φ]: nothing keeps q near π0."""
    return -target.log_evidence(bft.draw("y", guide(x)), x)


OBJECTIVES = {
    "reward alone": reward_alone,
    "reverse KL": bft.objectives.reverse_kl,
    "forward KL": bft.objectives.forward_kl(
        lambda q: bft.samplers.importance(NUM_LANES, proposal=q)
    ),
}


def train(objective: Any, target: bft.Target, guide, num_steps: int, every: int, key):
    """Yields (step, guide) before the first step and after every `every`-th."""
    estimator = bft.estimators.leave_one_out(NUM_LANES)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(RATE))
    state = optimizer.init(guide.params)
    with_params = lambda params: (bind(guide, target.horizon).with_params(params), target)

    @jax.jit
    def update(params, state, recording):
        _, gradient = replay_value_and_grad(
            objective, with_params, params, recording, estimator=estimator
        )
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params = guide.params
    for step in range(num_steps + 1):
        if step % every == 0:
            yield step, guide.with_params(params)
        keys = jax.random.split(jax.random.fold_in(key, step))
        args, xs = with_params(params), target.xs
        if isinstance(objective, Observing):
            xs = objective.observe(target, guide.with_params(params), keys[0])
        recording = record(
            objective, keys[1], args, xs, estimator=estimator, resolve=target.evaluate_host
        )
        params, state = update(params, state, recording)


# ---- what is measured ----------------------------------------------------------------------------


def measured(target: bft.Target, guide, exact: bft.Draws, num_samples: int, key) -> dict:
    """Where a guide stands; KLs and entropy in nats, each [value, standard error]."""
    keys = jax.random.split(key)
    log_z = float(exact.log_z[0])  # pyright: ignore[reportOptionalSubscript]
    own = bft.sample(target, bft.samplers.importance(num_samples, proposal=guide), keys[0])
    log_evidence = np.asarray(own.log_evidence[0], np.float64)
    log_ratio = np.asarray(own.log_weights[0], np.float64)  # log π0·φ/q
    log_q = np.asarray(own.log_prior[0], np.float64) + log_evidence - log_ratio
    log_density = np.asarray(exact.log_prior + exact.log_evidence, np.float64)[0]
    horizon = normalised(target.horizon)
    scored = log_probs(guide, np.asarray(exact.tokens), target.xs, horizon)[0]
    table = bft.diagnostics.collapse(
        target, keys[1], draws={"q": equal(own)}, num_samples=num_samples
    )
    return {
        "entropy": mean(-log_q),
        "reward": mean(BETA * log_evidence),
        "reverse_kl": mean(log_z - log_ratio),
        "forward_kl": mean(log_density - log_z - scored),
        "kl_from_prior": mean(log_evidence - log_ratio),
        **dict(zip(ORDERS, table.rows[1].distinct[0].tolist(), strict=True)),
    }


def equal(draws: bft.Draws) -> bft.Draws:
    """The draws as they are, without the weights that would make them draws of the target."""
    claim = dataclasses.replace(draws.claim, kind="another law", detail="the guide")
    return dataclasses.replace(draws, log_weights=jnp.zeros_like(draws.log_weights), claim=claim)


def mean(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def of_posterior(target: bft.Target, exact: bft.Draws, num_samples: int, key) -> dict:
    log_z = float(exact.log_z[0])  # pyright: ignore[reportOptionalSubscript]
    log_density = np.asarray(exact.log_prior + exact.log_evidence, np.float64)[0]
    table = bft.diagnostics.collapse(target, key, draws={"p": exact}, num_samples=num_samples)
    return {
        "log_z": log_z,
        "acceptance": float(exact.info["acceptance"][0]),
        "num_draws": int(exact.tokens.shape[1]),
        "entropy": mean(log_z - log_density),
        "reward": mean(BETA * np.asarray(exact.log_evidence[0], np.float64)),
        **dict(zip(ORDERS, table.rows[1].distinct[0].tolist(), strict=True)),
    }


# ---- the figure ----------------------------------------------------------------------------------

PANELS = {
    "entropy": "entropy of q, nats",
    "distinct-2": "distinct-2",
    "reward": "sadness",
    "reverse_kl": "KL(q ‖ p*), nats",
    "forward_kl": "KL(p* ‖ q), nats",
}
COLOURS = dict(zip(OBJECTIVES, (ACCENT, CURVE, "#2e7d4f"), strict=True))


def figure(results: dict) -> str:
    with drawing(6.0, 9.0, num_rows=len(PANELS), sharex=True) as found:
        for axis, (quantity, label) in zip(found.axes, PANELS.items(), strict=True):
            for name, rows in results["runs"].items():
                values = [row[quantity] for row in rows]
                values = [v[0] if isinstance(v, list) else v for v in values]
                axis.plot([row["step"] for row in rows], values, color=COLOURS[name], label=name)
            known = results["posterior"].get(quantity)
            if known is not None:
                level = known[0] if isinstance(known, list) else known
                axis.axhline(level, color=MUTED, linestyle=":", label="posterior")
            axis.set_ylabel(label)
            if quantity.endswith("kl"):
                axis.set_yscale("symlog")
        found.axes[0].legend(ncols=2, fontsize=8)
        found.axes[-1].set_xlabel("gradient steps")
    return found.svg


def main() -> None:
    parser = argparse.ArgumentParser(description="Reward alone, reverse KL and forward KL.")
    parser.add_argument("--quick", action="store_true", help="two steps, nothing is written")
    quick = parser.parse_args().quick
    num_steps, every, num_samples, num_exact = (2, 2, 64, 8) if quick else (240, 20, 512, 512)
    target, keys = story_target(), jax.random.split(jax.random.key(0), 4)
    path = RESULTS / "collapse.json"
    results: dict[str, Any] = {"runs": {}}
    results = results if quick or not path.is_file() else json.loads(path.read_text("utf-8"))
    results |= {"beta": BETA, "tokens": NUM_TOKENS, "lanes": NUM_LANES, "rate": RATE}
    exact = bft.sample(target, bft.samplers.rejection(num_exact), keys[0])
    results["posterior"] = of_posterior(target, exact, num_exact, keys[1])
    print("posterior", results["posterior"], flush=True)
    guide = bft.lm.lora(target.prior, rank=8, key=keys[2])
    for name, objective in OBJECTIVES.items():
        if len(results["runs"].get(name, ())) > num_steps // every:
            continue
        rows = []
        for step, current in train(objective, target, guide, num_steps, every, keys[3]):
            key = jax.random.fold_in(keys[1], step)
            rows.append({"step": step, **measured(target, current, exact, num_samples, key)})
            shown = {k: v[0] if isinstance(v, list) else v for k, v in rows[-1].items()}
            print(name, {k: round(v, 3) for k, v in shown.items()}, flush=True)
        results["runs"][name] = rows
        if not quick:
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    svg = figure(results)
    if not quick:
        (RESULTS / "collapse.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
