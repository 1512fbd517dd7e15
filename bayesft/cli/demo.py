"""`bayesft demo`: a posterior over stories, declared, sampled, approximated and certified."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bayesft.cli.options import Seed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    import bayesft as bft
    from bayesft.report.progress import Reporter

BETA = 0.2
LOG_PENALTY = -10.0
PROMPT = "Once upon a time"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much the demo does."""

    max_new_tokens: int = 32
    num_particles: int = 512
    num_steps: int = 60
    num_samples: int = 32
    num_repeats: int = 12


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
    from bayesft.report.panels import Panels, Sample

    keys = iter(jax.random.split(jax.random.key(seed), 8))
    lm = bft.lm.load(embedded_model())
    sad = bft.evidence.reward(stories.sadness, beta=BETA, bounds=(-1, 1))
    polite = bft.evidence.constraint(stories.polite, log_penalty=LOG_PENALTY)
    target = bft.Target(lm, sad + polite, prompts=[PROMPT], max_new_tokens=size.max_new_tokens)
    console.print(_declaration(target))

    with progress.call("sampling the prior"):
        prior = bft.sample(target, bft.samplers.importance(size.num_particles), next(keys))
    with progress.call("sampling the posterior by SMC"):
        smc = bft.samplers.smc(size.num_particles, every=16)
        posterior = bft.sample(target, smc, next(keys))
    drawn = {"prior": prior, "posterior": posterior.resample(next(keys), 16)}
    reference = np.asarray(prior.log_weights[0])
    columns = [
        Column(title, style, first_completions(drawn[name], stories.sadness, reference, num=3))
        for name, title, style in (
            ("prior", "samples of the prior", palette.PRIOR),
            ("posterior", "samples of the posterior", palette.POSTERIOR),
        )
    ]
    highlight = word_highlighter(stories.lexicon(), palette.HAPPY, palette.SAD)
    by_prior = Estimate("importance, prior", prior, palette.PRIOR)
    by_smc = Estimate("SMC, prior", posterior, palette.POSTERIOR)
    console.print(
        _heading("Sample it", "weigh draws of the prior by φ; SMC also does it on the way"),
        completions_table(columns, size.num_particles, highlight),
        estimates_table([by_prior, by_smc]),
    )

    key = next(keys)
    schedule = optax.cosine_decay_schedule(2e-4, size.num_steps, alpha=0.1)
    # The prior is certified meanwhile: most of that is compilation, which one core does.
    with progress.fit("fitting a guide", size.num_steps) as callback, ThreadPoolExecutor(1) as pool:
        certifying = pool.submit(bft.certify, target, lm, key, num_repeats=size.num_repeats)
        fitted = bft.fit(
            target,
            bft.trainable(lm),
            objective=bft.objectives.reverse_kl,
            estimator=bft.estimators.leave_one_out(num_samples=size.num_samples),
            optimizer=optax.adam(schedule),
            num_steps=size.num_steps,
            key=next(keys),
            callbacks=[callback],
        )
        before = certifying.result()
    tuned = fitted.guide.language_model()
    with progress.call("certifying the guide"):
        exact = before.posterior_draws
        after = bft.certify(target, tuned, key, num_repeats=size.num_repeats, posterior_draws=exact)
    console.print(
        _heading("Approximate it", "a guide q minimises KL(q‖p*) on its own samples"),
        certificates_table({"before fit": before, "after fit": after}, style=palette.GUIDE),
    )

    with progress.call("sampling with the guide as proposal"):
        proposing = bft.samplers.importance(size.num_particles, proposal=tuned)
        guided = bft.sample(target, proposing, next(keys))
    by_guide = Estimate("importance, guide", guided, palette.GUIDE)
    console.print(
        _heading("Do both", "the guide proposes, and weights correct what the fit left"),
        estimates_table([by_prior, by_smc, by_guide]),
    )

    values = [
        np.asarray(stories.sadness(completions=draws.text[0]))
        for draws in (prior, posterior, guided)
    ]
    weights = np.asarray(posterior.weights[0])
    panels = [
        Sample("prior π₀", palette.PRIOR, values[0]),
        Sample("posterior p*", palette.POSTERIOR, values[1], weights),
        Sample("guide q", palette.GUIDE, values[2]),
    ]
    console.print(
        _heading("See it", "how sad the stories are; ░ is the panel to the left"),
        Panels(panels, bounds=(-1, 1), quantity="sadness"),
    )


def _heading(title: str, subtitle: str) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    from bayesft.report.palette import MUTED

    return Padding(Text.assemble((title, "bold"), (f"  {subtitle}", MUTED)), (1, 0))


def _declaration(target: bft.Target) -> RenderableType:
    import jax
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from bayesft.report import palette

    size = sum(leaf.size for leaf in jax.tree.leaves(target.prior))
    table = Table.grid(padding=(0, 2))
    for name, style, meaning in (
        ("prior π₀", palette.PRIOR, f"a story model of {size / 1e6:.2f} M parameters"),
        ("prompt x", "", f"“{PROMPT}”, at most {target.horizon.max_new_tokens} tokens more"),
        ("evidence φ", "", f"sadness / β, β = {BETA:g}, plus {LOG_PENALTY:g} for a rude word"),
        ("posterior p*", palette.POSTERIOR, "the stories it would tell if they had to be sad"),
        ("guide q", palette.GUIDE, "a fine-tuned model that approximates them"),
    ):
        table.add_row(Text(name, style=f"bold {style}"), meaning)
    equation = Text("p*(y | x)  =  π₀(y | x) · φ(y, x) / Z(x)", style="bold", justify="center")
    return Panel(
        Group(equation, "", table),
        box=box.ROUNDED,
        title="Fine-tuning is posterior inference",
        border_style=palette.MUTED,
        padding=(1, 2),
    )
