"""A page about one run of SMC: genealogies, weights over time, and the reward-KL frontier.

    python examples/particle_page.py [--quick] [--out particles.html]

Writes one HTML file with its pictures inside; it needs no server. The story model and the lexicon
are taken from $BAYESFT_ASSETS, or from ../shared/assets beside the repository.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from sad_stories import ASSETS, sadness

import bayesft as bft
from bayesft.report import palette
from bayesft.report.estimates import Estimate, estimates_table
from bayesft.report.frontier import frontier_svg
from bayesft.report.genealogy import genealogy_svg
from bayesft.report.page import page
from bayesft.report.progress import Reporter
from bayesft.report.weights import weights_svg

BETA, EVERY, SHOWN = 0.2, 4, 16


def main(num_tokens: int, num_particles: int, num_samples: int, out: Path) -> None:
    progress = Reporter()
    keys = iter(jax.random.split(jax.random.key(0), 8))
    lm = bft.lm.load(ASSETS / "stories260K")
    sad = bft.evidence.reward(sadness, beta=BETA, bounds=(-1, 1))
    settings = {"prompts": ["Once upon a time"], "max_new_tokens": num_tokens}
    target = bft.Target(lm, sad, **settings)
    girl = bft.evidence.regex(r"(?s:.*)girl(?s:.*)", lm)
    constrained = bft.Target(lm, girl, prompts=["Once upon a time"], max_new_tokens=12)

    with progress.call("a few particles, to look at"):
        few = bft.sample(target, bft.samplers.smc(SHOWN, every=EVERY), next(keys))
        optimal = bft.samplers.smc(8, bft.samplers.locally_optimal())
        word = bft.sample(constrained, optimal, next(keys))
    with progress.call("many particles"):
        smc = bft.sample(target, bft.samplers.smc(num_particles, every=16), next(keys))
    with progress.call("the frontier"):
        reference = bft.sample(target, bft.samplers.importance(num_samples), next(keys))
        warm = bft.Target(lm, 0.5 * sad, **settings)
        half = bft.sample(warm, bft.samplers.smc(num_particles, every=16), next(keys))
        frontier = bft.diagnostics.frontier(
            target,
            next(keys),
            draws={"SMC": smc},
            best_of=(1, 4, 16),
            reference=reference,
            num_samples=num_samples,
        )
    estimates = [
        Estimate("importance", reference, palette.PRIOR),
        Estimate("SMC", smc, palette.POSTERIOR),
        Estimate("SMC, reward halved", half, palette.POSTERIOR),
    ]
    sections = [
        (
            "Which particles live on",
            f"{SHOWN} particles write sad stories, judged every {EVERY} tokens. Each line leads "
            "from the slot that a particle came from; dark lines are the pasts of those that are "
            "left in the end, and light ones ended on the way. Survivors keep their slot, so a "
            "resampling copies only what replaces the dead.",
            genealogy_svg(few.info["ancestors"][:, 0]),
        ),
        (
            "The same with tokens",
            'Stories that must mention "girl" within 12 tokens, with a proposal that looks one '
            "token ahead.",
            genealogy_svg(
                word.info["ancestors"][:, 0], word.info["history"].tokens[:, 0], lm.decode
            ),
        ),
        (
            "Weights over time",
            "Shares of the particles in the first run after each token. They change where the "
            "reward is asked, and start again at each resampling (vertical lines).",
            weights_svg(
                few.info["history"].log_weights[:, 0],
                ancestors=few.info["ancestors"][:, 0],
                threshold=0.5,
            ),
        ),
        ("What the draws say", "", estimates_table(estimates)),
        (
            "What a nat of KL buys",
            "The optimal trade between reward and distance from the prior: no distribution lies "
            "above the curve. λ = 1 is the target.",
            frontier_svg(frontier),
        ),
        ("The same in numbers", "", frontier),
        ("Stories", "", "\n\n".join(_stories(smc, next(keys)))),
    ]
    out.write_text(page("Particles at work", sections), encoding="utf-8")
    Console().print(f"wrote {out} ({out.stat().st_size / 1e3:.0f} kB)")


def _stories(draws: bft.Draws, key: jax.Array) -> list[str]:
    chosen = draws.resample(key, 4)
    rewards = np.asarray(sadness(chosen.text[0]))
    return [f"{r:+.2f}  {text}" for r, text in zip(rewards, chosen.text[0], strict=True)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny settings, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("particles.html"))
    arguments = parser.parse_args()
    sizes = (12, 16, 64) if arguments.quick else (48, 256, 2048)
    main(*sizes, arguments.out)
