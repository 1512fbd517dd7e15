"""Rare events: stories whose sentiment is below a threshold, by plain, guided and twisted SMC.

    python examples/rare_stories.py [--quick]

The threshold is hard and known only at the end, so nothing but luck helps plain SMC. A twist and a
guide are learned from softer evidence, and any of them may steer: the weights stay proper.
Models and data are taken from $BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
import itertools
import math
import os
import string
from pathlib import Path

import jax
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import stats

import bayesft as bft
from bayesft.report import palette
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
LEXICON = (ASSETS / "sentiment" / "vader_lexicon.txt").read_text("utf-8").splitlines()
VALENCES = {word: float(mean) for word, mean, *_ in (line.split("\t") for line in LEXICON)}
THRESHOLDS = (-0.5, -0.8)
BETAS = (0.2, 0.1)
LEVEL = 0.95


def score(text: str) -> float:
    words = (word.strip(string.punctuation) for word in text.lower().split())
    total = sum(VALENCES.get(word, 0.0) for word in words)
    return total / math.sqrt(total * total + 15)


def sadness(completions: list[str]) -> list[float]:
    return [-score(text) for text in completions]


def below(threshold: float):
    def is_below(completions: list[str]) -> list[bool]:
        return [score(text) < threshold for text in completions]

    return bft.evidence.constraint(is_below, name=f"score < {threshold}")


def log_z_interval(draws: bft.Draws) -> tuple[float, float, float]:
    """log of the mean of Ẑ over the independent runs, and its limits by Student's t at LEVEL."""
    z = np.exp(np.asarray(draws.log_z, np.float64))
    if not z.any():  # nothing was seen, and P ≤ 1 is all that is known
        return -math.inf, -math.inf, 0.0
    margin = stats.t.ppf((1 + LEVEL) / 2, len(z) - 1) * z.std(ddof=1) / math.sqrt(len(z))
    with np.errstate(divide="ignore"):
        mean, low, high = np.log([z.mean(), max(z.mean() - margin, 0.0), z.mean() + margin])
    return float(mean), float(low), float(high)


def verdict(draws: bft.Draws) -> str:
    """Whether an estimate can be used, in words."""
    dead = int((np.asarray(draws.status) == bft.Status.ALL_DEAD).sum())
    _, low, high = log_z_interval(draws)
    if dead == len(draws.status):
        return "no draw met it: says nothing"
    hits = f"; {dead} of {len(draws.status)} runs without a hit" if dead else ""
    if low == -math.inf:
        return f"not usable: the interval reaches 0{hits}"
    return ("usable" if high - low < 1.5 else "rough") + hits


def main(num_tokens: int, num_runs: int, num_particles: int, num_steps: int, num_lanes: int):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 32))
    lm = bft.lm.load(ASSETS / "stories260K")
    prompt = "Once upon a time"

    def soft(beta: float) -> bft.Target:
        evidence = bft.evidence.reward(sadness, beta=beta, bounds=(-1, 1))
        return bft.Target(lm, evidence, prompts=[prompt], max_new_tokens=num_tokens)

    # A twist, learned in stages of evidence that is ever less soft; and a guide, for the last one.
    twist = bft.twists.head(lm, next(keys))
    for beta in BETAS:
        # Many draws of the last twist are the positives of the next one; at first ψ ≡ 1.
        with progress.call(f"drawing posterior stories, β = {beta}"):
            sampler = bft.samplers.twisted(twist, 16 * num_lanes)
            positives = bft.sample(soft(beta), sampler, next(keys)).resample(next(keys), num_lanes)
        with progress.fit(f"learning the twist, β = {beta}", num_steps) as callback:
            fitted = bft.twists.fit(
                soft(beta),
                twist,
                objective=bft.twists.contrastive(),
                optimizer=optax.adam(5e-3),
                num_steps=num_steps,
                num_particles=num_lanes,
                positives=positives,
                key=next(keys),
                callbacks=[callback],
            )
        twist = fitted.twist
        first, last = fitted.history[0].metrics, fitted.history[-1].metrics
        shares = f"{first['ess_share']:.1%} before, {last['ess_share']:.1%} after"
        progress.note(f"ESS of the rollouts, as a share of their number: {shares}")
    guide = bft.lm.lora(lm, rank=8, key=next(keys))
    with progress.fit("fitting the guide", 2 * num_steps) as callback:
        guide = bft.fit(
            soft(BETAS[-1]),
            guide,
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(num_samples=num_lanes // 4),
            optimizer=optax.adam(1e-3),
            num_steps=2 * num_steps,
            key=next(keys),
            callbacks=[callback],
        ).guide

    samplers = {
        "plain": bft.samplers.smc(num_particles),
        # Weights of a guide against the prior would resample away what the guide steers to.
        "guided": bft.samplers.smc(num_particles, proposal=guide, ess_threshold=0),
        "twisted": bft.samplers.twisted(twist, num_particles),
    }
    # Equal prompts are independent runs, whose spread is an honest error.
    settings = {"prompts": [prompt] * num_runs, "max_new_tokens": num_tokens}
    for threshold in THRESHOLDS:
        target = bft.Target(lm, below(threshold), **settings)
        found = {}
        for name, sampler in samplers.items():
            with progress.call(f"score < {threshold}: {name}"):
                found[name] = bft.sample(target, sampler, next(keys))
        console.print(table(threshold, found, num_particles), "")
        console.print(agreement(found))
        gain = found["twisted"].ess.mean() / max(float(found["plain"].ess.mean()), 1e-9)
        if (found["plain"].status == bft.Status.OK).any():
            console.print(f"Twisted SMC has {float(gain):.1f} times the ESS of plain SMC.")
        if (found["twisted"].status == bft.Status.OK).all():
            for text in list(dict.fromkeys(found["twisted"].resample(next(keys), 16).text[0]))[:2]:
                console.print(f"[{palette.MUTED}]{score(text):+.2f}[/]  {escape(repr(text))}")
        console.print()


def table(threshold: float, found: dict[str, bft.Draws], num_particles: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    table.add_column(f"score < {threshold}", no_wrap=True)
    for name in ("log Z", f"{LEVEL:.0%} interval", "P", "hits", "ESS"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name, draws in found.items():
        mean, low, high = log_z_interval(draws)
        hits = int((np.asarray(draws.log_weights) > -np.inf).sum())
        table.add_row(
            name,
            f"{mean:+.2f}",
            f"[{low:+.2f}, {high:+.2f}]".replace("-inf", "−∞"),
            f"{math.exp(mean):.1e}",
            f"{hits} / {draws.log_weights.size}",
            f"{float(np.mean(draws.ess)):.1f} of {num_particles}",
            verdict(draws),
        )
    return table


def agreement(found: dict[str, bft.Draws]) -> str:
    """Whether the intervals of those that can be used overlap pairwise."""
    usable = {n: log_z_interval(d) for n, d in found.items() if log_z_interval(d)[1] > -math.inf}
    apart = [
        f"{a} and {b}"
        for (a, (_, low, high)), (b, (_, other_low, other_high)) in itertools.combinations(
            usable.items(), 2
        )
        if low > other_high or other_low > high
    ]
    if len(usable) < 2:
        return "Too few usable estimates to compare."
    if apart:
        return f"The intervals of {'; '.join(apart)} do not overlap."
    return f"The intervals of {', '.join(usable)} overlap pairwise."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    main(*((16, 3, 32, 2, 16) if parser.parse_args().quick else (64, 12, 256, 60, 256)))
