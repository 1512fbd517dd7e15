"""Wake-sleep: the model learns from the guide's draws, the guide from the model's dreams."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Key, PyTree
from bayesft.errors import TargetError
from bayesft.objectives.weights import draw_detached
from bayesft.program.logits import differentiable


@runtime_checkable
class JointModel(Protocol):
    """A normalised joint distribution p(y, x) that can dream: sample latents with observations."""

    def log_density(self, y: Any, x: Any, /) -> Float[Array, ""]: ...

    def sample(self, key: Key, /) -> tuple[PyTree, PyTree]:
        """A pair (y, x)."""
        ...


def wake_sleep(guide: Any, target: JointModel, x: Any) -> Float[Array, ""]:
    """P-wake E_q(y|x)[−log p(y, x)] plus Q-sleep E_p(y',x')[−log q(y' | x')], in nats.

    The first is minimised over the model's parameters, the second over the guide's, which makes
    q(· | x) = p(· | x), mass-covering, for every x that the model dreams of; neither differentiates
    its draws, so no estimator is asked for. For programs under `bft.expectation`, whose parameters
    are those of both. Raises TargetError for a target that cannot be sampled jointly with its
    prompts: `forward_kl` is Q-sleep for those. (Hinton, Dayan, Frey and Neal 1995.)
    """
    if not isinstance(target, JointModel):
        raise TargetError(
            f"wake_sleep dreams from its target, and a {type(target).__name__} cannot.",
            cause="a target whose posterior is unknown has no exact draws of (y, x).",
            remedy="use forward_kl(sampler) or reweighted_wake_sleep(num_samples), or give a model "
            "with log_density(y, x) and sample(key) -> (y, x).",
        )
    y, _ = draw_detached("y", guide(x))
    (dreamt, observed), _ = draw_detached("dream", _Dream(target))
    return -target.log_density(y, x) - jnp.sum(differentiable(guide(observed)).log_prob(dreamt))


@dataclasses.dataclass(frozen=True)
class _Dream:
    """The joint distribution over pairs (y, x)."""

    model: JointModel

    def sample(self, key: Key) -> tuple[PyTree, PyTree]:
        return self.model.sample(key)

    def log_prob(self, value: tuple[PyTree, PyTree]) -> Float[Array, ""]:
        return self.model.log_density(*value)
