"""Moment constraints as evidence: what features should be on average."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bayesft.base import Evidence, Sum, Term
from bayesft.draws import Draws
from bayesft.errors import EvidenceError, WeightWarning
from bayesft.evidence import calling, dual
from bayesft.evidence.features import feature_values
from bayesft.evidence.reward import reward
from bayesft.target import Target

MIN_ESS = 30
_EDGE = 1e-6
"""Below, a moment is known to no better than about a fifth of its feature's standard deviation."""
COLLINEAR = 1e-9
"""Smallest eigenvalue of a correlation matrix that float32 features can show."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Moments(Evidence):
    """log φ(y, x) = Σ_i λ_i f_i(y, x): a sum of features scaled by their coefficients."""

    coefficients: Float[Array, " F"]
    """λ in nats per unit of the feature."""
    coefficient_errors: Float[Array, " F"]
    """Standard errors of λ, from the spread of the draws that it was found from."""
    attained: Float[Array, " F"]
    """Moments of p_λ by the draws."""
    standard_errors: Float[Array, " F"]
    """Standard errors of `attained`, for this λ: how far the moments of p_λ may be off."""
    ess: Float[Array, " P"]
    """Effective number of the draws under p_λ."""
    features: tuple[Evidence, ...]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(default="moments", metadata={"static": True})

    hard = False

    @property
    def terms(self) -> tuple[Term, ...]:
        scaled = (self.coefficients[i] * f for i, f in enumerate(self.features))
        return tuple(term for each in scaled for term in each.terms)

    @property
    def bounds(self) -> tuple[float, float]:
        return Sum(self.terms).bounds

    def __str__(self) -> str:
        return "; ".join(
            f"E[{name}] = {m:.4g} ± {e:.2g} at λ = {c:+.4g} ± {s:.2g}"
            for name, m, e, c, s in zip(
                self.names,
                np.asarray(self.attained).tolist(),
                np.asarray(self.standard_errors).tolist(),
                np.asarray(self.coefficients).tolist(),
                np.asarray(self.coefficient_errors).tolist(),
                strict=True,
            )
        )


def moments(
    features: Mapping[Callable[..., Any] | Evidence, float],
    draws: Draws,
    target: Target | None = None,
) -> Moments:
    """Evidence under which features have given means: of all distributions with these moments, the
    posterior is the one closest to the target of the draws (in KL(p ‖ target)).

        log φ(y, x) = Σ_i λ_i f_i(y, x),    λ: mean_p E_{p_λ(y | x_p)}[f_i] = value_i

    A feature is a function in Python that is called as a reward is, or any evidence, whose
    log-potential is the feature: `reward(fn, 1.0, bounds=(0, 1))` for a function with known bounds
    (bounds of λ·f follow), `potential(fn)` in JAX, which SMC sees on the device. `draws` are
    weighted draws of the target without this evidence. `target` is that target; features in JAX,
    and functions that see columns of the prompts, need it. The coefficients are shared by all
    prompts, and the moments are averages over prompts, each of weight 1.

    λ minimises the convex dual mean_p log Σ_n w̄_pn exp(λ·f_pn) − λ·value by Newton's method with
    line search, in float64. `standard_errors` follow by the delta method for self-normalised
    importance sampling, `coefficient_errors` from these and the derivative of the moments. Both
    take draws as independent, so they are too small after SMC has resampled, and are 0 for
    enumerated draws (`Enumeration.draws`). Another λ, being a leaf, retraces nothing.

    Raises EvidenceError for draws that follow another law, draws that all have weight 0, features
    that are not finite or collinear, and values that no λ attains, saying which are the nearest;
    warns (WeightWarning) where fewer than 30 effective draws are left under p_λ.

    Distributional control: Khalifa, Elsahar and Dymetman 2021, https://arxiv.org/abs/2012.11635.
    """
    _check_arguments(features, draws)
    leaves = tuple(f if isinstance(f, Evidence) else reward(f, beta=1.0) for f in features)
    names = tuple(" + ".join(term.evidence.name for term in f.terms) for f in leaves)
    values = np.asarray(list(features.values()), np.float64)
    log_weights = np.asarray(draws.log_weights, np.float64)
    possible = np.isfinite(log_weights)
    if (dead := np.flatnonzero(~possible.any(1))).size:
        raise EvidenceError(
            f"All draws of prompt {dead[0]} have weight 0, so no moments can be found.",
            cause="evidence of -inf on every draw (see draws.status).",
            remedy="draw more, propose from a guide, or soften the constraint.",
        )
    table = np.stack([feature_values(f, draws, target, possible) for f in leaves], axis=-1)
    _check_finite(table, possible, names)
    # Draws of weight 0 count with any value; theirs may not be a number.
    table = np.where(possible[..., None], table, 0.0)
    log_weights = np.where(possible, log_weights, -np.inf)
    _check_ranges(table, possible, values, names)
    scale = _scales(log_weights, table, names)
    found = dual.solve(log_weights, table / scale, values / scale)
    # Where a combination of features has no variance left, the moments lie at the edge of what is
    # attainable, and the coefficients grew without bound on the way there.
    if not found.converged or np.linalg.eigvalsh(found.covariance).min() < _EDGE:
        _refuse_unattained(log_weights, table / scale, values / scale, scale, names)
    ess = 1 / np.square(found.weights).sum(1)
    exact = draws.claim.kind == "exact"
    if not exact and ess.min() < MIN_ESS:
        warnings.warn(
            f"Only {ess.min():.1f} effective draws are left for prompt {int(ess.argmin())} under "
            "the moments' evidence, so its coefficients and their errors are rough. Likely cause: "
            "values far from those of the target. What to do: draw more, or propose from a guide.",
            WeightWarning,
            stacklevel=2,
        )
    spread = dual.moment_covariance(found.weights, table / scale) * (not exact)
    inverse = np.linalg.inv(found.covariance)
    return Moments(
        coefficients=jnp.asarray(found.coefficients / scale, jnp.float32),
        coefficient_errors=_errors(inverse @ spread @ inverse, 1 / scale),
        attained=jnp.asarray(found.moments * scale, jnp.float32),
        standard_errors=_errors(spread, scale),
        ess=jnp.asarray(ess, jnp.float32),
        features=leaves,
        names=names,
    )


def _errors(
    covariance: Float[np.ndarray, "F F"], unit: Float[np.ndarray, " F"]
) -> Float[Array, " F"]:
    return jnp.asarray(np.sqrt(np.diag(covariance)) * unit, jnp.float32)


def _check_arguments(features: Any, draws: Any) -> None:
    if not isinstance(features, Mapping) or not features or not isinstance(draws, Draws):
        raise EvidenceError(
            f"moments got {type(features).__name__} and {type(draws).__name__}.",
            cause="no feature, a list of features without values, or a target instead of draws.",
            remedy="write moments({feature: value}, draws), draws from bft.sample(target, …).",
        )
    if draws.claim.kind == "another law":
        raise EvidenceError(
            f"These draws follow another law than the target's: {draws.claim.detail}.",
            cause="draws that are resampled, the best of n, or a chain's; moments under them are "
            "not those of the target, or their errors are unknown.",
            remedy="use draws of bft.samplers.importance, smc or rejection.",
        )
    for feature, value in features.items():
        if not isinstance(feature, Evidence):
            calling.check_signature(feature, calling.name_of(feature, None))
        if np.ndim(value) or isinstance(value, str) or not np.isfinite(float(value)):
            raise EvidenceError(
                f"The value {value!r} is no moment.",
                cause="a moment is one finite number, the mean of its feature.",
                remedy="give one number per feature; several features for several moments.",
            )


def _check_finite(
    table: Float[np.ndarray, "P N F"], possible: Bool[np.ndarray, "P N"], names: tuple[str, ...]
) -> None:
    if (bad := np.argwhere(~np.isfinite(table) & possible[..., None])).size:
        prompt, draw, at = bad[0].tolist()
        raise EvidenceError(
            f"The feature {names[at]} is {table[prompt, draw, at]} for draw {draw} of prompt "
            f"{prompt}.",
            cause="a division by zero, or a constraint used as a feature.",
            remedy="return finite numbers; declare what is impossible as bft.evidence.constraint.",
        )


def _check_ranges(
    table: Float[np.ndarray, "P N F"],
    possible: Bool[np.ndarray, "P N"],
    values: Float[np.ndarray, " F"],
    names: tuple[str, ...],
) -> None:
    """Each value lies strictly between the means over prompts of the extremes seen."""
    where = possible[..., None]
    low = table.min(1, initial=np.inf, where=where).mean(0)
    high = table.max(1, initial=-np.inf, where=where).mean(0)
    for name, value, least, most in zip(names, values, low, high, strict=True):
        if least < value < most:
            continue
        if least == most:
            happened = f"The feature {name} is {least:.6g} in every draw, so no λ moves its mean."
        else:
            happened = (
                f"No λ gives {name} the mean {value:.6g}: its draws lie in [{least:.6g}, "
                f"{most:.6g}], nearest is {np.clip(value, least, most):.6g}, and the ends are "
                "reached in the limit only."
            )
        raise EvidenceError(
            happened,
            cause="a value in other units, a value that only a constraint has (all or none), or "
            "too few draws to see rare values of the feature.",
            remedy="ask for a value inside, use bft.evidence.constraint for all or none, or draw "
            "more (from a guide, where the feature is rare).",
        )


def _scales(
    log_weights: Float[np.ndarray, "P N"],
    table: Float[np.ndarray, "P N F"],
    names: tuple[str, ...],
) -> Float[np.ndarray, " F"]:
    """Standard deviations of the features under the draws; refuses collinear features."""
    spread = table.std((0, 1))
    state = dual.at_zero(log_weights, table / spread)
    deviation = np.sqrt(np.diag(state.covariance))
    if (deviation > 0).all():
        correlation = state.covariance / np.outer(deviation, deviation)
        sizes, directions = np.linalg.eigh(correlation)
        if sizes[0] > COLLINEAR:
            return deviation * spread
        share = np.abs(directions[:, 0])
        involved = [name for name, s in zip(names, share, strict=True) if s > 1e-3]
    else:
        involved = [name for name, d in zip(names, deviation, strict=True) if not d > 0]
    raise EvidenceError(
        f"The features {', '.join(involved)} are collinear over the draws.",
        cause="one is a linear function of the others, such as two that always sum to 1, or they "
        "differ in draws of negligible weight only.",
        remedy="leave one of them out: the moments of the others fix its own.",
    )


def _refuse_unattained(
    log_weights: Float[np.ndarray, "P N"],
    features: Float[np.ndarray, "P N F"],
    values: Float[np.ndarray, " F"],
    scale: Float[np.ndarray, " F"],
    names: tuple[str, ...],
) -> None:
    nearest = dual.solve(log_weights, features, values, ridge=dual.RIDGE)
    moments = nearest.moments * scale
    pairs = zip(names, moments, values * scale, strict=True)
    shown = ", ".join(f"{name}: {m:.4g} for {v:.4g}" for name, m, v in pairs)
    raise EvidenceError(
        f"No λ was found that gives all features their values; nearest are {shown}.",
        cause="values that are possible one by one but not together, or at the edge of what the "
        "draws show.",
        remedy="ask for values that some mixture of the draws has, or draw more.",
    )
