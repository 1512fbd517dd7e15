"""A program as a distribution over its own choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Key, PyTree
from bayesft.errors import ChoiceError
from bayesft.program.context import Context, Mode
from bayesft.program.scope import Frame, Scored, require_scope, run_scope
from bayesft.program.subprogram import SubProgram

type Trace = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A program seen as a distribution; `model(*args)` is the distribution at these arguments."""

    program: Callable[..., PyTree]

    def __call__(self, *args: PyTree) -> ModelDistribution:
        return ModelDistribution(self.program, args, {})


def model(program: Callable[..., PyTree]) -> Model:
    """The distribution over a program's choices: values by name, nested by plate and scan.

    What the program returns is ignored; `bft.cost` inside subtracts from its log-density.
    """
    return Model(program)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelDistribution(SubProgram):
    """Distribution over traces {choice name: value}; a plate's or scan's trace is stacked."""

    program: Callable[..., PyTree] = dataclasses.field(metadata={"static": True})
    args: tuple
    given: Trace

    def condition(self, values: Trace) -> ModelDistribution:
        """Fix some choices: `log_density` then takes the others, and includes the fixed ones.

        The result is unnormalised, so it has no `log_prob` and cannot be sampled exactly.
        """
        return dataclasses.replace(self, given=_merge(self.given, values))

    def sample(self, key: Key) -> Trace:
        """A trace, in program order. Raises ChoiceError for a conditioned model."""
        self._require_unconditioned()
        return _values(run_scope(self._body, key, Context(Mode.MODEL), traced=True).trace)

    def log_density(self, trace: Trace) -> Float[Array, ""]:
        """Σ log p of all choices, minus costs, in nats; differentiable in values and arguments.

        Raises ChoiceError where the trace lacks a choice of the program or has one too many, and
        for choices from a stochastic density, which has no log-prob.
        """
        return self._scored(trace, allows_cost=True)

    def log_prob(self, value: Trace) -> Float[Array, ""]:
        """The same as `log_density`, for a model that is normalised: no costs, no conditions."""
        self._require_unconditioned()
        return self._scored(value, allows_cost=False)

    def propose(self) -> tuple[Trace, Float[Array, ""]]:
        """The model as a part of another program: its choices are that program's."""
        trace = self._part(None)
        return _values(trace), _total_log_prob(trace)

    def assess(self, value: Trace) -> Float[Array, ""]:
        """Σ log p of all choices; those from a stochastic density take choices of their own."""
        return _total_log_prob(self._part(value))

    def _body(self) -> PyTree:
        return self.program(*self.args)

    def _scored(self, trace: Trace, *, allows_cost: bool) -> Float[Array, ""]:
        context = Context(Mode.MODEL, allows_cost=allows_cost, allows_estimates=False)
        full = _merge(self.given, trace)
        # Every choice is given, so the key is not used.
        outcome = run_scope(self._body, jax.random.key(0), context, traced=True, given=full)
        return _total_log_prob(outcome.trace) - outcome.cost

    def _part(self, given: Trace | None) -> dict[str, Any]:
        self._require_unconditioned()
        scope = require_scope("A model")
        frame = Frame(scope.frame.prefix, given, {})
        with scope.inside(frame, allows_cost=False):
            self._body()
        frame.require_all_taken()
        return frame.trace or {}

    def _require_unconditioned(self) -> None:
        if self.given:
            raise ChoiceError(
                f"A model conditioned on {sorted(self.given)} is used as a distribution.",
                cause="it is not normalised, and running it forward would ignore the conditions.",
                remedy="minimise an objective on its log_density, use a sampler, or "
                "bft.distributions.normalize.",
            )


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> Trace:
    merged = dict(one)
    for name, value in other.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if nested else value
    return merged


def _values(trace: Mapping[str, Any]) -> Trace:
    """The values of a trace, without their log-probs."""
    return {
        name: entry.value if isinstance(entry, Scored) else _values(entry)
        for name, entry in trace.items()
    }


def _total_log_prob(trace: Mapping[str, Any]) -> Float[Array, ""]:
    total = jnp.zeros(())
    for entry in trace.values():
        scored = isinstance(entry, Scored)
        total += jnp.sum(entry.log_prob) if scored else _total_log_prob(entry)
    return total
