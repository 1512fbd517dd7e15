"""Interop: other probabilistic programming libraries, each in a file of its own.

Contract. What another library calls a distribution, a guide or a transform keeps its meaning here
or is refused by an error that says what to do; nothing loses a gradient without a word. A file is
named after its library, imports it on use, and names the extra that is missing.

| module | from the library | to the library |
|---|---|---|
| `numpyro` | model and guide: `program`, `parameters` | an objective: `loss` for its SVI |
| `genjax` | a generative function: `choice`, `prior` | a prior: `distribution` |
| `tfp` | a bijector: `transform`; a `distribution`, which `bft.draw` takes as it is | |

Draws leave for ArviZ by `Draws.to_arviz`.

Laws, tested in tests/interop against the libraries themselves, by enumeration or closed form, each
with a planted bug: values and gradients of a program agree with the exact evidence lower bound
under every estimator, in plates and with subsampled rows, and so does what SVI differentiates;
log-probs agree with `assess` and sampling frequencies with log-probs in both directions; log
determinants agree with the Jacobian.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bayesft.interop import genjax, numpyro, tfp

__all__ = ["genjax", "numpyro", "tfp"]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"bayesft.interop.{name}")
    raise AttributeError(f"module 'bayesft.interop' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
