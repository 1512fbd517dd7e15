"""`bayesft certify`: how far a guide is from a target, with intervals."""

from __future__ import annotations

from typing import Annotated

import typer

from bayesft.cli.options import RUN, Guide, Seed, TargetOptions


def certify(
    target: TargetOptions,
    guide: Guide,
    level: Annotated[
        float,
        typer.Option(help="Confidence level of the intervals.", metavar="X", rich_help_panel=RUN),
    ] = 0.9,
    particles: Annotated[
        int,
        typer.Option(
            help="Particles per estimate of log Z.", metavar="N", min=2, rich_help_panel=RUN
        ),
    ] = 64,
    repeats: Annotated[
        int,
        typer.Option(help="Independent estimates.", metavar="N", min=2, rich_help_panel=RUN),
    ] = 64,
    seed: Seed = 0,
) -> None:
    """Bound log Z from both sides, and with it both KL divergences between guide and target.

    Evidence with bounds is certified; without, the upper bound is labelled as not certified.

        bayesft certify --model stories --reward bayesft.cli.stories:sadness --beta 0.2 --bounds -1,1 --prompt "Once upon a time" --guide sad
    """  # noqa: E501  (a command that can be copied stands on one line)
    if not 0 < level < 1:
        raise typer.BadParameter(f"{level} is not between 0 and 1.", param_hint="--level")

    import jax
    from rich.console import Console

    import bayesft as bft
    from bayesft.cli.targets import declare, load_guide
    from bayesft.report.progress import Reporter

    declared = declare(target)
    fitted = load_guide(guide, declared.prior)
    with Reporter().call("certifying"):
        certificate = bft.certify(
            declared,
            fitted,
            jax.random.key(seed),
            level=level,
            num_particles=particles,
            num_repeats=repeats,
        )
    Console(highlight=False).print(certificate)
