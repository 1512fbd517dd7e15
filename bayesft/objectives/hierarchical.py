"""Objectives of guides with auxiliary choices, whose density is only estimated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from bayesft.errors import GuideError
from bayesft.objectives.iwae import iwae
from bayesft.objectives.reverse_kl import reverse_kl
from bayesft.objectives.weights import Density, require_samples


@runtime_checkable
class Hierarchical(Protocol):
    """A guide with auxiliary choices, such as `bft.distributions.hierarchical_guide`."""

    def marginal(self, num_samples: int, /) -> Callable[[Any], Any]: ...


def _marginal(guide: Any, num_samples: int) -> Callable[[Any], Any]:
    if not isinstance(guide, Hierarchical):
        raise GuideError(
            f"{type(guide).__name__} has no auxiliary choices to integrate out.",
            cause="a guide with a density of its own.",
            remedy="use reverse_kl or iwae, or bft.distributions.hierarchical_guide.",
        )
    return guide.marginal(num_samples)


def hierarchical(guide: Any, target: Density, x: Any) -> Float[Array, ""]:
    """HVI: E[log q(y, u | x) − log r(u | y, x) − log p̃(y | x)], which is `iwhvi(1)`.

    (Ranganath, Tran and Blei 2016.)
    """
    return iwhvi(1)(guide, target, x)


@dataclasses.dataclass(frozen=True)
class IWHVI:
    """Reverse KL of a marginal with K auxiliary samples."""

    num_auxiliary: int

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        return reverse_kl(_marginal(guide, self.num_auxiliary), target, x)


def iwhvi(num_auxiliary: int) -> IWHVI:
    """E[log (1/K) Σ_k q(y, u_k | x)/r(u_k | y, x) − log p̃(y | x)] in nats, u_1 drawn with y.

    Between reverse KL of q(y | x), which it comes down to as K grows, and HVI. Any estimator of one
    path, and `enumerate` for K = 1. Raises ObjectiveError for K < 1, GuideError for a guide without
    auxiliaries, and like `reverse_kl`. (Sobolev and Vetrov 2019.)
    """
    reason = "the density averages over no auxiliary."
    return IWHVI(require_samples("iwhvi", num_auxiliary, 1, reason))


@dataclasses.dataclass(frozen=True)
class DIWHVI:
    """IWAE of a marginal: K auxiliary samples for each of M draws."""

    num_auxiliary: int
    num_samples: int

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        return iwae(self.num_samples)(_marginal(guide, self.num_auxiliary), target, x)


def diwhvi(num_auxiliary: int, num_samples: int) -> DIWHVI:
    """E[−log (1/M) Σ_m p̃(y_m | x)/q̂(y_m | x)] ≥ −log Z in nats, each q̂ as in `iwhvi(K)`.

    Any estimator of one path. Raises like `iwhvi` and `iwae`. (Sobolev and Vetrov 2019.)
    """
    reason = "the bound averages over no draw."
    return DIWHVI(
        iwhvi(num_auxiliary).num_auxiliary, require_samples("diwhvi", num_samples, 1, reason)
    )
