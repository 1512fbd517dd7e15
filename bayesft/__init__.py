"""bayesft: fine-tuning as posterior inference.

A language model is a prior π0, a reward is evidence, the aligned model is the posterior
p*(y | x) ∝ π0(y | x)·exp(r(x, y)/β). Declare the target once, then sample it (`bft.sample`) or
approximate it with a guide (`bft.fit`), and certify how far the guide is (`bft.certify`).
"""

import importlib
from typing import TYPE_CHECKING

from bayesft import (
    distributions,
    errors,
    estimators,
    evidence,
    objectives,
    priors,
    samplers,
    sharding,
    twists,
)
from bayesft._fit import fit
from bayesft._sample import sample
from bayesft.base import Prior, Prompt
from bayesft.base.compiler_memory import give_back_after_compiling
from bayesft.diagnostics import certify
from bayesft.draws import Draws, Status
from bayesft.fitting.info import Fitted
from bayesft.priors import empirical, trainable
from bayesft.program import (
    cond,
    cost,
    draw,
    estimate_log_prob,
    expectation,
    log_mean_exp,
    model,
    plate,
    scan,
)
from bayesft.target import Target

if TYPE_CHECKING:
    from bayesft import interop, io, lm, testing, track

__version__ = "0.1.0"
give_back_after_compiling()
_LAZY = ("interop", "io", "lm", "testing", "track")


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f"bayesft.{name}")
    raise AttributeError(f"module 'bayesft' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)


__all__ = [
    "Draws",
    "Fitted",
    "Prior",
    "Prompt",
    "Status",
    "Target",
    "certify",
    "cond",
    "cost",
    "distributions",
    "draw",
    "empirical",
    "errors",
    "estimate_log_prob",
    "estimators",
    "evidence",
    "expectation",
    "fit",
    "interop",
    "io",
    "lm",
    "log_mean_exp",
    "model",
    "objectives",
    "plate",
    "priors",
    "sample",
    "samplers",
    "scan",
    "sharding",
    "testing",
    "track",
    "trainable",
    "twists",
]
