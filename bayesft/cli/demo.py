"""`bayesft demo`: a posterior over stories, declared, sampled, approximated and certified."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bayesft.cli.options import Seed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    import bayesft as bft
    from bayesft.report.progress import Reporter

BETA = 0.2
LOG_PENALTY = -10.0


@dataclasses.dataclass(frozen=True)
class Size:
    """How much the demo does."""

    max_new_tokens: int = 64
    num_particles: int = 512
    num_steps: int = 100
    num_samples: int = 48
    certificate: tuple[int, int] = (64, 32)
    num_shown: int = 3


def demo(seed: Seed = 0) -> None:
    """Show the library at work, in less than a minute, with nothing but what comes along.

    A tiny story model is the prior, sadness and politeness are evidence. The demo draws from the
    posterior, fits a guide to it, certifies how far the guide is, and draws again with its help.
    """
    from rich.console import Console

    from bayesft.report.progress import Reporter

    show(Console(highlight=False), Reporter(), Size(), seed)


def show(console: Console, progress: Reporter, size: Size, seed: int) -> None:
    """The demo on a console."""
    import jax
    import numpy as np
    import optax

    import bayesft as bft
    from bayesft.cli import stories
    from bayesft.cli.targets import embedded_model
    from bayesft.report import palette
    from bayesft.report.certificates import certificates_table
    from bayesft.report.completions import Column, completions_table, first_completions
    from bayesft.report.estimates import Estimate, estimates_table
    from bayesft.report.highlight import word_highlighter
    from bayesft.report.histogram import sparkline
    from bayesft.report.panels import Panels, Sample

    keys = iter(jax.random.split(jax.random.key(seed), 8))
    lm = bft.lm.load(embedded_model())
    sad = bft.evidence.reward(stories.sadness, beta=BETA, bounds=(-1, 1))
    polite = bft.evidence.constraint(stories.polite, log_penalty=LOG_PENALTY)
    target = bft.Target(
        lm, sad + polite, prompts=["Once upon a time"], max_new_tokens=size.max_new_tokens
    )
    console.print(introduction(target))

    heading(console, "Sample it", "draws of the prior are weighted, resampled and grown on")
    with progress.call("sampling the prior"):
        prior = bft.sample(target, bft.samplers.importance(size.num_particles), next(keys))
    with progress.call("sampling the posterior"):
        smc = bft.samplers.smc(size.num_particles, every=16)
        posterior = bft.sample(target, smc, next(keys))
    reference = np.asarray(prior.log_weights[0])
    drawn = {"prior": prior, "posterior": posterior.resample(next(keys), size.num_particles)}
    columns = [
        Column(name, style, first_completions(drawn[name], stories.sadness, reference, 3))
        for name, style in (("prior", palette.PRIOR), ("posterior", palette.POSTERIOR))
    ]
    highlight = word_highlighter(stories.lexicon(), palette.PRIOR, palette.POSTERIOR)
    console.print(completions_table(columns, size.num_particles, highlight))
    by_prior = Estimate("importance from the prior", prior, palette.PRIOR)
    by_smc = Estimate("SMC from the prior", posterior, palette.POSTERIOR)
    console.print(estimates_table([by_prior, by_smc]))

    heading(console, "Approximate it", "a LoRA guide q minimises KL(q‖p*) from its own samples")
    guide, key = bft.lm.lora(lm, rank=8, key=next(keys)), next(keys)
    num_particles, num_repeats = size.certificate
    certify = {"level": 0.9, "num_particles": num_particles, "num_repeats": num_repeats}
    with progress.call("certifying the guide before its fit"):
        before = bft.certify(target, guide, key, **certify)
    with progress.fit("fitting the guide", size.num_steps) as callback:
        fitted = bft.fit(
            target,
            guide,
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(num_samples=size.num_samples),
            optimizer=optax.adam(optax.cosine_decay_schedule(1e-3, size.num_steps, alpha=0.1)),
            num_steps=size.num_steps,
            key=next(keys),
            callbacks=[callback],
        )
    with progress.call("certifying the guide after its fit"):
        after = bft.certify(target, fitted.guide, key, **certify)
    console.print(certificates_table({"before the fit": before, "after the fit": after}))

    heading(console, "Use both", "the guide proposes, the weights correct what the fit left")
    with progress.call("sampling with the guide as proposal"):
        proposing = bft.samplers.importance(size.num_particles, proposal=fitted.guide)
        guided = bft.sample(target, proposing, next(keys))
    by_guide = Estimate("importance from the guide", guided, palette.GUIDE)
    console.print(estimates_table([by_prior, by_smc, by_guide]))

    heading(console, "The picture", "where each distribution puts its mass; ░ the one to its left")
    rewards = {
        name: np.asarray(stories.sadness(completions=draws.text[0]))
        for name, draws in (("prior", prior), ("posterior", posterior), ("guide", guided))
    }
    console.print(
        Panels(
            [
                Sample("prior π₀", palette.PRIOR, rewards["prior"]),
                Sample("posterior p*", palette.POSTERIOR, rewards["posterior"],
                       np.asarray(posterior.weights[0])),
                Sample("guide q", palette.GUIDE, rewards["guide"]),
            ],
            bounds=(-1, 1),
            quantity="sadness",
        )
    )  # fmt: skip
