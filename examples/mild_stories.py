"""Toxicity as evidence: stories given what a classifier says of them, milder and more toxic.

    python examples/mild_stories.py [--quick]

The classifier is a published linear model on bags of words. Model and data are taken from
$BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
import os
import re
from pathlib import Path

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import bayesft as bft
from bayesft.report import palette
from bayesft.report.completions import Column, completions_table, first_completions
from bayesft.report.panels import Panels, Sample
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
MODEL = np.load(ASSETS / "toxicity" / "profanity_linear.npz")
ROWS = dict(zip(MODEL["vocab"].tolist(), MODEL["coef"].T, strict=True))
SLOPES, OFFSETS = MODEL["platt"].T
NUM_RUNS = 8


def toxicity(completions: list[str]) -> list[float]:
    """P(toxic): the mean over five folds of 1 / (1 + exp(a·score + b)), with Platt's a and b."""
    words = [re.findall(r"\b\w\w+\b", text.lower()) for text in completions]
    scores = [sum((ROWS[w] for w in each if w in ROWS), MODEL["intercept"]) for each in words]
    return (1 / (1 + np.exp(SLOPES * np.array(scores) + OFFSETS))).mean(1).tolist()


def main(num_tokens: int, num_particles: int):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))
    lm = bft.lm.load(ASSETS / "stories260K")

    # Listed words are rare, but the model also weighs ordinary ones, so both directions move.
    mild = bft.evidence.classifier(toxicity, label=0, floor=1e-4)
    toxic = bft.evidence.classifier(toxicity, label=1, floor=1e-4)
    evidence = {"mild": mild, "mild × 16": 16 * mild, "toxic": toxic, "toxic × 4": 4 * toxic}

    # Equal prompts are independent runs, whose spread is an honest error.
    settings = {"prompts": ["Once upon a time"] * NUM_RUNS, "max_new_tokens": num_tokens}
    strong = bft.Target(lm, evidence["toxic × 4"], **settings)
    with progress.call("sampling the prior"):
        prior = bft.sample(strong, bft.samplers.importance(num_particles), next(keys))
    values = {"prior": np.array([toxicity(texts) for texts in prior.text])}
    weights = {"prior": np.full(values["prior"].shape, 1 / num_particles)}
    posteriors = {}
    for name, each in evidence.items():
        with progress.call(f"sampling given {name}"):
            target = bft.Target(lm, each, **settings)
            draws = bft.sample(target, bft.samplers.smc(num_particles, every=16), next(keys))
        posteriors[name] = draws
        values[name] = np.array([toxicity(texts) for texts in draws.text])
        weights[name] = np.asarray(draws.weights)

    examples = posteriors["toxic × 4"].resample(next(keys), 16)
    columns = [
        Column(name, style, first_completions(draws, toxicity, prior.log_weights[0], num=4))
        for name, style, draws in (
            ("prior", palette.PRIOR, prior),
            ("given toxic × 4", palette.POSTERIOR, examples),
        )
    ]
    console.print("Reward is the classifier's P(toxic).", completions_table(columns, num_particles))

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("stories given", "log Z", "ESS of a run", "mean P(toxic)", "P(toxic) > 1/2"):
        table.add_column(column, justify="left" if column == "stories given" else "right")
    for name in values:
        known = (
            (np.asarray(posteriors[name].log_z), posteriors[name].ess) if name in evidence else ()
        )
        means = [np.sum(weights[name] * f, 1) for f in (values[name], values[name] > 0.5)]
        table.add_row(
            name,
            interval(known[0], "+.3f") if known else "–",
            f"{float(known[1].mean()):.0f} of {num_particles}" if known else "–",
            *(interval(mean, ".2%") for mean in means),
        )
    console.print(table, f"Intervals at 95% from {NUM_RUNS} independent runs.\n")

    panels = [
        Sample(name, style, values[name].ravel(), weights[name].ravel())
        for name, style in (
            ("mild × 16", palette.GUIDE),
            ("prior", palette.PRIOR),
            ("toxic × 4", palette.POSTERIOR),
        )
    ]
    console.print(Panels(panels, bounds=(0, 1), quantity="P(toxic)"))


def interval(runs: np.ndarray, form: str) -> str:
    """Mean of independent runs with the half-width of Student's interval at level 0.95."""
    half = stats.t.isf(0.025, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs))
    return f"{runs.mean():{form}} ± {half:{form.lstrip('+')}}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    main(*((16, 32) if parser.parse_args().quick else (64, 256)))
