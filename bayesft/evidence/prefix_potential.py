"""A sum of increments over tokens in JAX as evidence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from bayesft.base import PrefixEvidence, Prompt, PyTree
from bayesft.errors import EvidenceError
from bayesft.evidence import calling


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity, arrays and all
class FunctionPrefixPotential(PrefixEvidence):
    """log φ(y) = Σ_t increment(y_1:t), each from the state that `step` carries."""

    step_fn: Partial
    initial: PyTree
    bounds: tuple[float, float] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    declared_hard: bool | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def hard(self) -> bool:
        return super().hard if self.declared_hard is None else self.declared_hard

    def init(self, x: Prompt) -> PyTree:
        return self.initial

    def step(self, state: PyTree, token: Int[Array, ""]):
        new, increment = self.step_fn(state, token)
        new = jax.tree.map(jnp.asarray, new)
        increment = jnp.asarray(increment)
        expected, found = _shapes(self.initial), _shapes(new)
        if expected != found or increment.shape != ():
            raise EvidenceError(
                f"Step of {self.name} returned a state of {found} and an increment of shape "
                f"{increment.shape}; the initial state has {expected}.",
                cause="the state changed its structure or shape on the way, or the increment is "
                "not a scalar.",
                remedy="return (state like `initial`, scalar log-increment).",
            )
        # A carried state keeps its dtype; `state + 1.0` on integers would change it silently.
        new = jax.tree.map(_as_before, self.initial, new)
        return new, increment.astype(jnp.promote_types(increment.dtype, jnp.float32))


def _as_before(before: Array, after: Array) -> Array:
    if jnp.result_type(before, after) != before.dtype:
        raise EvidenceError(
            f"The state of a prefix potential changed from {before.dtype} to {after.dtype}.",
            cause="integer state updated by floating-point arithmetic, for instance.",
            remedy="give `initial` in the dtype that `step` returns.",
        )
    return after.astype(before.dtype)


def _shapes(state: PyTree) -> PyTree:
    return jax.tree.map(jnp.shape, state)


def prefix_potential(
    step: Callable[[PyTree, Int[Array, ""]], tuple[PyTree, Float[Array, ""]]],
    initial: PyTree,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    name: str | None = None,
    hard: bool | None = None,
) -> FunctionPrefixPotential:
    """Evidence that is a sum of increments, one per token, EOS included, computed in JAX:

        log φ(y) = Σ_{t ≤ length} increment_t,    (s_t, increment_t) = step(s_{t-1}, y_t)

    with s_0 = `initial`, a pytree of arrays. SMC weighs and resamples by the increments as they
    come. Each lies in [-inf, +inf); their sum lies in `bounds`, in nats. Steps on padding are
    computed and ignored.

    As in `potential`, `jax.tree_util.Partial(step, params)` makes arrays of the function leaves,
    and `hard` says whether sequences are declared impossible.

    Raises EvidenceError for bounds that are not ordered, and when traced for a state that changes
    its shape or dtype, or an increment that is not a scalar.
    """
    label = calling.name_of(step, name)
    calling.check_function(step, label)
    calling.check_bounds(bounds, label, finite=False)
    wrapped = step if isinstance(step, Partial) else Partial(step)
    state = jax.tree.map(jnp.asarray, initial)
    pair = (float(bounds[0]), float(bounds[1]))
    return FunctionPrefixPotential(wrapped, state, pair, label, hard)
