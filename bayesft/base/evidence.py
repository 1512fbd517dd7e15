"""Evidence: log-potentials that add up and scale."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base.distributions import Prior, PyTree
from bayesft.base.sequences import Horizon, Prompt


class Evidence(abc.ABC):
    """A log-potential in nats; adds up with `+`, scales with `*`.

    Concrete evidence is one of three kinds, by where it can be evaluated: `Potential` (JAX, whole
    sequences), `PrefixEvidence` (JAX, token by token), `HostEvidence` (Python, on text).
    """

    bounds: tuple[float, float]
    """Smallest and largest value that the log-potential can take; infinite where unknown."""
    terms: tuple[Term, ...]
    """The evidence as a flat sum of scaled leaves."""

    def __add__(self, other: Evidence) -> Evidence:
        return Sum(self.terms + other.terms) if isinstance(other, Evidence) else NotImplemented

    def __mul__(self, scale: float | Array) -> Evidence:
        return Sum(tuple(Term(term.scale * scale, term.evidence) for term in self.terms))

    __rmul__ = __mul__


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Term:
    """One leaf of a sum of evidence with its scale."""

    scale: float | Array
    evidence: LeafEvidence

    def scaled(self, value: Array) -> Array:
        """scale · value, where a scale of 0 switches even -inf off."""
        return jnp.where(self.scale == 0, 0.0, self.scale * value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum(Evidence):
    """Sum of scaled evidence; empty, it is no evidence at all."""

    terms: tuple[Term, ...] = ()  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def bounds(self) -> tuple[float, float]:
        low = high = 0.0
        for term in self.terms:
            scale = float(term.scale)
            if scale:
                a, b = sorted(scale * bound for bound in term.evidence.bounds)
                low, high = low + a, high + b
        return low, high


class LeafEvidence(Evidence):
    """Evidence that is not a sum of other evidence."""

    name: str
    """What errors, metrics and recordings call it."""

    @property
    def hard(self) -> bool:
        """Whether it declares sequences impossible: it only lowers densities, without limit."""
        return self.bounds[0] == -math.inf and self.bounds[1] <= 0

    @property
    def terms(self) -> tuple[Term, ...]:
        return (Term(1.0, self),)

    def require_satisfiable(self, horizon: Horizon) -> None:
        """Raise EvidenceError where no sequence up to the horizon can have a positive potential.

        A target calls it when it is declared; evidence that cannot tell says nothing.
        """

    def bind(self, prior: Prior, horizon: Horizon, longest_prompt: int) -> LeafEvidence:
        """The evidence as a target of this prior and horizon uses it, prompts up to a length.

        A target calls it when it is declared. Raises EvidenceError where the evidence does not fit.
        """
        return self


class Potential(LeafEvidence):
    """Evidence in JAX on a whole sequence."""

    @abc.abstractmethod
    def log_potential(
        self, tokens: Int[Array, " T"], x: Prompt, length: Int[Array, ""]
    ) -> Float[Array, ""]:
        """log φ(y, x) in [-inf, +inf); tokens from `length` on are padding."""


class PrefixEvidence(LeafEvidence):
    """Evidence in JAX that is a sum of increments, one per token, EOS included."""

    @abc.abstractmethod
    def init(self, x: Prompt) -> PyTree:
        """State before the first new token."""

    @abc.abstractmethod
    def step(self, state: PyTree, token: Int[Array, ""]) -> tuple[PyTree, Float[Array, ""]]:
        """State after a token and the increment of the log-potential that it brings."""

    def increments(self, state: PyTree, vocab_size: int) -> Float[Array, " V"]:
        """The increment that each token would bring: what a locally optimal proposal asks for."""
        tokens = jnp.arange(vocab_size, dtype=jnp.int32)
        return jax.vmap(lambda token: self.step(state, token)[1])(tokens)

    def cut(self, state: PyTree) -> Float[Array, ""]:
        """A last increment, for a sequence that the horizon cuts before it ends by EOS."""
        return jnp.zeros(())


@dataclasses.dataclass(frozen=True)
class Rows:
    """What Python evidence sees of R sequences: text, token ids (EOS included), data columns."""

    prompts: list[Any]
    completions: list[str]
    completion_ids: list[list[int]]
    columns: Mapping[str, list[Any]]


class HostEvidence(LeafEvidence):
    """Evidence in Python on text, called once for many rows, outside jit."""

    @abc.abstractmethod
    def evaluate(self, rows: Rows) -> Float[np.ndarray, " R"]:
        """log φ of every row; raises EvidenceError naming the function and the offending row."""
