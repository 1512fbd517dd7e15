"""Sad stories from a model that tells happy ones: declare a target, sample it, fit it, certify.

    python examples/sad_stories.py [--quick]

Models and data are taken from $BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
import math
import os
import re
import string
from pathlib import Path

import jax
import numpy as np
import optax
from rich.console import Console

import bayesft as bft
from bayesft.report import palette
from bayesft.report.certificates import certificates_table
from bayesft.report.completions import Column, completions_table, first_completions
from bayesft.report.estimates import Estimate, estimates_table
from bayesft.report.panels import Panels, Sample
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
LEXICON = (ASSETS / "sentiment" / "vader_lexicon.txt").read_text("utf-8").splitlines()
VALENCES = {word: float(mean) for word, mean, *_ in (line.split("\t") for line in LEXICON)}
TOXIC = (ASSETS / "toxicity" / "wordlist_en.txt").read_text("utf-8").splitlines()
TOXIC = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, TOXIC))})(?!\w)", re.IGNORECASE)


def score(text: str) -> float:
    words = (word.strip(string.punctuation) for word in text.lower().split())
    total = sum(VALENCES.get(word, 0.0) for word in words)
    return total / math.sqrt(total * total + 15)


def sadness(completions: list[str]) -> list[float]:
    return [-score(text) for text in completions]


def polite(completions: list[str]) -> list[bool]:
    return [TOXIC.search(text) is None for text in completions]


def main(num_tokens: int, num_particles: int, num_steps: int, num_lanes: int, num_repeats: int):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))

    # The target: a prior times evidence.
    lm = bft.lm.load(ASSETS / "stories260K")
    evidence = bft.evidence.reward(sadness, beta=0.2, bounds=(-1, 1))
    evidence += bft.evidence.constraint(polite, log_penalty=-10.0)
    prompts = ["Once upon a time"]
    target = bft.Target(lm, evidence, prompts=prompts, max_new_tokens=num_tokens)

    # Sample it.
    with progress.call("sampling the prior"):
        prior = bft.sample(target, bft.samplers.importance(num_particles), next(keys))
    with progress.call("sampling the posterior"):
        posterior = bft.sample(target, bft.samplers.smc(num_particles, every=16), next(keys))
    log_weights = np.asarray(prior.log_weights[0])
    columns = [
        Column(name, style, first_completions(draws, sadness, log_weights, num=4))
        for name, style, draws in (
            ("prior", palette.PRIOR, prior),
            ("posterior", palette.POSTERIOR, posterior.resample(next(keys), 16)),
        )
    ]
    console.print(completions_table(columns, num_particles))
    by_prior = Estimate("importance, prior", prior, palette.PRIOR)
    by_smc = Estimate("SMC, prior", posterior, palette.POSTERIOR)
    console.print(estimates_table([by_prior, by_smc]), "")

    # Approximate it by a guide, and certify how far the guide is, before and after.
    guide, key = bft.lm.lora(lm, rank=8, key=next(keys)), next(keys)
    with progress.call("certifying the guide before its fit"):
        before = bft.certify(target, guide, key, num_repeats=num_repeats)
    with progress.fit("fitting the guide", num_steps) as callback:
        fitted = bft.fit(
            target,
            guide,
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(num_samples=num_lanes),
            optimizer=optax.adam(optax.cosine_decay_schedule(7e-4, num_steps, alpha=0.1)),
            num_steps=num_steps,
            key=next(keys),
            callbacks=[callback],
        )
    with progress.call("certifying the guide after its fit"):
        settings = {"num_repeats": num_repeats, "posterior_draws": before.posterior_draws}
        after = bft.certify(target, fitted.guide, key, **settings)
    console.print(certificates_table({"before fit": before, "after fit": after}), "")

    # Use the guide as proposal: the weights correct what the fit left.
    proposing = bft.samplers.importance(num_particles, proposal=fitted.guide)
    with progress.call("sampling with the guide as proposal"):
        guided = bft.sample(target, proposing, next(keys))
    by_guide = Estimate("importance, guide", guided, palette.GUIDE)
    console.print(estimates_table([by_prior, by_smc, by_guide]), "")
    rise = float(guided.ess[0] / prior.ess[0])
    console.print(f"With the guide as proposal, ESS is {rise:.1f} times that of the prior.\n")

    rewards = [np.asarray(sadness(draws.text[0])) for draws in (prior, posterior, guided)]
    panels = [
        Sample("prior", palette.PRIOR, rewards[0]),
        Sample("posterior", palette.POSTERIOR, rewards[1], np.asarray(posterior.weights[0])),
        Sample("guide", palette.GUIDE, rewards[2]),
    ]
    console.print(Panels(panels, bounds=(-1, 1)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    main(*((16, 32, 2, 4, 4) if parser.parse_args().quick else (64, 1024, 150, 64, 32)))
