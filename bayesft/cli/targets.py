"""Models, targets and guides from options."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import typer

import bayesft as bft
from bayesft.cli.functions import load_function
from bayesft.cli.names import EOS_POLICIES
from bayesft.cli.options import TargetOptions
from bayesft.cli.prompts import read_prompts
from bayesft.lm import LanguageModel

EMBEDDED = "stories"


def declare(options: TargetOptions) -> bft.Target:
    """The target; functions, prompts and settings are looked at before the model is loaded."""
    if options.eos not in EOS_POLICIES:
        raise typer.BadParameter(
            f"{options.eos!r} is not one of {', '.join(EOS_POLICIES)}.", param_hint="--eos"
        )
    evidence = _evidence(options)
    prompts = read_prompts(options.prompt, options.prompts)
    return bft.Target(
        load_model(options.model),
        evidence,
        prompts=prompts,
        max_new_tokens=options.max_new_tokens,
        eos=options.eos,
    )


def load_model(name: str) -> LanguageModel:
    """The model in a folder, or the one that comes with bayesft."""
    embedded = name == EMBEDDED and not Path(name).exists()
    return bft.lm.load(embedded_model() if embedded else name)


def embedded_model() -> Path:
    """Folder of the tiny story model that comes with bayesft."""
    return Path(str(files("bayesft") / "assets" / "stories"))


def load_guide(path: Path, prior: Any) -> Any:
    """A guide that `fit` wrote: an adapter over the prior, or a model of its own."""
    if (path / "adapter_config.json").exists():
        return bft.lm.load_adapter(prior, path)
    return bft.lm.load(path).trainable()


def _evidence(options: TargetOptions) -> Any:
    evidence = None
    if options.reward is not None:
        fn = load_function(options.reward, "reward")
        evidence = bft.evidence.reward(fn, beta=options.beta, bounds=_bounds(options.bounds))
    elif options.bounds is not None:
        raise typer.BadParameter("--bounds are those of a reward: give --reward too.")
    for spec in options.constraint or ():
        fn = load_function(spec, "constraint")
        term = bft.evidence.constraint(fn, log_penalty=options.log_penalty)
        evidence = term if evidence is None else evidence + term
    return evidence


def _bounds(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not two numbers with a comma between, such as -1,1.",
            param_hint="--bounds",
        ) from None
    return low, high
