"""Rare events: stories whose sentiment is below a threshold, by plain, guided and twisted SMC.

    python examples/rare_stories.py [--quick]

The threshold is hard and known only at the end, so nothing but luck helps SMC that does not look
ahead. Prefixes that are heading down may be favoured, by their own score, by a learned guide or by
a learned twist: the weights stay proper whichever steers.
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
BETA = 0.2
LOOK, EVERY = 0.2, 8
"""Strength of the score of a prefix, and how often SMC asks for it."""
LEVEL = 0.95


def score(text: str) -> float:
    words = (word.strip(string.punctuation) for word in text.lower().split())
    total = sum(VALENCES.get(word, 0.0) for word in words)
    return total / math.sqrt(total * total + 15)


def sadness(completions: list[str]) -> list[float]:
    return [-score(text) for text in completions]


def below(threshold: float, lm: bft.lm.LanguageModel, num_tokens: int):
    """Stories whose score is below a threshold, as evidence that helps while they are written.

    What counts is the value of a whole story, 0 or -inf. SMC may ask about prefixes too; whatever
    they are given telescopes away, so it may say where a story is heading.
    """

    def look(completions: list[str], completion_ids: list[list[int]]) -> list[float]:
        scores = map(score, completions)
        ended = [len(ids) == num_tokens or ids[-1] in lm.eos for ids in completion_ids]
        whole = {True: 0.0, False: -math.inf}
        return [
            whole[s < threshold] if e else -s / LOOK for s, e in zip(scores, ended, strict=True)
        ]

    return bft.evidence.reward(look, beta=1.0, name=f"score < {threshold}")


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

    # A twist and a guide, both for evidence that is less sharp than a threshold.
    soft = bft.evidence.reward(sadness, beta=BETA, bounds=(-1, 1))
    target = bft.Target(lm, soft, prompts=[prompt], max_new_tokens=num_tokens)
    twist = bft.twists.head(lm, next(keys))
    with progress.call("drawing sad stories to learn from"):
        many = bft.sample(target, bft.samplers.smc(16 * num_lanes, every=EVERY), next(keys))
    with progress.fit("learning the twist", num_steps) as callback:
        twist = bft.twists.fit(
            target,
            twist,
            objective=bft.twists.contrastive(),
            optimizer=optax.adam(2e-3),
            num_steps=num_steps,
            num_particles=num_lanes,
            positives=many.resample(next(keys), num_lanes),
            key=next(keys),
            callbacks=[callback],
        ).twist
    guide = bft.lm.lora(lm, rank=8, key=next(keys))
    with progress.fit("fitting the guide", 2 * num_steps) as callback:
        guide = bft.fit(
            target,
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
        "looking ahead": bft.samplers.smc(num_particles, every=EVERY),
        # Weights of a guide against the prior would resample away what the guide steers to.
        "guided": bft.samplers.smc(num_particles, proposal=guide, ess_threshold=0),
        "twisted": bft.samplers.twisted(twist, num_particles),
    }
    # Equal prompts are independent runs, whose spread is an honest error.
    settings = {"prompts": [prompt] * num_runs, "max_new_tokens": num_tokens}
    for threshold in THRESHOLDS:
        target = bft.Target(lm, below(threshold, lm, num_tokens), **settings)
        found = {}
        for name, sampler in samplers.items():
            with progress.call(f"score < {threshold}: {name}"):
                found[name] = bft.sample(target, sampler, next(keys))
        console.print(table(threshold, found, num_particles), "")
        console.print(agreement(found))
        best = max(found, key=lambda name: float(found[name].ess.mean()))
        if (found[best].status == bft.Status.OK).all():
            console.print(f"\nStories of SMC {best}:")
            for text in list(dict.fromkeys(found[best].resample(next(keys), 16).text[0]))[:2]:
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
