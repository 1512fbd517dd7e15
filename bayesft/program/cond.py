"""A branch that keeps the credit of what happens inside it: `cond`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from bayesft.base import PyTree
from bayesft.errors import ChoiceError
from bayesft.program.context import Mode
from bayesft.program.control import merge, opened
from bayesft.program.scope import Outcome, run_scope


def cond(
    pred: Bool[Array, ""] | bool,
    true_fn: Callable[..., PyTree],
    false_fn: Callable[..., PyTree],
    *operands: PyTree,
    name: str | None = None,
) -> PyTree:
    """`jax.lax.cond` with choices inside: `true_fn(*operands)` if pred, else `false_fn(*operands)`.

    E[c] = E[pred·E[c | true_fn] + (1 − pred)·E[c | false_fn]]; a choice is credited with the costs
    after it in its own branch and after the cond. A choice in one branch is called
    "cond/0/true/y", or "…/false/y"; choices that take several paths may stand inside where only
    `bft.cost` leaves both branches. Evidence in Python is refused inside.

    Lanes that differ in pred run both branches and keep one each. The gradient does not see pred
    move: a pred that compares a reparameterised value is refused, since the jump between the
    branches would be missing.

    Raises ChoiceError where the branches return values of different structure or shape.
    """
    scope, name, key, replay, given = opened("cond", name)
    replay = replay or {}
    context, traced = scope.context.inside(allows_host=False), scope.frame.trace is not None

    data, restore = _raw(key)

    def branch(side: str, body: Callable[..., PyTree]):
        return lambda *operands: run_scope(
            lambda: body(*operands),
            jax.random.fold_in(restore(data), side == "true"),
            context,
            replay.get(side),
            traced=traced,
            given=None if given is None else given.get(side, {}),
        )

    true, false = branch("true", true_fn), branch("false", false_fn)
    shapes = {
        "true": jax.eval_shape(true, *operands),
        "false": jax.eval_shape(false, *operands),
    }
    _require_same(shapes["true"].value, shapes["false"].value)

    if scope.context.mode is Mode.RECORD:
        # At other parameters a replay may take the other branch: both record what they draw.
        outcomes = {"true": true(*operands), "false": false(*operands)}
        taken = jax.tree.map(
            lambda t, f: jnp.where(pred, t, f),
            *(_padded(outcomes[side], side, shapes, records=False) for side in ("true", "false")),
        )
        records = {side: o.record for side, o in outcomes.items() if o.record}
        outcome = dataclasses.replace(taken, record=records)
    else:
        outcome = jax.lax.cond(
            pred,
            lambda *operands: _padded(true(*operands), "true", shapes),
            lambda *operands: _padded(false(*operands), "false", shapes),
            *operands,
        )
    merge(scope, name, outcome, {n: t.credited for n, t in outcome.terms.items()})
    return outcome.value


def _padded(
    outcome: Outcome, side: str, shapes: dict[str, Outcome], *, records: bool = True
) -> Outcome:
    """The outcome of one branch with zeros for the other's choices, which count for nothing."""
    terms: dict[str, Any] = {}
    record: dict[str, Any] = {}
    trace: dict[str, Any] = {}
    for each, shape in shapes.items():
        taken = outcome if each == side else jax.tree.map(_zeros, shape)
        terms |= {f"{each}/{inner}": term for inner, term in taken.terms.items()}
        if records and taken.record:
            record[each] = taken.record
        if taken.trace:
            trace[each] = taken.trace
    return dataclasses.replace(outcome, terms=terms, record=record, trace=trace)


def _raw(key: Array) -> tuple[Array, Callable[[Array], Array]]:
    """A key as plain numbers: under vmap a cond selects among its inputs, which the check for
    reused keys takes for a use."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key, lambda data: data
    impl = jax.random.key_impl(key)
    return jax.random.key_data(key), lambda data: jax.random.wrap_key_data(data, impl=impl)


def _zeros(shape: jax.ShapeDtypeStruct) -> Array:
    return jnp.zeros(shape.shape, shape.dtype)


def _require_same(true: PyTree, false: PyTree) -> None:
    def described(value: PyTree) -> str:
        return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", value))

    if (one := described(true)) != (other := described(false)):
        raise ChoiceError(
            f"The branches of a bft.cond return different things: {one} and {other}.",
            cause="a branch that returns nothing, or another dtype or shape (an int for a float).",
            remedy="return the same structure, dtypes and shapes from both.",
        )
