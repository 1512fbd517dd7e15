"""`bayesft fit`: a guide fitted to a target, saved as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayesft.cli.names import DEFAULTS, ESTIMATORS, OBJECTIVES, build, choose, flag, lookup
from bayesft.cli.options import RUN, FitOptions, Seed, TargetOptions
from bayesft.cli.output import require_writable

if TYPE_CHECKING:
    import bayesft as bft

Out = Annotated[
    Path,
    typer.Option(
        help="Where the guide goes: a PEFT adapter, or a model folder with --lora-rank 0.",
        metavar="GUIDE_DIR",
        rich_help_panel=RUN,
    ),
]

TAKES = {
    "reverse-kl": ("estimator", "num_samples", "baseline"),
    "forward-kl": ("particles",),
    "mle": ("data",),
}
"""Which options go with which objective."""


def fit(target: TargetOptions, fit: FitOptions, out: Out, seed: Seed = 0) -> None:
    """Fit a guide to a target, starting from its prior, and save it.

    The guide can then be the `--proposal` of `sample`, and `certify` says how far it is from the
    target. What is printed on stdout is its folder.

    A guide for sad stories:

        bayesft fit --model stories --reward bayesft.cli.stories:sadness --beta 0.2 --bounds -1,1 --prompt "Once upon a time" --num-samples 64 --steps 200 --out sad

    Supervised fine-tuning of all parameters:

        bayesft fit --model path/to/model --objective mle --data demonstrations.jsonl --lora-rank 0 --out tuned
    """  # noqa: E501  (a command that can be copied stands on one line)
    _require_consistent(target, fit)
    require_writable(out, folder=True)

    import jax
    import optax

    import bayesft as bft
    from bayesft.cli.targets import load_model
    from bayesft.report.histogram import sparkline
    from bayesft.report.progress import Reporter

    if fit.lora_rank == 0:
        guide_of = bft.trainable
    else:
        guide_of = lambda prior: bft.lm.lora(prior, rank=fit.lora_rank, key=jax.random.key(seed))
    estimator = _estimator(fit)
    report = Reporter()
    if fit.objective == "mle":
        declared, prior = _demonstrations(target, fit), load_model(target.model)
    else:
        declared = _declare(target)
        prior = declared.prior
    with report.fit(f"fitting by {fit.objective}", fit.steps) as callback:
        fitted = bft.fit(
            declared,
            guide_of(prior),
            objective=_objective(fit),
            estimator=estimator,
            optimizer=optax.adamw(fit.learning_rate),
            num_steps=fit.steps,
            prompts_per_step=fit.prompts_per_step,
            key=jax.random.key(seed),
            callbacks=[callback],
        )
    fitted.guide.save(out)
    values = fitted.values
    tail = max(1, len(values) // 10)
    report.note(
        f"{fit.objective}: {values[:tail].mean():.3f} {sparkline(values, 24)} "
        f"{values[-tail:].mean():.3f} nats (means over {tail} steps)"
    )
    typer.echo(out)


def _require_consistent(target: TargetOptions, fit: FitOptions) -> None:
    choose(OBJECTIVES, fit.objective, "objective")
    choose(ESTIMATORS, fit.estimator, "estimator")
    for option in {option for options in TAKES.values() for option in options}:
        given = getattr(fit, option) not in (None, "leave-one-out")
        if given and option not in TAKES[fit.objective]:
            raise typer.BadParameter(
                f"{flag(option)} does not go with --objective {fit.objective}."
            )
    if fit.objective != "mle":
        return
    if fit.data is None:
        raise typer.BadParameter("--objective mle needs completions.", param_hint="--data")
    if target.reward or target.constraint or target.prompt or target.prompts:
        raise typer.BadParameter(
            "--objective mle takes prompts and completions from --data, and no evidence."
        )


def _estimator(fit: FitOptions) -> Any:
    if fit.objective != "reverse-kl":
        return None
    given = {"num_samples": fit.num_samples, "baseline": fit.baseline}
    return build(ESTIMATORS, "estimator", fit.estimator, given)


def _objective(fit: FitOptions) -> Any:
    objective = lookup(OBJECTIVES[fit.objective])
    if fit.objective != "forward-kl":
        return objective
    importance = lookup("samplers.importance")
    num_particles = fit.particles or DEFAULTS["particles"]
    return objective(lambda guide: importance(num_particles, proposal=guide))


def _declare(target: TargetOptions) -> bft.Target:
    from bayesft.cli.targets import declare

    return declare(target)


def _demonstrations(target: TargetOptions, fit: FitOptions) -> Any:
    import bayesft as bft
    from bayesft.cli.prompts import read_completions

    assert fit.data is not None
    completions, prompts = read_completions(fit.data)
    return bft.empirical(completions, prompts, max_new_tokens=target.max_new_tokens)
