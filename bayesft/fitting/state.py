"""Everything that the next step of `fit` depends on."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bayesft.base import PyTree
from bayesft.program.expectation import States
from bayesft.program.record import Pending
from bayesft.sharding import place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitState:
    """What the next step needs; beside it, only the key and the arguments of `fit`.

    `step` counts the steps taken, `params` and `optimizer` are the guide's parameters and the
    optimiser's state, `estimators` the states of estimators that keep one. `nan_steps` counts the
    steps just taken, in a row, whose gradient was NaN or infinite. `pending` is the recording of
    the next step where it is made one step ahead.
    """

    step: Int[Array, ""]
    params: PyTree
    optimizer: PyTree
    estimators: States
    nan_steps: Int[Array, ""]
    pending: Pending | None = None

    def after(
        self,
        params: PyTree,
        optimizer: PyTree,
        estimators: States,
        pending: Pending | None,
        *,
        nan: bool,
    ) -> FitState:
        """The state after a step; one with a NaN gradient teaches estimators nothing."""
        return FitState(
            self.step + 1,
            params,
            optimizer,
            self.estimators if nan else estimators,
            self.nan_steps + 1 if nan else jnp.zeros_like(self.nan_steps),
            pending,
        )


def first_state(
    params: PyTree, optimizer: PyTree, estimators: States, pending: Pending | None
) -> FitState:
    """That of step 0. An optimiser's state may start as the parameters; updates donate both, so it
    gets copies of its own."""
    seen = {id(leaf) for leaf in jax.tree.leaves(params)}

    def own(leaf: Array) -> Array:
        if id(leaf) in seen:
            return jnp.copy(leaf)
        seen.add(id(leaf))
        return leaf

    zero = jnp.zeros((), jnp.int32)
    return FitState(zero, params, place(jax.tree.map(own, optimizer)), estimators, zero, pending)
