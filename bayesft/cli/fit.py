"""`bayesft fit`: a guide fitted to a target, saved as a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayesft.cli.objectives import OBJECTIVES, estimator_of, objective_of, require_consistent
from bayesft.cli.options import RUN, FitOptions, Seed, TargetOptions, WatchOptions
from bayesft.cli.output import require_writable

if TYPE_CHECKING:
    import bayesft as bft
    from bayesft.report.progress import Reporter

Out = Annotated[
    Path,
    typer.Option(
        help="Where the guide goes: a PEFT adapter, or a model folder with --lora-rank 0.",
        metavar="GUIDE_DIR",
        rich_help_panel=RUN,
    ),
]

STATES = "states"
"""What keeps the states of a run, in its folder."""


def fit(
    target: TargetOptions, fit: FitOptions, watch: WatchOptions, out: Out, seed: Seed = 0
) -> None:
    """Fit a guide to a target, starting from its prior, and save it.

    The guide can then be the `--proposal` of `sample`, and `certify` says how far it is from the
    target. What is printed on stdout is its folder.

    A guide for sad stories:

        bayesft fit --model stories --reward bayesft.cli.stories:sadness --beta 0.2 --bounds -1,1 --prompt "Once upon a time" --num-samples 64 --steps 200 --out sad

    The same, written down for `bayesft report`; killed, it goes on where `--resume` is added:

        bayesft fit --model stories --reward bayesft.cli.stories:sadness --beta 0.2 --bounds -1,1 --prompt "Once upon a time" --run runs/sad --certify-every 50 --out sad

    Supervised fine-tuning of all parameters:

        bayesft fit --model path/to/model --objective mle --data demonstrations.jsonl --lora-rank 0 --out tuned
    """  # noqa: E501  (a command that can be copied stands on one line)
    require_consistent(fit)
    _require_data(target, fit)
    require_writable(out, folder=True)
    _require_watchable(watch, fit, out)

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
    objective, estimator = objective_of(fit), estimator_of(fit)
    report = Reporter()
    if fit.objective == "mle":
        declared, prior = _demonstrations(target, fit), load_model(target.model)
    else:
        declared = _declare(target)
        prior = declared.prior
    given = {"target": dataclasses.asdict(target), "fit": dataclasses.asdict(fit), "seed": seed}
    trackers = _trackers(declared, given, watch, report)
    with report.fit(f"fitting by {fit.objective}", fit.steps) as callback:
        fitted = bft.fit(
            declared,
            guide_of(prior),
            objective=objective,
            estimator=estimator,
            optimizer=optax.adamw(fit.learning_rate),
            num_steps=fit.steps,
            prompts_per_step=fit.prompts_per_step,
            key=jax.random.key(seed),
            checkpoint=_checkpoint(watch),
            callbacks=[callback, *trackers],
        )
    fitted.guide.save(out)
    values = fitted.values
    tail = max(1, len(values) // 10)
    unit = OBJECTIVES[fit.objective].unit
    report.note(
        f"{fit.objective}: {values[:tail].mean():.3f} {sparkline(values, 24)} "
        f"{values[-tail:].mean():.3f}{unit and f' {unit}'} (means over {tail} steps)"
    )
    typer.echo(out)


def _require_data(target: TargetOptions, fit: FitOptions) -> None:
    if fit.objective != "mle":
        return
    if fit.data is None:
        raise typer.BadParameter("--objective mle needs completions.", param_hint="--data")
    if target.reward or target.constraint or target.prompt or target.prompts:
        raise typer.BadParameter(
            "--objective mle takes prompts and completions from --data, and no evidence."
        )


def _require_watchable(watch: WatchOptions, fit: FitOptions, out: Path) -> None:
    if watch.certify_every is not None and fit.objective == "mle":
        raise typer.BadParameter("--certify-every needs a target with a density, and mle has data.")
    if watch.run is None:
        if watch.resume:
            raise typer.BadParameter("--resume needs the folder to go on with.", param_hint="--run")
        return
    if not watch.resume:
        require_writable(watch.run, folder=True, option="--run")
    elif not (watch.run / STATES).is_dir():
        raise typer.BadParameter(f"{watch.run} has no states to go on from.", param_hint="--run")
    if out.absolute() in (watch.run.absolute(), *watch.run.absolute().parents):
        raise typer.BadParameter(
            f"{watch.run} lies in the folder of the guide, which is written as a whole.",
            param_hint="--run",
        )


def _trackers(
    declared: Any, config: dict[str, Any], watch: WatchOptions, report: Reporter
) -> list[Callable[[Any], object]]:
    """The callbacks that were asked for; certificates come first, so that the run has them."""
    import jax

    from bayesft import track

    found: list[Callable[[Any], object]] = []
    if watch.certify_every is not None:
        few = declared.select(range(min(4, len(declared.prompts))))
        key = jax.random.key(config["seed"] + 1)
        found.append(track.certificates(few, watch.certify_every, key))
    if watch.run is not None:
        found.append(track.run(watch.run, config))
    if watch.show_every is not None:
        found.append(track.completions(watch.show_every, console=report.console))
    return found


def _checkpoint(watch: WatchOptions) -> Any:
    from bayesft.io import checkpoint

    return None if watch.run is None else checkpoint(watch.run / STATES, watch.save_every)


def _declare(target: TargetOptions) -> bft.Target:
    from bayesft.cli.targets import declare

    return declare(target)


def _demonstrations(target: TargetOptions, fit: FitOptions) -> Any:
    import bayesft as bft
    from bayesft.cli.prompts import read_completions

    assert fit.data is not None
    completions, prompts = read_completions(fit.data)
    return bft.empirical(completions, prompts, max_new_tokens=target.max_new_tokens)
