"""Expectations of programs: one number, and its gradient, whatever the choices inside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from bayesft.base import Estimator, Key, PyTree, StatefulEstimator
from bayesft.errors import CostError, EstimatorError
from bayesft.program import jumps
from bayesft.program.context import Context, Findings, Mode, Proposal, Requirement
from bayesft.program.scope import Outcome, Scored, ScoreTerm, over_lanes, run_scope

type States = dict[str, PyTree]
"""The states of a program's stateful estimators, by choice."""


def expectation(
    program: Callable[..., Array] | None = None,
    *,
    estimator: Estimator | None = None,
    require: Requirement | None = None,
) -> Any:
    """Turn a program into its expectation: E[returned value + every `bft.cost`].

    Use as a decorator; `estimator` is the default of its choices. With `require="unbiased"` (or
    "exact") an estimator that claims less raises EstimatorError, with its choice and its bias.

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
        return functools.partial(expectation, estimator=estimator, require=require)
    return Expectation(program, estimator, require)


@dataclasses.dataclass(frozen=True)
class Expectation:
    """The expectation of a program over its choices."""

    program: Callable[..., Array]
    estimator: Estimator | None = None
    require: Requirement | None = None

    def estimate(self, key: Key, *args: PyTree) -> Float[Array, ""]:
        """One estimate of the expectation, under the claims of the program's estimators.

        Its first reverse-mode derivative estimates the gradient (higher ones are not meaningful).
        Raises ChoiceError for choices in raw control flow and duplicate names, EstimatorError for
        an estimator that keeps a state (`step` carries it), and CostError, with the values of the
        choices, for a cost that is NaN, where no jit or vmap around hides it.
        """
        return self._checked(self._estimate(key, *args), key, args)

    def _estimate(self, key: Key, *args: PyTree) -> Float[Array, ""]:
        findings = scout(self.program, self.estimator, args, self.require)
        if findings.states:
            raise EstimatorError(
                f"The choices {sorted(findings.states)} have estimators that keep a state.",
                cause="estimate and value_and_grad carry none from one call to the next.",
                remedy="use init and step, or bft.fit.",
            )
        return self._run(key, {}, args, findings)[0]

    def init(self, *args: PyTree) -> States:
        """The states of the program's estimators before the first `step`."""
        return scout(self.program, self.estimator, args, self.require).states

    def step(
        self, key: Key, states: States, *args: PyTree
    ) -> tuple[States, tuple[Float[Array, ""], PyTree]]:
        """The next states, and what `value_and_grad` gives with the baselines of these ones."""

        def run(first):
            rest = (first, *args[1:])
            findings = scout(self.program, self.estimator, rest, self.require)
            if missing := sorted(set(findings.states) - set(states)):
                raise EstimatorError(
                    f"The states lack those of the choices {missing}.",
                    cause="no states, or those of another program.",
                    remedy="start from init, and go on with what step returns.",
                )
            return self._run(key, states, rest, findings)

        (value, after), gradient = jax.value_and_grad(run, has_aux=True)(args[0])
        return after, (self._checked(value, key, args), gradient)

    def _run(
        self, key: Key, states: States, args: tuple, findings: Findings
    ) -> tuple[Float[Array, ""], States]:
        num_lanes = findings.num_lanes
        context = Context(Mode.ESTIMATE, self.estimator)

        def lane(lane_key: Key) -> Outcome:
            return run_program(self.program, lane_key, args, context)

        outcome = over_lanes(lane, jax.random.split(key, num_lanes))
        stored = prepare(outcome.terms, states)
        total = outcome.cost.sum() + surrogate(outcome.terms, stored)
        return total / num_lanes, updated(states, outcome.terms)

    def value_and_grad(self, key: Key, *args: PyTree) -> tuple[Float[Array, ""], PyTree]:
        """An estimate and its gradient with respect to the first argument of the program."""
        run = lambda first: self._estimate(key, first, *args[1:])
        value, gradient = jax.value_and_grad(run)(args[0])
        return self._checked(value, key, args), gradient

    def _checked(self, value: Float[Array, ""], key: Key, args: tuple) -> Float[Array, ""]:
        """The value, unless it is known to be NaN."""
        if isinstance(value, Tracer) or not jnp.isnan(value):
            return value
        name = getattr(self.program, "__name__", "program")
        raise CostError(
            f"The cost of {name} is NaN, where {self._choices(key, args)}.",
            cause="a logarithm or a square root of a negative number, 0/0, ∞ − ∞, or parameters "
            "that are NaN already.",
            remedy="evaluate the cost at these values; jax.debug_nans(True) shows the operation.",
        )

    def _choices(self, key: Key, args: tuple) -> str:
        """The values of the choices in a lane whose cost is NaN, drawn again from the lanes' keys.

        A choice that takes several paths is drawn once here, so that its lane may have a number.
        """
        findings = scout(self.program, self.estimator, args)
        with jax.debug_key_reuse(False):  # the same keys, to find the same values
            for lane in jax.random.split(key, findings.num_lanes):
                run = lambda: self.program(*args)
                model = Context(Mode.MODEL)
                outcome = run_scope(run, lane, model, returns_cost=True, traced=True)
                if jnp.isnan(outcome.cost):
                    return described(outcome.trace)
        return "a choice takes several paths, one of which has no number"


def described(trace: dict[str, Any], prefix: str = "") -> str:
    """The choices of a model's trace with their values, stacked over plates and scans."""
    parts = [
        f"{prefix}{name} = {np.asarray(entry.value)}"
        if isinstance(entry, Scored)
        else described(entry, f"{prefix}{name}/")
        for name, entry in trace.items()
    ]
    return ", ".join(parts) if parts else "no choice is made"


def run_program(program, key, args, context, replay=None) -> Outcome:
    """One lane of a program, in a scope of its own."""
    return run_scope(lambda: program(*args), key, context, replay, returns_cost=True)


def scout(
    program: Callable[..., Array],
    estimator: Estimator | None,
    args: tuple,
    require: Requirement | None = None,
    proposal: Proposal | None = None,
) -> Findings:
    """What an abstract pass over a program finds out: its lanes, and whether it needs recording.

    The pass also refuses misplaced choices that eager tracing would hide, jumps on the paths of
    reparameterised choices, estimators that claim less than is required, and a proposal that has
    nothing to draw.
    """
    if require not in (None, "unbiased", "exact"):
        raise EstimatorError(
            f"require={require!r} is no claim that can be required.",
            remedy='use require="unbiased" or require="exact".',
        )
    context = Context(Mode.SCOUT, estimator, require=require)

    def run() -> tuple[Any, Outcome]:
        outcome = run_program(program, jax.random.key(0), args, context)
        return (outcome.cost, [term.log_prob for term in outcome.terms.values()]), outcome

    traced, (differentiated, outcome) = jax.make_jaxpr(run, return_shape=True)()
    if context.findings.reparameterised:
        jumps.refuse(traced, range(len(jax.tree.leaves(differentiated))))
    for name, term in outcome.terms.items():
        if isinstance(term.estimator, StatefulEstimator):
            context.findings.states[name] = term.estimator.init()
            if term.estimator.on_policy:
                context.findings.on_policy.append(name)
    if proposal is not None and not context.findings.proposable:
        raise EstimatorError(
            f"A proposal is given, and {getattr(program, '__name__', program)} draws no sequence "
            "from it.",
            cause="a proposal draws whole sequences that are recorded and weighed, those whose "
            "estimator uses their score; mle and forward_kl make no choice, variational_smc draws "
            "token by token, and enumerate draws nothing.",
            remedy="leave out proposal=, or use such an objective and estimator: reverse_kl with "
            "leave_one_out. The sampler of forward_kl takes a proposal of its own.",
        )
    return context.findings


def prepare(terms: dict[str, ScoreTerm], states: States) -> dict[str, PyTree]:
    """What each estimator stores for its choice, from the credited costs of K lanes."""

    def stored(name: str, term: ScoreTerm) -> PyTree:
        if isinstance(term.estimator, StatefulEstimator):
            return term.estimator.baseline(states[name], term.credited, term.described)
        return term.estimator.prepare(term.credited)

    return {name: jax.lax.stop_gradient(stored(name, term)) for name, term in terms.items()}


def updated(states: States, terms: dict[str, ScoreTerm]) -> States:
    """The states after a step, from the credited costs of all of its lanes."""

    def after(name: str, term: ScoreTerm) -> PyTree:
        credited, described = jax.lax.stop_gradient((term.credited, term.described))
        return term.estimator.update(states[name], credited, described)  # pyright: ignore

    stateful = {n: t for n, t in terms.items() if isinstance(t.estimator, StatefulEstimator)}
    return {name: after(name, term) for name, term in stateful.items()}


def surrogate(terms: dict[str, ScoreTerm], stored: dict[str, PyTree]) -> Float[Array, ""]:
    """Sum of the choices' surrogates: 0 in value, their part of the gradient in derivative."""
    total = jnp.zeros(())
    for name, term in terms.items():
        total += term.estimator.surrogate(term.credited, term.log_prob, stored[name])
        if isinstance(term.estimator, StatefulEstimator):
            total += term.estimator.control(term.described, stored[name])
    return total
