"""Exact expectations over a choice's support."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bayesft.base import Claim, Key, MultiPathEstimator, PyTree
from bayesft.errors import EstimatorError


@dataclasses.dataclass(frozen=True)
class Enumerate(MultiPathEstimator):
    """E_q[c(y)] = Σ_y q(y)·c(y), differentiated as it stands."""

    lists_support = True

    @property
    def claim(self) -> Claim:
        return Claim("exact")

    def expand(self, name: str, distribution: Any, key: Key) -> tuple[PyTree, jax.Array]:
        happened, values = "", None
        if not callable(getattr(distribution, "enumerate_support", None)) or not getattr(
            distribution, "has_enumerate_support", True
        ):
            happened = f"{type(distribution).__name__} at {name!r} has no finite support to list."
        elif getattr(distribution, "batch_shape", ()):
            happened = (
                f"The choice {name!r} has batch shape {distribution.batch_shape}, whose joint "
                "support is not listed."
            )
        else:
            try:
                values = distribution.enumerate_support()
            except NotImplementedError:  # numpyro's `to_event` has the flag and not the method
                happened = f"{type(distribution).__name__} at {name!r} does not list its support."
        if happened:
            raise EstimatorError(
                happened,
                cause="enumerate sums over every value of one finite choice.",
                remedy="use score_function or leave_one_out; or draw elements of a batch one by "
                "one in a bft.plate.",
            )
        return values, jnp.exp(jax.vmap(distribution.log_prob)(values))


def enumerate() -> Enumerate:
    """Sum over the support instead of sampling: no variance, and as many runs as values.

    For distributions with `enumerate_support()`: discrete numpyro distributions without a batch
    shape, and sequences of enumerable priors.
    """
    return Enumerate()
