"""Distributional control: half of the stories about a girl, by a moment and nothing else.

    python examples/half_girls.py [--quick]

The story model is taken from $BAYESFT_ASSETS, or from ../shared/assets beside the repository.
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
from rich.text import Text
from scipy import stats

import bayesft as bft
from bayesft.report import palette
from bayesft.report.progress import Reporter

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", BESIDE))
NUM_RUNS = 8


def girls(completions: list[str]) -> list[float]:
    return [float(bool(re.search(r"\bgirls?\b", text.lower()))) for text in completions]


def boys(completions: list[str]) -> list[float]:
    return [float(bool(re.search(r"\bboys?\b", text.lower()))) for text in completions]


def main(num_tokens: int, num_draws: int, num_particles: int):
    console, progress = Console(highlight=False), Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))
    lm = bft.lm.load(ASSETS / "stories260K")
    settings = {"prompts": ["Once upon a time"], "max_new_tokens": num_tokens}
    with progress.call("sampling the prior"):
        free = bft.Target(lm, **settings)
        prior = bft.sample(free, bft.samplers.importance(num_draws), next(keys))

    # Features with bounds, so that the evidence has bounds as well.
    feature = {fn: bft.evidence.reward(fn, beta=1.0, bounds=(0, 1)) for fn in (girls, boys)}
    asked = {
        "half girls": {feature[girls]: 0.5},
        "half girls, half boys": {feature[girls]: 1 / 2, feature[boys]: 1 / 2},
    }
    found = {name: bft.evidence.moments(values, prior) for name, values in asked.items()}

    console.print("[bold]Coefficients, from draws of the prior[/]")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("stories", "feature", "prior moment", "asked", "λ", "ESS"):
        table.add_column(column, justify="left" if column in ("stories", "feature") else "right")
    for name, evidence in found.items():
        for i, (fn, value) in enumerate(zip((girls, boys), asked[name].values(), strict=False)):
            mean = float(np.mean(fn(prior.text[0])))
            error = np.sqrt(mean * (1 - mean) / num_draws)
            table.add_row(
                name if i == 0 else "",
                fn.__name__,
                f"{mean:.3f} ± {error:.3f}",
                f"{value:.3f} ± {float(evidence.standard_errors[i]):.3f}",
                f"{float(evidence.coefficients[i]):+.3f} "
                f"± {float(evidence.coefficient_errors[i]):.3f}",
                f"{float(evidence.ess[0]):.0f} of {num_draws}",
            )
    console.print(table, "± one standard error; of “asked”, how far λ's own moment may be off.\n")

    # Fresh draws: equal prompts are independent runs, whose spread is an honest error.
    fresh = {}
    settings["prompts"] *= NUM_RUNS
    for name, evidence in found.items():
        with progress.call(f"sampling {name}"):
            target = bft.Target(lm, evidence, **settings)
            fresh[name] = bft.sample(target, bft.samplers.smc(num_particles, every=16), next(keys))
    some = fresh["half girls"].resample(next(keys), 4)
    stories = Table(box=box.SIMPLE_HEAD, expand=True, show_edge=False)
    stories.add_column("prior", style=palette.PRIOR, ratio=1)
    stories.add_column("half girls", style=palette.POSTERIOR, ratio=1)
    for texts in zip(prior.text[0][:4], some.text[0], strict=True):
        stories.add_row(*(Text(" ".join(text.split())) for text in texts), end_section=True)
    console.print(stories, "")

    console.print("[bold]Moments of fresh draws of the posterior[/]")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1))
    for column in ("stories", "girls", "boys", "log Z", "ESS of a run"):
        table.add_column(column, justify="left" if column == "stories" else "right")
    for name, draws in fresh.items():
        means = [
            np.sum(np.asarray(draws.weights) * np.array([fn(texts) for texts in draws.text]), 1)
            for fn in (girls, boys)
        ]
        table.add_row(
            name,
            *(interval(mean, ".3f") for mean in means),
            interval(np.asarray(draws.log_z), "+.3f"),
            f"{float(draws.ess.mean()):.0f} of {num_particles}",
        )
    console.print(table, f"Intervals at 95% from {NUM_RUNS} independent runs.")


def interval(runs: np.ndarray, form: str) -> str:
    """Mean of independent runs with the half-width of Student's interval at level 0.95."""
    half = stats.t.isf(0.025, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs))
    return f"{runs.mean():{form}} ± {half:{form.lstrip('+')}}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    main(*((24, 256, 64) if parser.parse_args().quick else (64, 4096, 256)))
