"""Guides with auxiliary choices: mixtures, and whatever else has no density of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bayesft.distributions.marginal import Marginal, marginal
from bayesft.program import ModelDistribution


@dataclasses.dataclass(frozen=True)
class HierarchicalGuide:
    """A guide q(y | x) = Σ_u q(y, u | x) and a reverse model r(u | y, x)."""

    model: Callable[[Any], ModelDistribution]
    keep: str | tuple[str, ...]
    reverse: Callable[[Any, Any], Any]

    def marginal(self, num_samples: int) -> Callable[[Any], Marginal]:
        """x ↦ q(· | x), its density estimated with K samples of the auxiliaries."""

        def at(x: Any) -> Marginal:
            proposal = lambda kept: self.reverse(kept, x)
            return marginal(self.model(x), self.keep, proposal, num_samples)

        return at

    def __call__(self, x: Any) -> Marginal:
        return self.marginal(1)(x)


def hierarchical_guide(
    model: Callable[[Any], ModelDistribution],
    keep: str | Sequence[str],
    reverse: Callable[[Any, Any], Any],
) -> HierarchicalGuide:
    """A guide for `bft.objectives.hierarchical`, `iwhvi` and `diwhvi`.

    `model(x)` is a `bft.model` at x, whose choices `keep` the target scores: the value of one
    choice, or a trace for a tuple of names. `reverse(kept, x)` is a model with the other choices.
    (Ranganath, Tran and Blei 2016.)
    """
    return HierarchicalGuide(model, keep if isinstance(keep, str) else tuple(keep), reverse)
