"""A function of a whole sequence in JAX as evidence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from bayesft.base import Potential, Prompt
from bayesft.errors import EvidenceError
from bayesft.evidence import calling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FunctionPotential(Potential):
    """log φ(y) = fn(tokens, length)."""

    fn: Partial  # its bound arrays are leaves, the function itself is static
    bounds: tuple[float, float] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    declared_hard: bool | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def hard(self) -> bool:
        return super().hard if self.declared_hard is None else self.declared_hard

    def log_potential(self, tokens: Int[Array, " T"], x: Prompt, length: Int[Array, ""]):
        value = jnp.asarray(self.fn(tokens, length))
        if value.shape != ():
            raise EvidenceError(
                f"Potential {self.name} returned shape {value.shape} for one sequence.",
                cause="a value per token, or a function that expects a batch.",
                remedy="return a scalar for tokens [T]; sum over live positions "
                "(jnp.arange(T) < length).",
            )
        return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def potential(
    fn: Callable[[Int[Array, " T"], Int[Array, ""]], Float[Array, ""]],
    bounds: tuple[float, float] = (-math.inf, math.inf),
    name: str | None = None,
    hard: bool | None = None,
) -> FunctionPotential:
    """Evidence log φ(y) = fn(tokens, length), in nats, computed in JAX for one sequence.

    `tokens` [T] are the new tokens, of which `length` (EOS included) count: the rest is padding
    and must not change the value. The value lies in [-inf, +inf) and in `bounds`, which exact
    rejection takes on trust (it reports a bound that is exceeded).

    A function with arrays of its own, such as a reward model, is given as
    `jax.tree_util.Partial(fn, params)`: the arrays are then leaves, and new ones retrace nothing.

    `hard` says whether the potential declares sequences impossible, which objectives that would be
    infinite refuse. Left out, bounds from -inf to at most 0 are taken to mean that it does; write
    hard=False for a score of such bounds, such as a log-probability.

    Raises EvidenceError for bounds that are not ordered, and when traced for a result of a shape
    other than ().
    """
    label = calling.name_of(fn, name)
    calling.check_function(fn, label)
    calling.check_bounds(bounds, label, finite=False)
    wrapped = fn if isinstance(fn, Partial) else Partial(fn)
    return FunctionPotential(wrapped, (float(bounds[0]), float(bounds[1])), label, hard)
