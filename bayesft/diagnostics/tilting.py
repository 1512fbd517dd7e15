"""Estimates under tilted priors π_λ ∝ π0·φ^λ from weighted draws, with their standard errors."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from scipy import special

from bayesft.diagnostics.interval import Interval


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Estimates with standard errors, in nats; limits are estimate ± z·error."""

    value: Float[np.ndarray, "*shape"]
    error: Float[np.ndarray, "*shape"]

    def interval(self, level: float) -> Interval:
        """Two-sided limits at a level, from the central limit theorem."""
        half = -special.ndtri((1 - level) / 2) * self.error
        with np.errstate(invalid="ignore"):
            return Interval(self.value - half, self.value + half)


@dataclasses.dataclass(frozen=True)
class Tilted:
    """Estimates for P prompts and L exponents λ, [P, L]."""

    reward: Estimate
    """E_λ[log φ]; NaN, like the KL, where every draw is impossible."""
    log_z: Estimate
    """log Z_λ = log E_π0[φ^λ]."""
    kl: Estimate
    """KL(π_λ ‖ π0)."""
    ess: Float[np.ndarray, "P L"]
    """(Σv)²/Σv², in draws."""
    spread_ess: Float[np.ndarray, "P L"]
    """(Σv²)²/Σv⁴: how many draws the standard errors rest on."""
    log_weights: Float[np.ndarray, "P L N"]


def tilt(
    log_weights: Float[np.ndarray, "P N"],
    log_evidence: Float[np.ndarray, "P N"],
    tilts: Float[np.ndarray, " L"],
) -> Tilted:
    """Self-normalised estimates at every exponent, from weighted draws of a target.

    Draws with mean weight Z, w = π0·φ/q, have v = w·φ^{λ−1} under the exponent λ, so

        Ẑ_λ = mean v,  R = Σ v·log φ / Σ v,  KL(π_λ ‖ π0) = λ·R − log Ẑ_λ,

    with errors by the delta method, for independent draws: in units of V = v/Ẑ_λ a draw adds
    V·(log φ − R)/N to R, (V − 1)/N to log Ẑ_λ and λ times the one less the other to the KL. λ = 0
    is the limit λ → 0: the prior given that φ > 0. From N draws of the prior no KL exceeds log N,
    so where the ESS is low it is underestimated, whatever the standard error says.
    """
    possible = (log_weights > -np.inf) & (log_evidence > -np.inf)
    reward = np.where(possible, log_evidence, 0.0)[:, None]
    base = np.where(possible, log_weights, -np.inf)[:, None]
    v = base + (tilts[:, None] - 1) * reward
    num_draws = v.shape[-1]
    log_z = np.logaddexp.reduce(v, axis=-1) - np.log(num_draws)
    alive = log_z > -np.inf
    share = np.exp(v - np.where(alive, log_z, 0.0)[..., None])  # V, of mean 1
    mean = np.where(alive, (share * reward).mean(-1), np.nan)
    from_reward = share * (reward - np.where(alive, mean, 0.0)[..., None])
    from_log_z = share - 1
    from_kl = tilts[:, None] * from_reward - from_log_z
    square = np.maximum((share**2).mean(-1), 1e-300)
    ess = np.where(alive, num_draws / square, 0.0)
    spread_ess = np.where(alive, num_draws * square**2 / np.maximum((share**4).mean(-1), 1e-300), 0)
    kl = np.where(alive, _kl(tilts, mean, np.where(alive, log_z, 0.0)), np.nan)
    return Tilted(
        reward=Estimate(mean, _error(from_reward)),
        log_z=Estimate(log_z, _error(from_log_z)),
        kl=Estimate(kl, _error(from_kl)),
        ess=ess,
        spread_ess=spread_ess,
        log_weights=v,
    )


def _kl(tilts: np.ndarray, reward: np.ndarray, log_z: np.ndarray) -> np.ndarray:
    return tilts * reward - log_z


def _error(parts: Float[np.ndarray, "P L N"]) -> Float[np.ndarray, "P L"]:
    return np.sqrt((parts**2).mean(-1) / parts.shape[-1])
