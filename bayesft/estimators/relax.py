"""RELAX: score-function gradients with a trained control variate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from bayesft.base import Claim, Key, PyTree, StatefulEstimator
from bayesft.estimators.relaxation import Relaxation, relaxation_of

type Trained = tuple[PyTree, optax.OptState]
"""The surrogate's parameters, and what its optimiser knows."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Relaxed:
    """A choice with the noise of z, from which it follows, and of z̃, another z given the choice.

    Zeros throughout stand for a choice that was not made, in the other branch of a cond.
    """

    relaxation: Relaxation
    hard: Array
    noise: Array
    noise_given: Array
    made: Float[Array, "*runs"]

    def z(self) -> Array:
        return self.relaxation.logits + self.noise

    def z_given(self) -> Array:
        return self.relaxation.given(self.hard, self.noise_given)


@dataclasses.dataclass(frozen=True, eq=False)
class Relax(StatefulEstimator):
    """∇ E[c(y)] = E[(c(y) − s_φ(z̃))·∇ log p(y) + ∇s_φ(z) − ∇s_φ(z̃)], unbiased for every φ.

    After each step φ follows ∇_φ |ĝ|², ĝ the choice's gradient estimate in its logits, whose mean
    φ does not move: that is the gradient of its variance.
    """

    surrogate_fn: Callable[[PyTree, Array], Float[Array, ""]]
    params: PyTree
    optimizer: optax.GradientTransformation
    on_policy = True  # s at z and z̃ has mean 0 only beside log p at the same parameters

    @property
    def claim(self) -> Claim:
        return Claim("unbiased")

    def surrogate_at(self, params: PyTree, relaxation: Relaxation, z: Array) -> Float[Array, ""]:
        """s_φ(z) of one choice."""
        return self.surrogate_fn(params, z)

    def init(self) -> Trained:
        params = jax.tree.map(jnp.asarray, self.params)
        return params, self.optimizer.init(params)

    def describe(self, name: str, distribution: Any, value: PyTree, key: Key) -> Relaxed:
        relaxation = relaxation_of(name, distribution, "relax")
        first, second = jax.random.split(key)
        hard = relaxation.encode(value)
        # z given y, as y came from somewhere else: its noise is that of a z that y follows from.
        z = relaxation.given(hard, relaxation.noise(first))
        noise = jax.lax.stop_gradient(z - relaxation.logits)
        return Relaxed(relaxation, hard, noise, relaxation.noise(second), jnp.ones(()))

    def baseline(
        self, state: Trained, credited: Float[Array, "K *shape"], described: Relaxed
    ) -> PyTree:
        def one(relaxed: Relaxed) -> PyTree:
            at = lambda z: self.surrogate_at(state[0], relaxed.relaxation, z)
            value, slope_given = jax.value_and_grad(at)(relaxed.z_given())
            return value, jax.grad(at)(relaxed.z()), slope_given

        value, slope, slope_given = _over_runs(one, described)
        extra = (1,) * (credited.ndim - value.ndim)
        baseline = jnp.broadcast_to(value.reshape(*value.shape, *extra), credited.shape)
        return {"baseline": baseline, "slope": slope, "slope_given": slope_given}

    def surrogate(self, credited: Array, log_prob: Array, stored: PyTree) -> Float[Array, ""]:
        return super().surrogate(credited, log_prob, stored["baseline"])

    def control(self, described: Relaxed, stored: PyTree) -> Float[Array, ""]:
        z, given = described.z(), described.z_given()
        path = stored["slope"] * (z - jax.lax.stop_gradient(z))
        path -= stored["slope_given"] * (given - jax.lax.stop_gradient(given))
        return jnp.sum(path)

    def update(
        self, state: Trained, credited: Float[Array, "... K *shape"], described: Relaxed
    ) -> Trained:
        def squared_gradient(params: PyTree) -> Float[Array, ""]:
            def one(relaxed: Relaxed, credited: Array) -> Float[Array, ""]:
                gradient = self._gradient(params, relaxed, credited)
                return relaxed.made * jnp.sum(gradient**2)

            return jnp.mean(_over_runs(one, described, credited))

        change, memory = self.optimizer.update(jax.grad(squared_gradient)(state[0]), state[1])
        return optax.apply_updates(state[0], change), memory

    def _gradient(self, params: PyTree, relaxed: Relaxed, credited: Array) -> Array:
        """ĝ of one choice in its logits."""
        advantage = credited - self.surrogate_at(params, relaxed.relaxation, relaxed.z_given())

        def estimate(logits: Array) -> Float[Array, ""]:
            relaxation = dataclasses.replace(relaxed.relaxation, logits=logits)
            moved = dataclasses.replace(relaxed, relaxation=relaxation)
            path = self.surrogate_at(params, relaxation, moved.z())
            path -= self.surrogate_at(params, relaxation, moved.z_given())
            return jnp.sum(advantage * relaxation.log_prob(relaxed.hard)) + path

        return jax.grad(estimate)(relaxed.relaxation.logits)


def relax(
    surrogate: Callable[[PyTree, Array], Float[Array, ""]],
    params: PyTree,
    optimizer: optax.GradientTransformation | None = None,
) -> Relax:
    """Subtract what `surrogate(params, z)` makes of the noise that the choice came from.

    For Bernoulli, whose z has the choice's shape, and Categorical, whose z has [V] more: y = 1[z >
    0] and y = argmax z. The surrogate is any function that is differentiable in z, a small network
    say, close to the cost where z is far from its boundaries. The cost itself may be a black box:
    one path, values as they are. `params` are trained by `optimizer` (by default
    `optax.adam(0.01)`) on the single-sample square of the gradient in the choice's logits, and
    carried by `bft.fit` and by `init` and `step` of an expectation.

    Raises EstimatorError for other distributions. (Grathwohl et al. 2018.)
    """
    return Relax(surrogate, params, optax.adam(0.01) if optimizer is None else optimizer)


def _over_runs(fn: Callable[..., PyTree], described: Relaxed, *others: Array) -> PyTree:
    """`fn` of every choice that was made: over lanes, and over the plates and scans around it."""
    for _ in range(described.made.ndim):
        fn = jax.vmap(fn)
    return fn(described, *others)
