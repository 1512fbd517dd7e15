"""What a twist is learned by: the contract of objectives."""

from __future__ import annotations

import abc
from typing import Any

from jaxtyping import Array, Float

from bayesft.target import Target
from bayesft.twists.rollouts import Paths, Positives


class TwistObjective(abc.ABC):
    """A loss whose minimum is the exact twist; frozen and hashable, for it is static under jit."""

    from_prior: bool = False
    """Whether sequences are drawn from the prior instead of the twisted proposal."""
    needs_positives: bool = True
    """Whether a step needs draws of positive posterior weight."""
    needs_z: bool = False
    """Whether it needs an estimate of Z from the rollouts, and so one of positive weight."""

    def bind(self, target: Target) -> Any:
        """The objective for a target; raises TargetError where it does not apply."""
        return self

    @abc.abstractmethod
    def __call__(self, paths: Paths, positives: Positives) -> Float[Array, ""]:
        """The loss of one prompt."""
