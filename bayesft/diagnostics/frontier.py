"""The reward–KL frontier: the best evidence that a distance from the prior can buy, and who has
how much of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float

from bayesft.base import Key, Prior
from bayesft.diagnostics.curve import Frontier, FrontierPoint
from bayesft.diagnostics.evaluated import Evaluator
from bayesft.diagnostics.order_statistics import best_of as best_of_n
from bayesft.diagnostics.pareto import TRUSTED_K, pareto_k
from bayesft.diagnostics.tilting import Estimate, Tilted, tilt
from bayesft.diagnostics.validation import require_belonging
from bayesft.draws import Draws
from bayesft.errors import DiagnosticError
from bayesft.samplers.plain import MAX_ROWS, Samples, propose
from bayesft.samplers.validation import require_count
from bayesft.target import Target

TILTS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
MIN_ESS = 50.0
"""Effective draws below which a point of the curve is not to be trusted."""
MIN_SPREAD_ESS = 20.0
"""The same for its standard error."""


def frontier(
    target: Target,
    key: Key,
    *,
    guides: Mapping[str, Prior] | None = None,
    draws: Mapping[str, Draws] | None = None,
    best_of: Sequence[int] = (1, 4, 16),
    reference: Draws | None = None,
    tilts: Sequence[float] = TILTS,
    num_samples: int = 1024,
    level: float = 0.9,
) -> Frontier:
    """The optimal curve of reward against KL from the prior, with guides and samplers beside it.

    Among all distributions with KL(q ‖ π0) ≤ κ the largest E_q[log φ] is that of a tilted prior

        π_λ ∝ π0·φ^λ,   KL(π_λ ‖ π0) = λ·E_λ[log φ] − log Z_λ,   λ ≥ 0,

    the target at λ = 1. The curve is estimated from `num_samples` draws of the prior, or from the
    weighted draws `reference` of the target, which reach further at large λ. A λ is marked as not
    to be trusted where its ESS is below 50, its standard error rests on fewer than 20 effective
    draws, or its k̂ is above 0.7; a tail that no draw has reached leaves no such trace. Beside it
    lie

    - the `guides`: E_q[log φ] and KL(q ‖ π0) from `num_samples` draws of each;
    - best-of-n for each n of `best_of`, from the order statistics of the prior draws;
    - the `draws` of samplers: their weighted mean of log φ, and the KL where their claim says that
      they are of the target (then it is E[log φ] − log Z); None otherwise.

    Evidence that is -inf on what a guide, best-of-n or prior produces puts that point at -inf; the
    curve at λ = 0 is the prior given that φ > 0. Standard errors take draws to be independent,
    which resampled particles are not. (Gao, Schulman and Hilton 2023; Beirami et al. 2024.)

    Raises DiagnosticError for settings out of range and for draws of another target.
    """
    grid = _checked(best_of, tilts, level, num_samples)
    given = {} if reference is None else {"reference": reference}
    require_belonging(target, guides or {}, {**given, **(draws or {})})
    prior = _prior_evidence(target, jax.random.fold_in(key, 0), num_samples)
    weighted = (prior, prior) if reference is None else _weighted(reference)
    curve, at_target = tilt(*weighted, grid), tilt(*weighted, np.ones(1))
    points = [
        _guide_point(name, target, guide, jax.random.fold_in(key, 1 + i), num_samples)
        for i, (name, guide) in enumerate((guides or {}).items())
    ]
    points += _best_of_points(prior, tuple(best_of))
    points += [_draws_point(name, each, at_target) for name, each in (draws or {}).items()]
    trusted, no_k = _trusted(curve)
    return Frontier(
        tilts=grid,
        reward=curve.reward,
        kl=curve.kl,
        log_z=curve.log_z,
        ess=curve.ess,
        trusted=trusted,
        points=points,
        level=level,
        num_samples=num_samples,
        prompts=target.prompts.prompts,
        notes=_notes(reference, trusted, no_k, points),
    )


def _prior_evidence(target: Target, key: Key, num_samples: int) -> Float[np.ndarray, "P N"]:
    """log φ of draws of the prior, -inf where they are impossible under the target."""
    size = min(num_samples, max(1, MAX_ROWS // len(target.prompts)))
    batches = [propose(target, key, first, size) for first in range(0, num_samples, size)]
    return Samples.join(batches, num_samples).log_evidence.astype(np.float64)


def _weighted(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Log-weights of mean Z and log φ of draws of the target."""
    log_weights = np.asarray(draws.log_weights, np.float64)
    if draws.claim.kind == "exact draws" and draws.log_z is not None:
        filled = (log_weights > -np.inf).mean(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            log_weights = log_weights + np.asarray(draws.log_z)[:, None] - np.log(filled)
    elif draws.claim.kind != "proper weights":
        raise DiagnosticError(
            f"The curve cannot come from draws whose claim is {draws.claim}.",
            cause="draws of another law than the target, or resampled ones, which know no log Z.",
            remedy="give draws of importance, smc or rejection as the reference, or none.",
        )
    return log_weights, np.asarray(draws.log_evidence, np.float64)


def _guide_point(
    name: str, target: Target, guide: Prior, key: Key, num_samples: int
) -> FrontierPoint:
    found = Evaluator(target, guide, guide).sample(guide, key, num_samples)
    possible = found.log_density > -np.inf
    with np.errstate(invalid="ignore"):
        reward = np.where(possible, found.log_density - found.log_prior, -np.inf)
    return FrontierPoint(name, _mean(reward), _mean(found.log_guide - found.log_prior))


def _best_of_points(prior: Float[np.ndarray, "P N"], sizes: tuple[int, ...]) -> list[FrontierPoint]:
    reward, kl = best_of_n(prior, sizes)
    return [
        FrontierPoint(
            f"best of {n}",
            Estimate(reward.value[:, i], reward.error[:, i]),
            Estimate(kl.value[:, i], kl.error[:, i]),
            kl_bound=float(np.log(n) - (n - 1) / n),
        )
        for i, n in enumerate(sizes)
    ]


def _draws_point(name: str, draws: Draws, at_target: Tilted) -> FrontierPoint:
    """Draws that claim to be of the target have the KL of the target."""
    log_weights = np.asarray(draws.log_weights, np.float64)
    here = tilt(log_weights, np.asarray(draws.log_evidence, np.float64), np.ones(1))
    reward, kl = _squeezed(here.reward), None
    if draws.claim.kind == "proper weights":
        kl = _squeezed(here.kl)
    elif draws.claim.kind == "exact draws" and (at_target.ess >= MIN_ESS).all():
        log_z = _squeezed(at_target.log_z)
        kl = Estimate(reward.value - log_z.value, np.hypot(reward.error, log_z.error))
    return FrontierPoint(name, reward, kl)


def _squeezed(estimate: Estimate) -> Estimate:
    return Estimate(estimate.value[:, 0], estimate.error[:, 0])


def _mean(values: Float[np.ndarray, "P N"]) -> Estimate:
    """Means with standard errors; infinite where one value is."""
    finite = np.isfinite(values).all(-1)
    spread = np.where(np.isfinite(values), values, 0.0).std(-1, ddof=1)
    return Estimate(values.mean(-1), np.where(finite, spread / np.sqrt(values.shape[-1]), 0.0))


def _trusted(curve: Tilted) -> tuple[Bool[np.ndarray, "P L"], bool]:
    """Which points of the curve enough draws stand behind, and whether k̂ is not known."""
    k = pareto_k(curve.log_weights.reshape(-1, curve.log_weights.shape[-1]))
    enough = (curve.ess >= MIN_ESS) & (curve.spread_ess >= MIN_SPREAD_ESS)
    if k is None:
        return enough, True
    return enough & ~(k.reshape(enough.shape) > TRUSTED_K), False


def _notes(
    reference: Draws | None,
    trusted: Bool[np.ndarray, "P L"],
    no_k: bool,
    points: Sequence[FrontierPoint],
) -> list[str]:
    notes = []
    if not trusted.all():
        notes.append(
            f"not to be trusted: fewer than {MIN_ESS:.0f} effective draws, or "
            f"{MIN_SPREAD_ESS:.0f} for the error, or k̂ > {TRUSTED_K}; raise num_samples, or give "
            "weighted draws as the reference"
        )
    if reference is not None and "num_resamples" in reference.info:
        notes.append("the reference was resampled: its draws depend on one another, and ± is short")
    if any(point.kl is None for point in points):
        notes.append("not available: the claim of these draws does not say what their KL is")
    if no_k:
        notes.append("k̂ needs arviz: pip install 'bayesft[arviz]'")
    return notes


def _checked(
    best_of: Sequence[int], tilts: Sequence[float], level: float, num_samples: int
) -> Float[np.ndarray, " L"]:
    for n in (num_samples, *best_of):
        require_count("num_samples or an n of best_of", n)
    grid = np.asarray(tilts, np.float64)
    rising = grid.ndim == 1 and grid.size and np.isfinite(grid).all() and grid[0] >= 0
    if not rising or (np.diff(grid) <= 0).any() or not 0 < level < 1 or num_samples < 2:
        raise DiagnosticError(
            f"tilts={list(tilts)}, level={level} and num_samples={num_samples} are out of range.",
            cause="exponents that do not rise from 0 on, a level in percent, or a single sample.",
            remedy="use rising tilts ≥ 0, a level such as 0.9 and at least 2 samples.",
        )
    if max((*best_of, 1)) > num_samples:
        raise DiagnosticError(
            f"best of {max(best_of)} is asked for, from {num_samples} draws of the prior.",
            cause="fewer samples than the largest n.",
            remedy="raise num_samples to several times the largest n.",
        )
    return grid
