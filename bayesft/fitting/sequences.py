"""The completions that a step of `fit` drew, as its recording holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bayesft.program.record import Recording
from bayesft.target import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """What the target said of completions: their log-priors and unscaled log φ by name, in nats."""

    tokens: Int[Array, "P n T"]
    log_prior: Float[Array, "P n"]
    log_potentials: dict[str, Float[Array, "P n"]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequences:
    """Completions, n per prompt, with the log-probs of their tokens where they were drawn from."""

    tokens: Int[Array, "P n T"]
    token_log_probs: Float[Array, "P n T"]
    scores: Scores | None

    @property
    def scored(self) -> Bool[Array, ""]:
        """Whether the scores are those of the completions."""
        return jnp.asarray(self.scores is not None and (self.scores.tokens == self.tokens).all())


def drawn_sequences(recording: Recording, target: Any) -> Sequences | None:
    """The completions of a program that draws one per lane, in whatever loops.

    None where it draws none, or several, which one number cannot speak for. They are without scores
    where the program asks for no density, or for more than one.
    """
    if not isinstance(target, Target):
        return None
    found = list(_choices(recording.data, target.horizon.max_new_tokens))
    if len(found) != 1:
        return None
    scope, choice = found[0]
    tokens, log_probs = (_by_prompt(choice[part], 1) for part in ("value", "log_prob"))
    return Sequences(tokens, log_probs, _scores(scope))


def _choices(record: Mapping[str, Any], num_tokens: int) -> Iterator[tuple[Mapping, Mapping]]:
    """Every choice of a sequence, with the scope that it stands in."""
    for entry in record.values():
        if not isinstance(entry, Mapping):
            continue
        if not {"value", "log_prob"} <= set(entry):
            yield from _choices(entry, num_tokens)
        elif _is_sequence(entry, num_tokens):
            yield record, entry


def _is_sequence(choice: Mapping[str, Any], num_tokens: int) -> bool:
    value, log_prob = choice["value"], choice["log_prob"]
    return (
        isinstance(value, jax.Array)
        and jnp.issubdtype(value.dtype, jnp.integer)
        and value.ndim >= 3
        and value.shape == log_prob.shape
        and value.shape[-1] == num_tokens
    )


def _scores(scope: Mapping[str, Any]) -> Scores | None:
    stored = [slot for slot in scope if slot.startswith("stored/")]
    host = [slot for slot in scope if slot.startswith("host/")]
    if len(stored) != 1 or len(host) > 1:
        return None
    known = scope[stored[0]]
    potentials = {**known["log_potentials"], **(scope[host[0]] if host else {})}
    return Scores(
        _by_prompt(known["tokens"], 1),
        _by_prompt(known["log_prior"], 0),
        {name: _by_prompt(value, 0) for name, value in potentials.items()},
    )


def _by_prompt(values: Array, num_own: int) -> Array:
    """[P, K, loops, own dimensions] as [P, n, own dimensions]."""
    own = values.shape[values.ndim - num_own :]
    return values.reshape(values.shape[0], -1, *own)
