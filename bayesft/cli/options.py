"""Options that several commands share, as dataclasses whose fields `command` turns into options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

TARGET, SAMPLER, FIT, WATCH, RUN = "Target", "Sampler", "Fit", "Watch", "Run"


def _option(help: str, panel: str, *names: str, metavar: str | None = None, **more):
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **more)


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """The target: prior × evidence, on prompts."""

    model: Annotated[
        str,
        _option(
            "The prior: a Hugging Face folder, or `stories`, the tiny model that comes along.",
            TARGET,
            metavar="DIR",
        ),
    ]
    reward: Annotated[
        str | None,
        _option(
            "A Python reward, as `module:function` or `file.py:function`. It is called with those "
            "of the lists `prompts=`, `completions=`, `completion_ids=` and the columns of "
            "--prompts that it takes, and returns a list of numbers.",
            TARGET,
            metavar="MODULE:FUNCTION",
        ),
    ] = None
    beta: Annotated[
        float, _option("Strength of the prior: log φ = reward / β, in nats.", TARGET, metavar="X")
    ] = 1.0
    bounds: Annotated[
        str | None,
        _option("Smallest and largest reward, e.g. `-1,1`.", TARGET, metavar="LO,HI"),
    ] = None
    constraint: Annotated[
        list[str] | None,
        _option(
            "A Python predicate, named and called as a reward is; it returns a list of whether all "
            "is well. Repeatable.",
            TARGET,
            metavar="MODULE:FUNCTION",
        ),
    ] = None
    log_penalty: Annotated[
        float,
        _option(
            "What violating a constraint adds to log φ; `-inf` forbids it.", TARGET, metavar="X"
        ),
    ] = float("-inf")
    prompt: Annotated[
        list[str] | None,
        _option("A prompt; repeatable. Without any, the empty prompt.", TARGET, metavar="TEXT"),
    ] = None
    prompts: Annotated[
        Path | None,
        _option(
            "Prompts from a file: `.jsonl` (objects with `prompt`, other keys are columns) or "
            "`.txt` (one per line).",
            TARGET,
            metavar="FILE",
            exists=True,
            dir_okay=False,
        ),
    ] = None
    max_new_tokens: Annotated[
        int, _option("Where a completion without EOS is cut.", TARGET, metavar="N", min=1)
    ] = 64
    eos: Annotated[
        str,
        _option(
            "What a cut completion is: `truncate` an outcome, `condition` none, `force` ended.",
            TARGET,
            metavar="NAME",
        ),
    ] = "truncate"


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
    """The sampler and what it takes; an option that it does not take is refused."""

    sampler: Annotated[
        str,
        _option(
            "`smc` and `importance` give weighted draws, `rejection` exact ones (it needs "
            "--bounds), `best-of-n` draws of its own law.",
            SAMPLER,
            metavar="NAME",
        ),
    ] = "smc"
    particles: Annotated[
        int | None,
        _option("importance, smc: draws per prompt. [default: 128]", SAMPLER, metavar="N", min=1),
    ] = None
    num_draws: Annotated[
        int | None,
        _option(
            "rejection, best-of-n: draws per prompt. [default: 16]", SAMPLER, metavar="N", min=1
        ),
    ] = None
    n: Annotated[
        int | None,
        _option(
            "best-of-n: prior samples per draw. [default: 4]", SAMPLER, "--n", metavar="N", min=1
        ),
    ] = None
    every: Annotated[
        int | None,
        _option(
            "smc: score unfinished completions every so many tokens.", SAMPLER, metavar="N", min=1
        ),
    ] = None
    ess_threshold: Annotated[
        float | None,
        _option(
            "smc: resample when ESS falls below this share. [default: 0.5]", SAMPLER, metavar="X"
        ),
    ] = None
    resampling: Annotated[
        str | None,
        _option(
            "smc: `systematic` or `multinomial`. [default: systematic]", SAMPLER, metavar="NAME"
        ),
    ] = None
    proposal: Annotated[
        Path | None,
        _option(
            "importance, smc: draw from this guide (a folder that `fit` wrote) and correct.",
            SAMPLER,
            metavar="GUIDE_DIR",
            exists=True,
            file_okay=False,
        ),
    ] = None
    log_bound: Annotated[
        float | None,
        _option("rejection: largest log φ, where --bounds do not say it.", SAMPLER, metavar="X"),
    ] = None
    max_proposals: Annotated[
        int | None, _option("rejection: stop after so many proposals.", SAMPLER, metavar="N", min=1)
    ] = None


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """The guide, the objective and how it is optimised."""

    objective: Annotated[
        str,
        _option(
            "`reverse-kl` minimises KL(q‖p*), `forward-kl` KL(p*‖q), `f-divergence` D_f(p*,q), "
            "`chi-upper-bound`, `iwae` and `renyi` bounds on log Z, `log-variance` Var[log q/p*], "
            "`reweighted-wake-sleep` about KL(p*‖q), `mle` −log q of the completions in --data "
            "(docs/objectives.md).",
            FIT,
            metavar="NAME",
        ),
    ] = "reverse-kl"
    estimator: Annotated[
        str | None,
        _option(
            "reverse-kl, f-divergence, chi-upper-bound: `leave-one-out`; iwae, renyi: `vimco`; or "
            "for all of these `moving-average`, `score-function`. [default: the first]",
            FIT,
            metavar="NAME",
        ),
    ] = None
    num_samples: Annotated[
        int | None,
        _option(
            "leave-one-out, iwae, renyi, log-variance, reweighted-wake-sleep: completions per "
            "prompt and step. [default: 8]",
            FIT,
            metavar="N",
            min=2,
        ),
    ] = None
    generator: Annotated[
        str | None,
        _option(
            "f-divergence: its f, such as `squared-hellinger`. [default: jensen-shannon]",
            FIT,
            metavar="NAME",
        ),
    ] = None
    order: Annotated[
        float | None, _option("chi-upper-bound: its order. [default: 2]", FIT, metavar="X")
    ] = None
    alpha: Annotated[
        float | None, _option("renyi: its order. [default: 0.5]", FIT, metavar="X")
    ] = None
    decay: Annotated[
        float | None,
        _option("moving-average: weight of the step before. [default: 0.9]", FIT, metavar="X"),
    ] = None
    baseline: Annotated[
        float | None, _option("score-function: constant baseline in nats.", FIT, metavar="X")
    ] = None
    particles: Annotated[
        int | None,
        _option(
            "forward-kl: weighted draws of the guide per prompt and step. [default: 128]",
            FIT,
            metavar="N",
            min=1,
        ),
    ] = None
    data: Annotated[
        Path | None,
        _option(
            "mle: `.jsonl` of objects with `completion` and, if they have one, `prompt`.",
            FIT,
            metavar="FILE",
            exists=True,
            dir_okay=False,
        ),
    ] = None
    steps: Annotated[int, _option("Optimiser steps.", FIT, metavar="N", min=1)] = 100
    learning_rate: Annotated[float, _option("Of AdamW.", FIT, metavar="X")] = 2e-4
    lora_rank: Annotated[
        int, _option("Rank of the LoRA guide; 0 trains all parameters.", FIT, metavar="N", min=0)
    ] = 8
    prompts_per_step: Annotated[int, _option("Prompts in a step.", FIT, metavar="N", min=1)] = 8


@dataclasses.dataclass(frozen=True)
class WatchOptions:
    """What is written down and shown while a fit goes on."""

    run: Annotated[
        Path | None,
        _option(
            "Write metrics, completions, configuration and states to this new folder, which "
            "`bayesft report` makes a page of.",
            WATCH,
            metavar="RUN",
        ),
    ] = None
    save_every: Annotated[
        int,
        _option("Save the state in --run every so many steps.", WATCH, metavar="N", min=1),
    ] = 50
    resume: Annotated[
        bool,
        _option("Go on with --run from its last state: the same command, with this.", WATCH),
    ] = False
    show_every: Annotated[
        int | None,
        _option("Show a table of completions every so many steps.", WATCH, metavar="N", min=1),
    ] = None
    certify_every: Annotated[
        int | None,
        _option(
            "Certify the guide every so many steps, on the first four prompts.",
            WATCH,
            metavar="N",
            min=1,
        ),
    ] = None


Seed = Annotated[int, _option("Same seed, same numbers on the same machine.", RUN, metavar="N")]
Guide = Annotated[
    Path,
    _option(
        "The guide: a folder that `fit` wrote.",
        RUN,
        metavar="GUIDE_DIR",
        exists=True,
        file_okay=False,
    ),
]
