"""Estimators and samplers, and the claims that they state."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base.distributions import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Claim:
    """A stated guarantee; tests hold every member of a room to it.

    `kind` is one of `exact`, `unbiased`, `biased` (estimators and objectives), or `proper weights`,
    `exact draws`, `another law` (samplers); `detail` says the law, or what biases. Draws that list
    every outcome with its weight are `exact`.
    """

    kind: Literal["exact", "unbiased", "biased", "proper weights", "exact draws", "another law"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


class Estimator(abc.ABC):
    """How a random choice is differentiated; concrete estimators derive from one of the three kinds
    below. `num_samples` = K replicates the whole program into K lanes, the outermost axis."""

    claim: Claim
    num_samples: int = 1

    def log_prob(self, distribution: Any, value: PyTree) -> Array:
        """Log-prob in nats of a value as this estimator draws it (a relaxed one, for instance)."""
        return distribution.log_prob(value)


class PathwiseEstimator(Estimator):
    """Differentiates through the value itself."""

    @abc.abstractmethod
    def sample(self, name: str, distribution: Any, key: Key) -> PyTree:
        """A value through which gradients flow to the distribution's parameters."""


class ScoreEstimator(Estimator):
    """Differentiates the choice's log-probability, weighted by the cost credited to it."""

    @abc.abstractmethod
    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        """What to store with a recording, elementwise on credited cost: the baseline of each lane,
        which must not depend on that lane's own choice."""

    def surrogate(
        self,
        credited: Float[Array, "*shape"],
        log_prob: Float[Array, "*shape"],
        stored: Float[Array, "*shape"],
    ) -> Float[Array, ""]:
        """A scalar of value 0 whose gradient is the choice's part of the gradient estimate."""
        advantage = jax.lax.stop_gradient(credited - stored)
        return jnp.sum(advantage * (log_prob - jax.lax.stop_gradient(log_prob)))


class StatefulEstimator(ScoreEstimator):
    """A score estimator that learns its baselines from earlier steps.

    Each choice has a state of its own. It enters a step as it is before the step's draws, so what
    is made of it depends on no lane's choice.
    """

    on_policy: bool = False
    """Whether what is stored belongs to the parameters at which the recording was made."""

    @abc.abstractmethod
    def init(self) -> PyTree:
        """The state before the first step."""

    def describe(self, name: str, distribution: Any, value: PyTree, key: Key) -> PyTree:
        """Arrays of the choice, differentiable, that the methods below get for every lane."""
        return None

    @abc.abstractmethod
    def baseline(
        self, state: PyTree, credited: Float[Array, "K *shape"], described: PyTree
    ) -> PyTree:
        """What `prepare` returns to others, the baseline of each lane, or a tree that leads with K.

        Where it depends on the lane's own choice, `control` makes up for it.
        """

    @abc.abstractmethod
    def update(
        self, state: PyTree, credited: Float[Array, "... K *shape"], described: PyTree
    ) -> PyTree:
        """The state after a step, from the credited cost of all of its lanes."""

    def control(self, described: PyTree, stored: PyTree) -> Float[Array, ""]:
        """A scalar of value 0 whose gradient is added to that of the surrogate."""
        return jnp.zeros(())

    def prepare(self, credited: Float[Array, "K *shape"]) -> Float[Array, "K *shape"]:
        raise NotImplementedError("a baseline that is learned is made from a state")


class MultiSampleEstimator(Estimator):
    """Uses the other lanes' weights, and so applies inside `bft.log_mean_exp` only.

    Derive from it beside `ScoreEstimator`, for `credit`, or `PathwiseEstimator`, for `weigh`.
    """

    def credit(self, log_weights: Float[Array, " K"]) -> Float[Array, " K"]:
        """What each lane's choices are credited with on top: minus a baseline, of the others."""
        return jnp.zeros(log_weights.shape)

    def weigh(self, value: PyTree, weight: Float[Array, ""]) -> PyTree:
        """The value, with its gradient weighted by the lane's share w_k/Σ_j w_j of the weights."""
        return value


class MultiPathEstimator(Estimator):
    """Replays the rest of the program for several values of the choice."""

    lists_support: bool = False
    """Whether a weight of 0 means that a value cannot happen, so that its cost, which may then be
    infinite or NaN, counts for nothing."""

    @abc.abstractmethod
    def expand(self, name: str, distribution: Any, key: Key) -> tuple[PyTree, Float[Array, " B"]]:
        """B values, stacked on the leading axis, and their differentiable weights: the program's
        cost is Σ_b weight_b · cost_b."""


class Sampler(abc.ABC):
    """Turns a target into draws, under a stated claim."""

    claim: Claim

    @abc.abstractmethod
    def run(self, target: Any, key: Key) -> Any:
        """Draws of the target: `run(target, key) -> Draws`."""
