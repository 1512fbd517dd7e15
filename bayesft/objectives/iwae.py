"""The importance-weighted bound on log Z."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Float

from bayesft.objectives.weights import Density, draw_log_weight, require_density, require_samples
from bayesft.program import log_mean_exp


@dataclasses.dataclass(frozen=True)
class IWAE:
    """−log (1/K) Σ_k w_k with w_k = p̃(y_k | x) / q(y_k | x) and y_1, …, y_K ~ q."""

    num_samples: int

    def __call__(self, guide: Any, target: Density, x: Any) -> Float[Array, ""]:
        require_density(target, "iwae", finite=True)
        return -log_mean_exp(lambda _: draw_log_weight(guide, target, x), self.num_samples)


def iwae(num_samples: int) -> IWAE:
    """E_q[−log (1/K) Σ_k w_k] ≥ −log Z in nats; K = 1 is reverse KL, and more samples are tighter.

    Minimised by q = p*, where it is −log Z; less mode-seeking with K. Any estimator of one path
    (`enumerate` is refused), and `vimco` and `doubly_reparameterize`, which are made for it. Raises
    ObjectiveError for K < 1, HardConstraintError for hard constraints, TargetError for data.
    (Burda, Grosse and Salakhutdinov 2016, section 3.)
    """
    return IWAE(require_samples("iwae", num_samples, 1, "the bound averages over no weight."))
