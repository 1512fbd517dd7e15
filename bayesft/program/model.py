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
from bayesft.program.scope import Outcome, run_scope

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
class ModelDistribution:
    """Distribution over traces {choice name: value}; a plate's or scan's trace is stacked."""

    program: Callable[..., PyTree] = dataclasses.field(metadata={"static": True})
    args: tuple
    given: Trace

    has_rsample = False

    def condition(self, values: Trace) -> ModelDistribution:
        """Fix some choices: `log_density` then takes the others, and includes the fixed ones.

        The result is unnormalised, so it has no `log_prob` and cannot be sampled exactly.
        """
        return dataclasses.replace(self, given=_merge(self.given, values))

    def sample(self, key: Key) -> Trace:
        """A trace, in program order. Raises ChoiceError for a conditioned model."""
        if self.given:
            raise ChoiceError(
                f"A model conditioned on {sorted(self.given)} was sampled.",
                cause="running it forward would ignore what it is conditioned on.",
                remedy="minimise an objective on its log_density, or use a sampler.",
            )
        return _values(self._run(key, {})[0].record)

    def log_density(self, trace: Trace) -> Float[Array, ""]:
        """Σ log p of all choices, minus costs, in nats; differentiable in values and arguments.

        Raises ChoiceError where the trace lacks a choice of the program or has one too many.
        """
        outcome, _ = self._scored(trace)
        return _total_log_prob(outcome.record) - outcome.cost

    def log_prob(self, value: Trace) -> Float[Array, ""]:
        """The same as `log_density`, for a model that is normalised: no costs, no conditions."""
        outcome, pays = self._scored(value)
        if self.given or pays:
            raise ChoiceError(
                "A conditioned model, or one with costs, has no normalised log_prob.",
                cause="it was used where a distribution is needed.",
                remedy="use log_density, or sample and score the unconditioned model.",
            )
        return _total_log_prob(outcome.record)

    def _scored(self, trace: Trace) -> tuple[Outcome, bool]:
        full = _merge(self.given, trace)
        # A missing choice would be drawn silently, so names are compared before the run.
        expected = jax.eval_shape(lambda: self._run(jax.random.key(0), self.given)[0].record)
        _require_same_choices(_values(expected), full)
        return self._run(jax.random.key(0), full)

    def _run(self, key: Key, trace: Trace) -> tuple[Outcome, bool]:
        context = Context(Mode.MODEL)
        outcome = run_scope(lambda: self.program(*self.args), key, context, trace)
        return outcome, context.findings.pays


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> Trace:
    merged = dict(one)
    for name, value in other.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if nested else value
    return merged


def _values(record: Mapping[str, Any]) -> Trace:
    """The values of a record, without their log-probs."""
    return {
        name: entry["value"] if _is_choice(entry) else _values(entry)
        for name, entry in record.items()
    }


def _is_choice(entry: Mapping[str, Any]) -> bool:
    return set(entry) == {"value", "log_prob"}


def _total_log_prob(record: Mapping[str, Any]) -> Float[Array, ""]:
    total = jnp.zeros(())
    for entry in record.values():
        total += jnp.sum(entry["log_prob"]) if _is_choice(entry) else _total_log_prob(entry)
    return total


def _require_same_choices(expected: Trace, given: Trace) -> None:
    missing, extra = set(expected) - set(given), set(given) - set(expected)
    if missing or extra:
        raise ChoiceError(
            f"The trace lacks {sorted(missing)} and has {sorted(extra)} too many.",
            cause="it was made by another program, or not all choices were given.",
            remedy=f"give exactly the choices {sorted(expected)}.",
        )
    for name, value in expected.items():
        if isinstance(value, Mapping) and isinstance(given[name], Mapping):
            _require_same_choices(dict(value), given[name])
