"""Sad stories from a model of happy ones: declare a target, sample it, fit a guide, certify.

    python examples/sad_stories.py [--quick]

Needs the shared assets: $BAYESFT_ASSETS, or ../shared/assets beside the repository.
"""

import argparse
import math
import os
import re
import string
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console

import bayesft as bft
from bayesft.report import palette
from bayesft.report.certificates import certificates_table
from bayesft.report.completions import Column, completions_table, first_completions
from bayesft.report.estimates import Estimate, estimates_table
from bayesft.report.progress import Reporter

REPOSITORY = Path(__file__).resolve().parents[1]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", REPOSITORY.parent / "shared" / "assets"))


def any_of(phrases: list[str]) -> re.Pattern[str]:
    """A pattern that finds one of the phrases as whole words, longest first."""
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def main(quick: bool) -> None:
    lexicon = (ASSETS / "sentiment" / "vader_lexicon.txt").read_text(encoding="utf-8")
    valences = {w: float(v) for w, v, *_ in (row.split("\t") for row in lexicon.splitlines())}
    toxic = any_of((ASSETS / "toxicity" / "wordlist_en.txt").read_text().splitlines())

    def score(text: str) -> float:
        words = (word.strip(string.punctuation) for word in text.lower().split())
        total = sum(valences.get(word, 0.0) for word in words)
        return total / math.sqrt(total * total + 15)

    def sadness(completions: list[str]) -> list[float]:
        return [-score(text) for text in completions]

    def polite(completions: list[str]) -> list[bool]:
        return [toxic.search(text) is None for text in completions]

    # The target: prior × evidence.
    lm = bft.lm.load(ASSETS / "stories260K")
    sad = bft.evidence.reward(sadness, beta=0.2, bounds=(-1, 1))
    clean = bft.evidence.constraint(polite, log_penalty=-10.0)
    num_tokens = 16 if quick else 64
    target = bft.Target(lm, sad + clean, prompts=["Once upon a time"], max_new_tokens=num_tokens)

    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))
    num_particles, num_steps, num_samples = (32, 3, 4) if quick else (512, 150, 64)

    # Sample it.
    with progress.call(f"{num_particles} prior samples as importance draws"):
        prior = bft.sample(target, bft.samplers.importance(num_particles), next(keys))
    with progress.call(f"SMC with {num_particles} particles"):
        posterior = bft.sample(target, bft.samplers.smc(num_particles, every=16), next(keys))
    reference = np.asarray(prior.log_weights[0])
    samples = {"prior": prior, "posterior": posterior.resample(next(keys), num_particles)}
    columns = [
        Column(f"{name} samples", style, first_completions(draws, sadness, reference, num=4))
        for (name, draws), style in zip(
            samples.items(), (palette.PRIOR, palette.POSTERIOR), strict=True
        )
    ]
    console.print(completions_table(columns, num_particles))
    by_prior = Estimate("importance, prior", prior, palette.PRIOR)
    by_smc = Estimate("SMC, prior", posterior, palette.POSTERIOR)
    console.print(estimates_table([by_prior, by_smc]))

    # Approximate it, and certify how far the guide is from it.
    guide = bft.lm.lora(lm, rank=8, key=next(keys))
    key = next(keys)
    certify: dict[str, Any] = {"num_particles": 8, "num_repeats": 8} if quick else {}
    with progress.call("certifying the guide before its fit"):
        before = bft.certify(target, guide, key, level=0.9, **certify)
    with progress.fit("reverse KL, leave-one-out", num_steps) as callback:
        fitted = bft.fit(
            target,
            guide,
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(num_samples=num_samples),
            optimizer=optax.adam(optax.cosine_decay_schedule(1e-3, num_steps, alpha=0.1)),
            num_steps=num_steps,
            key=next(keys),
            callbacks=[callback],
        )
    with progress.call("certifying the guide after its fit"):
        # The target is the same, and so are exact draws of it.
        certify["posterior_draws"] = before.posterior_draws
        after = bft.certify(target, fitted.guide, key, level=0.9, **certify)
    console.print(certificates_table({"before fit": before, "after fit": after}))

    # Propose from it: what the fit left is corrected by the weights.
    proposing = bft.samplers.importance(num_particles, proposal=fitted.guide)
    with progress.call(f"{num_particles} guide samples as importance draws"):
        guided = bft.sample(target, proposing, next(keys))
    by_guide = Estimate("importance, guide", guided, palette.GUIDE)
    console.print(estimates_table([by_prior, by_smc, by_guide]))
    rise = float(guided.ess[0] / prior.ess[0])
    console.print(f"With the guide as proposal, ESS is {rise:.1f} times what the prior gave.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    main(**vars(parser.parse_args()))
