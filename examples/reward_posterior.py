"""A reward with a posterior of its own as evidence: its mean, and its risk-averse value.

    python examples/reward_posterior.py [--quick] [--pairs 200] [--json FILE]

A Bradley–Terry reward r_w(y) = w·f(y) over features f of a text is inferred from preference pairs,

    w ~ N(0, 1),    P(y ≻ y') = σ(r_w(y) − r_w(y')),

by NUTS. Two targets make evidence for a story model of it:

    mean          log φ(y) = E_w[r_w(y)] / β
    risk-averse   log φ(y) = −log E_w[exp(−r_w(y) / β)]  ≈  E_w[r_w(y)] / β − Var_w[r_w(y)] / 2β²

The second is the entropic risk measure: a story must be good under every w that the pairs leave
possible, so one whose features lie far from those of the pairs pays for what is unknown about them.
With the other sign, log E_w[exp(r_w / β)], the log-mean-exp is risk-seeking: the target is then the
mixture over w of the unnormalised posteriors, in which the w that promises most weighs most.

Model and data are taken from $BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
import gzip
import json
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats
from scipy.special import logsumexp

import bayesft as bft
from bayesft.report import palette
from bayesft.report.completions import Column, completions_table, first_completions
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
LEXICON = (ASSETS / "sentiment" / "vader_lexicon.txt").read_text("utf-8").splitlines()
VALENCES = {word: float(mean) for word, mean, *_ in (line.split("\t") for line in LEXICON)}
FEATURES = ("length", "glad words", "sad words", "“you”", "sentence length")
NUM_RUNS, HELD_OUT = 8, 400


def features(text: str) -> list[float]:
    """Logarithms of lengths, and roots of shares of words, whose tails are lighter."""
    words = re.findall(r"[a-z']+", text.lower())
    valences = [VALENCES.get(word, 0.0) for word in words]
    counts = [
        sum(valence > 0 for valence in valences),
        sum(valence < 0 for valence in valences),
        sum(word.startswith("you") for word in words),
    ]
    num_sentences = max(1, len(re.findall(r"[.!?]", text)))
    lengths = np.log1p([len(words), len(words) / num_sentences])
    return [lengths[0], *(np.sqrt(count / (len(words) + 5)) for count in counts), lengths[1]]


def preference_pairs() -> tuple[np.ndarray, np.ndarray]:
    """Features of the last replies of the pairs, chosen and rejected, each [M, D]."""
    with gzip.open(
        ASSETS / "hh_rlhf" / "harmless-base_test.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        pairs = [json.loads(line) for line in lines]
    reply = lambda text: text.rsplit("\n\nAssistant:", 1)[1]
    chosen, rejected = (
        np.array([features(reply(pair[side])) for pair in pairs]) for side in ("chosen", "rejected")
    )
    return chosen, rejected


def bradley_terry(differences: jax.Array):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand(differences.shape[1:]).to_event(1))
    with numpyro.plate("pairs", len(differences)):
        numpyro.sample("preferred", dist.Bernoulli(logits=differences @ w), obs=1.0)


def infer(differences: np.ndarray, num_draws: int, key: jax.Array) -> np.ndarray:
    """Draws of w given the pairs, [S, D]."""
    nuts = numpyro.infer.NUTS(bradley_terry)
    mcmc = numpyro.infer.MCMC(
        nuts, num_warmup=num_draws, num_samples=num_draws, num_chains=2, progress_bar=False,
        chain_method="sequential",
    )  # fmt: skip
    mcmc.run(key, jnp.asarray(differences, jnp.float32))
    return np.asarray(mcmc.get_samples()["w"], np.float64)


def main(num_tokens, num_particles, num_draws, num_pairs: int, beta: float, out: Path | None):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))

    # The reward, and how much is known about it.
    chosen, rejected = preference_pairs()
    center = np.concatenate([chosen, rejected]).mean(0)
    scale = np.concatenate([chosen, rejected]).std(0)
    differences = (chosen - rejected) / scale
    with progress.call("inferring the reward"):
        w = infer(differences[HELD_OUT : HELD_OUT + num_pairs], num_draws, next(keys))
    accuracy = float(np.mean(differences[:HELD_OUT] @ w.mean(0) > 0))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("feature (standardised)", "w, posterior mean ± sd"):
        table.add_column(column, justify="left" if column.startswith("feature") else "right")
    for name, mean, sd in zip(FEATURES, w.mean(0), w.std(0), strict=True):
        table.add_row(name, f"{mean:+.3f} ± {sd:.3f}")
    console.print(table, f"From {num_pairs} pairs; of {HELD_OUT} others {accuracy:.1%} in order.\n")

    def rewards(completions: list[str]) -> np.ndarray:
        """r_w(y) of every text and every draw of w, [R, S]."""
        return ((np.array([features(text) for text in completions]) - center) / scale) @ w.T

    def mean(completions: list[str]) -> list[float]:
        return rewards(completions).mean(1).tolist()

    def risk_averse(completions: list[str]) -> list[float]:
        return (-beta * (logsumexp(-rewards(completions) / beta, 1) - np.log(len(w)))).tolist()

    # Two targets; equal prompts are independent runs, whose spread is an honest error.
    lm = bft.lm.load(ASSETS / "stories260K")
    settings = {"prompts": ["Once upon a time"] * NUM_RUNS, "max_new_tokens": num_tokens}
    targets = {
        "mean": bft.Target(lm, bft.evidence.reward(mean, beta), **settings),
        "risk-averse": bft.Target(lm, bft.evidence.reward(risk_averse, beta), **settings),
    }
    with progress.call("sampling the prior"):
        prior = bft.sample(targets["mean"], bft.samplers.importance(num_particles), next(keys))
    found = {"prior": prior}
    for name, target in targets.items():
        with progress.call(f"sampling given the {name} reward"):
            found[name] = bft.sample(target, bft.samplers.smc(num_particles, every=16), next(keys))

    columns = [
        Column(name, style, first_completions(draws, mean, np.asarray(prior.log_weights[0]), num=4))
        for name, style, draws in (
            ("given the mean reward", palette.POSTERIOR, found["mean"].resample(next(keys), 16)),
            ("risk-averse", palette.GUIDE, found["risk-averse"].resample(next(keys), 16)),
        )
    ]
    console.print("Reward is the mean one.", completions_table(columns, num_particles))

    rows = {"log Z": "+.2f", "mean of r": "+.2f", "sd of r over w": ".3f"}
    rows |= dict.fromkeys(FEATURES, "+.2f")
    results = {"features": FEATURES, "num_pairs": num_pairs, "beta": beta, "accuracy": accuracy}
    results |= {"w_mean": w.mean(0).tolist(), "w_sd": w.std(0).tolist()}
    for name, draws in found.items():
        weights = np.asarray(draws.weights) if name in targets else np.ones(draws.lengths.shape)
        values = np.array([rewards(texts) for texts in draws.text])
        counted = np.array([[features(text) for text in texts] for texts in draws.text])
        columns = [values.mean(-1), values.std(-1), *np.moveaxis((counted - center) / scale, -1, 0)]
        runs = [np.sum(weights * column, 1) / np.sum(weights, 1) for column in columns]
        results[name] = dict(zip(list(rows)[1:], map(summary, runs), strict=True))
        if name in targets:
            results[name] |= {"log Z": summary(np.asarray(draws.log_z))}
            results[name] |= {"ESS of a run": float(draws.ess.mean())}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("stories given", *found):
        table.add_column(column, justify="left" if column == "stories given" else "right")
    for row, form in rows.items():
        cells = [results[name].get(row) for name in found]
        table.add_row(row, *(shown(cell, form) if cell else "–" for cell in cells))
    sizes = [results[name].get("ESS of a run") for name in found]
    table.add_row("ESS of a run", *(f"{n:.0f} of {num_particles}" if n else "–" for n in sizes))
    console.print(table, f"Intervals at 95% from {NUM_RUNS} independent runs; features in sd's.")
    if out is not None:
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def summary(runs: np.ndarray) -> list[float]:
    """Mean of independent runs and the half-width of Student's interval at level 0.95."""
    half = stats.t.isf(0.025, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs))
    return [float(runs.mean()), float(half)]


def shown(summary: list[float], form: str) -> str:
    return f"{summary[0]:{form}} ± {summary[1]:{form.lstrip('+')}}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    parser.add_argument("--pairs", type=int, default=200, help="preference pairs to learn from")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    args = parser.parse_args()
    sizes = (16, 32, 50) if args.quick else (64, 256, 500)
    main(*sizes, num_pairs=args.pairs, beta=0.1, out=args.json)
