"""Loops that keep the credit of what happens inside them: `plate` and `scan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from bayesft.base import PyTree
from bayesft.errors import ChoiceError
from bayesft.program.scope import HostRequest, Outcome, Scope, require_scope, run_scope


def plate(
    body: Callable[[Int[Array, ""]], PyTree], size: int, *, name: str | None = None
) -> PyTree:
    """Run `body(i)` for i < size independently, results stacked: `vmap` with choices inside.

    A choice is credited with the costs of its own lane and those after the plate. Choices that take
    several paths (`enumerate`) may stand inside where only `bft.cost` leaves the body.
    """
    scope, name, key, replay, given = opened("plate", name)
    context, traced = scope.context.inside(), scope.frame.trace is not None

    def lane(
        i: Array, replay: Mapping[str, Any] | None, given: Mapping[str, Any] | None
    ) -> Outcome:
        lane_key = jax.random.fold_in(key, i)
        return run_scope(lambda: body(i), lane_key, context, replay, traced=traced, given=given)

    outcome = jax.vmap(lane)(jnp.arange(size), replay, given)
    merge(scope, name, outcome, {n: t.credited for n, t in outcome.terms.items()})
    return outcome.value


def scan(
    body: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    init: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    *,
    name: str | None = None,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` with choices inside: `body(carry, x) -> (carry, y)`.

    A choice is credited with the costs after it in its own step, in later steps, and after the
    scan. Choices that take several paths (`enumerate`) may stand inside where carry and y are None.
    Evidence in Python is refused inside.
    """
    scope, name, key, replay, given = opened("scan", name)
    context, traced = scope.context.inside(allows_host=False), scope.frame.trace is not None
    if length is None and not jax.tree.leaves(xs):
        raise ChoiceError(
            f"The scan {name!r} has no number of steps.",
            cause="neither xs nor length is given.",
            remedy="pass length=, or arrays to scan over.",
        )
    steps = length if length is not None else jax.tree.leaves(xs)[0].shape[0]

    def step(carry, inputs):
        x, i, replay, given = inputs
        step_key = jax.random.fold_in(key, i)
        outcome = run_scope(
            lambda: body(carry, x), step_key, context, replay, traced=traced, given=given
        )
        carry, y = outcome.value
        return carry, dataclasses.replace(outcome, value=y)

    inputs = (xs, jnp.arange(steps), replay, given)
    carry, outcome = jax.lax.scan(step, init, inputs, length=steps)
    # Not the sum from here on less this step's cost, which rounds where that one is large.
    later = jnp.concatenate([jnp.cumsum(outcome.cost[:0:-1])[::-1], jnp.zeros(1)])
    credits = {
        n: t.credited + later.reshape(-1, *(1,) * (t.credited.ndim - 1))
        for n, t in outcome.terms.items()
    }
    merge(scope, name, outcome, credits)
    return carry, outcome.value


def opened(kind: str, name: str | None) -> tuple[Scope, str, Array, Any, Any]:
    """The scope around a construct, the construct's name and key, what was recorded of it, and what
    a model that is scored is given for it."""
    scope = require_scope(f"A bft.{kind}")
    name = name if name is not None else scope.number(kind)
    key = scope.claim(name, kind)
    given = scope.frame.given
    inner = None if given is None else given.get(name, {})
    return scope, name, key, scope.replay.get(scope.qualified(name)), inner


def merge(scope: Scope, name: str, outcome: Outcome, credits: dict[str, Array]) -> None:
    """Take over what lanes, steps or branches have recorded, asked for, paid and chosen."""
    if outcome.record:
        scope.record[scope.qualified(name)] = outcome.record
    if outcome.request is not None:
        raise HostRequest({scope.qualified(name): outcome.request})
    if scope.frame.trace is not None and outcome.trace:
        scope.frame.trace[name] = outcome.trace
    order = scope.next_order()
    scope.add_cost(outcome.cost.sum(), order=order)
    for inner, term in outcome.terms.items():
        term = dataclasses.replace(term, credited=credits[inner])
        full = scope.qualified(f"{name}/{inner}")
        scope.reserve(f"{name}/{inner}", f"The choice {full!r}")
        scope.add_term(full, term, order)
