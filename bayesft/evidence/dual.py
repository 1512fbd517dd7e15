"""The convex dual of moment constraints, on weighted values: Newton's method with line search."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

MAX_STEPS = 100
TOLERANCE = 1e-10
"""Of a moment, in standard deviations of its feature."""
RIDGE = 1e-4


@dataclasses.dataclass(frozen=True)
class Solution:
    """λ [F] and what p_λ is on the values it was found from."""

    coefficients: Float[np.ndarray, " F"]
    moments: Float[np.ndarray, " F"]
    weights: Float[np.ndarray, "P N"]
    """Of p_λ, normalised per prompt."""
    covariance: Float[np.ndarray, "F F"]
    """Of the features under p_λ, averaged over prompts: the derivative of moments by λ."""
    converged: bool


def solve(
    log_weights: Float[np.ndarray, "P N"],
    features: Float[np.ndarray, "P N F"],
    values: Float[np.ndarray, " F"],
    ridge: float = 0.0,
) -> Solution:
    """The minimum of  mean_p log Σ_n w̄_pn exp(λ·f_pn) − λ·values + ridge/2·|λ|²  over λ.

    Its gradient is moments(λ) − values. Features are expected in units of their standard deviation.
    A ridge makes the minimum exist for any values; as it goes to 0, the moments there go to the
    attainable ones nearest to the values.
    """
    coefficients = np.zeros(len(values))
    best = _state(log_weights, features, values, ridge, coefficients)
    for _ in range(MAX_STEPS):
        loss, gradient, hessian, *_ = best
        if np.abs(gradient).max() < TOLERANCE:
            return _solution(coefficients, best, True)
        try:
            step = -np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break
        slope, size = float(gradient @ step), 1.0
        while size > 1e-12:
            found = _state(log_weights, features, values, ridge, coefficients + size * step)
            # Near the minimum, losses differ by rounding alone: then the gradient decides.
            if found[0] <= loss + 1e-4 * size * slope or (
                abs(found[0] - loss) < 1e-12 * (1 + abs(loss))
                and np.abs(found[1]).max() < np.abs(gradient).max()
            ):
                break
            size /= 2
        else:
            break
        coefficients, best = coefficients + size * step, found
    return _solution(coefficients, best, bool(np.abs(best[1]).max() < 1e3 * TOLERANCE))


def at_zero(
    log_weights: Float[np.ndarray, "P N"], features: Float[np.ndarray, "P N F"]
) -> Solution:
    """The draws as they are, λ = 0."""
    zero = np.zeros(features.shape[-1])
    return _solution(zero, _state(log_weights, features, zero, 0.0, zero), True)


def _state(log_weights, features, values, ridge, coefficients):
    """Loss, gradient, Hessian, moments, weights and covariance at λ."""
    tilted = log_weights + features @ coefficients
    peak = tilted.max(1, keepdims=True)
    mass = np.exp(tilted - peak)
    total = mass.sum(1, keepdims=True)
    weights = mass / total
    by_prompt = np.einsum("pn,pnf->pf", weights, features)
    centred = features - by_prompt[:, None]
    covariance = np.einsum("pn,pnf,png->fg", weights, centred, centred) / len(weights)
    moments = by_prompt.mean(0)
    loss = np.mean(peak + np.log(total)) - coefficients @ values
    loss += ridge / 2 * coefficients @ coefficients
    gradient = moments - values + ridge * coefficients
    hessian = covariance + ridge * np.eye(len(values))
    return float(loss), gradient, hessian, moments, weights, covariance


def _solution(coefficients, state, converged: bool) -> Solution:
    _, _, _, moments, weights, covariance = state
    return Solution(coefficients, moments, weights, covariance, converged)


def moment_covariance(
    weights: Float[np.ndarray, "P N"], features: Float[np.ndarray, "P N F"]
) -> Float[np.ndarray, "F F"]:
    """Covariance of self-normalised moments, averaged over prompts, by the delta method.

    Σ_p Σ_n w̄_pn² (f_pn − m_p)(f_pn − m_p)ᵀ / P², for independent draws.
    """
    by_prompt = np.einsum("pn,pnf->pf", weights, features)
    spread = weights[..., None] * (features - by_prompt[:, None])
    return np.einsum("pnf,png->fg", spread, spread) / len(weights) ** 2
