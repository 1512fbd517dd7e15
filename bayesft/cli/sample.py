"""`bayesft sample`: draws of a target, as JSON lines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from bayesft.cli.names import RESAMPLING, SAMPLERS, build, choose, lookup, require_applicable
from bayesft.cli.options import RUN, SamplerOptions, Seed, TargetOptions
from bayesft.cli.output import line_writer

Out = Annotated[
    Path | None,
    typer.Option(
        help="Write the rows to this file instead of stdout.",
        metavar="DRAWS.jsonl",
        rich_help_panel=RUN,
    ),
]


def sample(target: TargetOptions, sampler: SamplerOptions, seed: Seed = 0, out: Out = None) -> None:
    """Draw from a target: prior × evidence.

    Every draw is a line of JSON with `prompt`, `completion`, `token_ids`, `log_weight`, `weight`
    (they sum to 1 per prompt), `log_prior`, `log_evidence`, and `log_potentials` and `rewards` by
    name. log Z and ESS come on stderr. The exit code is 1 where every draw of a prompt has weight 0.

    Sad stories from the model and the lexicon that come along:

        bayesft sample --model stories --reward bayesft.cli.stories:sadness --beta 0.2 --bounds -1,1 --every 16 --prompt "Once upon a time" --out draws.jsonl

    A reward of your own, exactly, for many prompts:

        bayesft sample --model path/to/model --reward rewards.py:score --bounds 0,1 --sampler rejection --num-draws 8 --prompts prompts.jsonl
    """  # noqa: E501  (a command that can be copied stands on one line)
    with line_writer(out) as write:
        import jax

        import bayesft as bft
        from bayesft.cli.rows import json_rows, summary_lines
        from bayesft.cli.targets import declare, load_guide
        from bayesft.report.progress import Reporter

        given = dataclasses.asdict(sampler)
        name = given.pop("sampler")
        require_applicable(SAMPLERS, "sampler", name, given)
        if sampler.resampling is not None:
            given["resampling"] = lookup(choose(RESAMPLING, sampler.resampling, "resampling"))
        report = Reporter()
        declared = declare(target)
        if sampler.proposal is not None:
            given["proposal"] = load_guide(sampler.proposal, declared.prior)
        method = build(SAMPLERS, "sampler", name, given)
        with report.call(f"sampling by {name}"):
            draws = bft.sample(declared, method, jax.random.key(seed))
            rows = list(json_rows(declared, draws))
        write(rows)
    for line in summary_lines(draws):
        report.note(line)
    if (draws.status == bft.Status.ALL_DEAD).any():
        typer.echo(
            "Every draw of a prompt has weight 0: no completion met the constraints.", err=True
        )
        raise typer.Exit(1)
