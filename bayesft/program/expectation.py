"""Expectations of programs: one number, and its gradient, whatever the choices inside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Estimator, Key, PyTree
from bayesft.program.scope import Context, Findings, Mode, Outcome, ScoreTerm, run_scope


def expectation(
    program: Callable[..., Array] | None = None, *, estimator: Estimator | None = None
) -> Any:
    """Turn a program into its expectation: E[returned value + every `bft.cost`].

    Use as a decorator; `estimator` is the default of its choices.

    >>> import jax, numpyro.distributions as dist, bayesft as bft
    >>> @bft.expectation
    ... def winnings(p):
    ...     heads = bft.draw("heads", dist.Bernoulli(probs=p), bft.estimators.enumerate())
    ...     return 2.0 * heads
    >>> value, gradient = winnings.value_and_grad(jax.random.key(0), 0.25)
    >>> round(float(value), 4), round(float(gradient), 4)
    (0.5, 2.0)
    """
    if program is None:
        return functools.partial(expectation, estimator=estimator)
    return Expectation(program, estimator)


@dataclasses.dataclass(frozen=True)
class Expectation:
    """The expectation of a program over its choices."""

    program: Callable[..., Array]
    estimator: Estimator | None = None

    def estimate(self, key: Key, *args: PyTree) -> Float[Array, ""]:
        """One unbiased estimate of the expectation.

        Its first reverse-mode derivative estimates the gradient (higher ones are not meaningful).
        Raises ChoiceError for choices in raw control flow and duplicate names.
        """
        num_lanes = scout(self.program, self.estimator, args).num_lanes
        context = Context(Mode.ESTIMATE, self.estimator)

        def lane(lane_key: Key) -> Outcome:
            return run_program(self.program, lane_key, args, context)

        outcome = jax.vmap(lane)(jax.random.split(key, num_lanes))
        stored = prepare(outcome.terms)
        total = outcome.cost.sum() + surrogate(outcome.terms, stored)
        return total / num_lanes

    def value_and_grad(self, key: Key, *args: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """An estimate and its gradient with respect to the first argument of the program."""
        return jax.value_and_grad(lambda first: self.estimate(key, first, *args[1:]))(args[0])


def run_program(program, key, args, context, replay=None) -> Outcome:
    """One lane of a program, in a scope of its own."""
    return run_scope(lambda: program(*args), key, context, replay, returns_cost=True)


def scout(program: Callable[..., Array], estimator: Estimator | None, args: tuple) -> Findings:
    """What an abstract pass over a program finds out: its lanes, and whether it needs recording.

    The pass also refuses misplaced choices that eager tracing would hide.
    """
    context = Context(Mode.SCOUT, estimator)
    jax.eval_shape(lambda: run_program(program, jax.random.key(0), args, context))
    return context.findings


def prepare(terms: dict[str, ScoreTerm]) -> dict[str, Float[Array, "K *shape"]]:
    """What each estimator stores for its choice, from the credited costs of K lanes."""
    return {
        name: jax.lax.stop_gradient(term.estimator.prepare(term.credited))
        for name, term in terms.items()
    }


def surrogate(terms: dict[str, ScoreTerm], stored: dict[str, Array]) -> Float[Array, ""]:
    """Sum of the choices' surrogates: 0 in value, their part of the gradient in derivative."""
    total = jnp.zeros(())
    for name, term in terms.items():
        total += term.estimator.surrogate(term.credited, term.log_prob, stored[name])
    return total
