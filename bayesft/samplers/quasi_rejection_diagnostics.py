"""How far the law of quasi-rejection is from its target, from importance weights alone."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import ArrayLike, Float

from bayesft.errors import SamplerError
from bayesft.samplers.validation import require_level


@dataclasses.dataclass(frozen=True)
class QuasiRejectionDiagnostics:
    """Estimates as functions of β, [*batch, B] each; see `quasi_rejection_diagnostics`."""

    log_betas: Float[np.ndarray, " B"]
    acceptance: Float[np.ndarray, "*batch B"]
    acceptance_error: Float[np.ndarray, "*batch B"]
    tvd: Float[np.ndarray, "*batch B"]
    """TVD(p*, p_β)."""
    tvd_error: Float[np.ndarray, "*batch B"]
    tvd_bound: Float[np.ndarray, "*batch B"]
    """1 − Z_β/Z, which TVD(p*, p_β) does not exceed."""
    tvd_bound_error: Float[np.ndarray, "*batch B"]
    kl: Float[np.ndarray, "*batch B"]
    """KL(p* ‖ p_β) in nats."""
    kl_error: Float[np.ndarray, "*batch B"]
    tvd_limit: Float[np.ndarray, "*batch B"] | None
    """Upper limit at the level asked for; None without `log_bound`."""
    kl_limit: Float[np.ndarray, "*batch B"] | None


def quasi_rejection_diagnostics(
    log_ratios: Float[ArrayLike, "*batch n"],
    log_betas: Float[ArrayLike, " B"] | float,
    *,
    log_probs: Float[ArrayLike, "*batch n"] | None = None,
    log_bound: float | None = None,
    level: float = 0.95,
) -> QuasiRejectionDiagnostics:
    """Acceptance rate, TVD and KL of p_β ∝ min(γ, β·q) against p* = γ/Z, for every β.

    `log_ratios` are log w = log γ − log q of n ≥ 2 independent samples of q, in nats: those of
    `importance` are its `log_weights`. With s = min(1, w/β), Ê the mean over samples, Ẑ = Ê[w]:

        acceptance  Ê[s]                        unbiased
        tvd         ½ Ê|w/Ẑ − s/Ê[s]|           consistent, biased at order 1/n, as a rule low
        tvd_bound   Ê[(w − β)⁺]/Ẑ               consistent, biased low at order 1/n
        kl          log(β·Ê[s]/Ẑ) + Ê[w·(log w − log β)⁺]/Ẑ     as tvd

    TVD ≤ 1 − Z_β/Z, of which `tvd_bound` is the plug-in: p_β ≥ min(γ, βq)/Z everywhere. All four
    fall as β grows. Each has the standard error of its linearisation, which is 0 where no sample
    exceeds β: that says nothing of what was not drawn.

    These know what the samples show. Mass of p* where q has none or next to none appears in no
    ratio, so that a TVD of 0 may be estimated where it is 1. Only `log_bound`, an upper bound of
    log w that holds everywhere, turns them into upper limits that hold with probability `level` for
    each β and n, separately (`tvd_limit`, `kl_limit`): by empirical Bernstein bounds (Maurer and
    Pontil 2009, theorem 4) on TVD ≤ E[(w − β)⁺]/Z and KL ≤ E[w·(log w − log β)⁺]/Z, or by TVD ≤
    1 − β/bound and KL ≤ log bound − log β where those are smaller. A β that was chosen on the same
    samples has no such limit.

    With `log_probs`, the ratios are those of every outcome of q, listed with its log-probability:
    all values are then exact, errors 0, and the limits the values.

    Raises SamplerError for ratios that are NaN or +inf, all -inf or above `log_bound`, for a β that
    is not positive and finite, and for probabilities that do not sum to 1.

    Eikema, Kruszewski, Dance, Elsahar and Dymetman 2022, "An approximate sampler for energy-based
    models with divergence diagnostics", TMLR.
    """
    ratios, probs = require_ratios(log_ratios, log_probs)
    betas = np.atleast_1d(require_log_beta(log_betas))
    require_level(level)
    if log_bound is not None and not ratios.max() <= log_bound + 1e-6 * max(1.0, abs(log_bound)):
        raise SamplerError(
            f"A log-ratio of {ratios.max():.6g} nats exceeds log_bound={log_bound}.",
            cause="a bound of log φ where the proposal is not the prior, or one that is too small.",
            remedy="give a bound that log π0 + log φ − log q never exceeds, or none.",
        )
    columns = [estimates(ratios, float(beta), probs) for beta in betas]
    values = {name: np.stack([c[name] for c in columns], -1) for name in columns[0]}
    tvd_limit = kl_limit = None
    if probs is not None:
        tvd_limit, kl_limit = values["tvd"], values["kl"]
    elif log_bound is not None:
        each = [_limits(ratios, float(beta), log_bound, 1 - level) for beta in betas]
        tvd_limit, kl_limit = (np.stack(column, -1) for column in zip(*each, strict=True))
    return QuasiRejectionDiagnostics(
        log_betas=betas, tvd_limit=tvd_limit, kl_limit=kl_limit, **values
    )


def choose_log_beta(
    log_ratios: Float[ArrayLike, "*batch n"],
    tvd: float,
    *,
    log_probs: Float[ArrayLike, "*batch n"] | None = None,
) -> Float[np.ndarray, "*batch"]:
    """log of the smallest β whose estimated TVD(p*, p_β) is at most `tvd`.

    The arguments are those of `quasi_rejection_diagnostics`, and so is what the estimate can not
    see. The acceptance rate falls with β, so the smallest is the cheapest. Below the smallest
    positive ratio the law does not change with β any more: that ratio is the least returned.

    Raises SamplerError where `tvd` is not between 0 and 1, and as the diagnostics do.
    """
    ratios, probs = require_ratios(log_ratios, log_probs)
    if not 0 < tvd < 1:
        raise SamplerError(
            f"tvd={tvd} is no distance to aim at.",
            cause="a total variation distance is between 0 and 1, and 0 takes a known bound.",
            remedy="use a small positive tvd, or `rejection` where the evidence is bounded.",
        )
    low = np.where(np.isneginf(ratios), np.inf, ratios).min(-1)
    high = ratios.max(-1)

    def meets(log_beta: np.ndarray) -> np.ndarray:
        return estimates(ratios, log_beta[..., None], probs)["tvd"] <= tvd

    high = np.where(meets(low), low, high)
    for _ in range(60):
        middle = (low + high) / 2
        enough = meets(middle)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def estimates(
    ratios: Float[np.ndarray, "*batch n"],
    log_beta: float | Float[np.ndarray, "*batch 1"],
    probs: Float[np.ndarray, "*batch n"] | None = None,
) -> dict[str, Float[np.ndarray, "*batch"]]:
    """The estimates at one β, with their standard errors; ratios are not all -inf."""
    n = ratios.shape[-1]
    share = np.full(ratios.shape, 1 / n) if probs is None else probs

    def mean(values: np.ndarray) -> np.ndarray:
        return np.sum(share * values, axis=-1, keepdims=True)

    def error(influence: np.ndarray) -> np.ndarray:
        if probs is not None:
            return np.zeros(ratios.shape[:-1])
        return np.sqrt(np.sum(influence**2, -1) / (n * (n - 1)))

    peak = ratios.max(-1, keepdims=True)
    scaled = np.exp(ratios - peak)
    log_z = peak + np.log(mean(scaled))
    of_target = scaled / mean(scaled)  # dp*/dq
    accepted = np.exp(np.minimum(ratios - log_beta, 0.0))
    acceptance = mean(accepted)
    of_law = accepted / acceptance  # dp_β/dq
    above = of_target > of_law
    p, p_law = mean(above * of_target), mean(above * of_law)
    excess = -np.expm1(np.minimum(log_beta - ratios, 0.0))
    bound = mean(of_target * excess)
    # -inf, where the target is impossible, is not above β.
    log_excess = np.maximum(ratios - log_beta, 0.0)
    cross = mean(of_target * log_excess)
    kl = log_beta + np.log(acceptance) - log_z + cross
    # Where no sample exceeds β the law is that of the samples, and rounding is all that is left.
    seen = (log_excess > 0).any(-1)
    return {
        "acceptance": acceptance[..., 0],
        "acceptance_error": error(accepted - acceptance),
        "tvd": seen * np.maximum(p - p_law, 0.0)[..., 0],
        "tvd_error": seen * error(of_target * (above - p) - of_law * (above - p_law)),
        "tvd_bound": bound[..., 0],
        "tvd_bound_error": error(of_target * (excess - bound)),
        "kl": seen * np.maximum(kl, 0.0)[..., 0],
        "kl_error": seen * error(of_law - of_target + of_target * (log_excess - cross)),
    }


def _limits(
    ratios: Float[np.ndarray, "*batch n"], log_beta: float, log_bound: float, error: float
) -> tuple[np.ndarray, np.ndarray]:
    """Upper limits of TVD and KL at an error rate each, given w ≤ bound; in units of β."""
    gap = max(log_bound - log_beta, 0.0)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        relative = ratios - log_beta
        kept = np.exp(np.minimum(relative, 0.0))
        over = np.expm1(np.clip(relative, 0.0, gap))
        log_excess = np.clip(relative, 0.0, gap)
        kept_low = np.maximum(kept.mean(-1) - _bernstein(kept, 1.0, error / 2), 0.0)
        over_high = over.mean(-1) + _bernstein(over, np.expm1(gap), error / 2)
        cross = (1 + over) * log_excess
        cross_high = cross.mean(-1) + _bernstein(cross, np.exp(gap) * gap, error / 2)
        tvd = np.where(over_high > 0, over_high / (over_high + kept_low), 0.0)
        kl = np.where(cross_high > 0, cross_high / kept_low, 0.0)
    # fmin: where the numbers are too large, the limits that need no samples remain.
    return np.fmin(tvd, -np.expm1(-gap)), np.fmin(kl, gap)


def _bernstein(values: Float[np.ndarray, "*batch n"], width: float, error: float) -> np.ndarray:
    """How far the mean of values in [0, width] may be from its expectation, to one side."""
    n, log_odds = values.shape[-1], np.log(2 / error)
    return np.sqrt(2 * values.var(-1, ddof=1) * log_odds / n) + 7 * width * log_odds / (3 * (n - 1))


def require_log_beta(log_beta: Float[ArrayLike, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """log β in float64; raises SamplerError where one is not finite."""
    values = np.asarray(log_beta, np.float64)
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)].ravel()[0]
        raise SamplerError(
            f"log_beta is {bad}: β has to be positive and finite.",
            cause="the logarithm of zero or of a negative number.",
            remedy="give log β in nats: a larger β is slower and closer to p*.",
        )
    return values


def require_ratios(
    log_ratios: ArrayLike, log_probs: ArrayLike | None
) -> tuple[Float[np.ndarray, "*batch n"], Float[np.ndarray, "*batch n"] | None]:
    """Ratios that define a target, and the probabilities of q that belong to them."""
    ratios = np.asarray(log_ratios, np.float64)
    if ratios.ndim == 0 or ratios.shape[-1] < 2:
        raise SamplerError(
            f"Log-ratios of shape {ratios.shape} say nothing about a distribution.",
            cause="a single number, or a single sample.",
            remedy="give log γ − log q of at least two samples of the proposal.",
        )
    if np.isnan(ratios).any() or (ratios == np.inf).any():
        raise SamplerError(
            "A log-ratio is NaN or +inf.",
            cause="a proposal scored at density 0 on what it drew, or evidence that is NaN.",
            remedy="take the log_weights of `importance` with the same proposal.",
        )
    if (dead := np.argwhere(np.isneginf(ratios).all(-1))).size:
        raise SamplerError(
            f"Every ratio is 0{f' in row {dead[0].tolist()}' if ratios.ndim > 1 else ''}: the "
            "samples have not met the target.",
            cause="a constraint that none of them fulfils.",
            remedy="draw more, or propose from a guide that knows the constraint.",
        )
    if log_probs is None:
        return ratios, None
    probs = np.broadcast_to(np.exp(np.asarray(log_probs, np.float64)), ratios.shape)
    if not (np.abs(probs.sum(-1) - 1) <= 1e-4).all():
        raise SamplerError(
            f"The probabilities of the proposal sum to {probs.sum(-1).ravel()[0]:.6g}, not to 1.",
            cause="outcomes that are missing, or log_probs that are weights.",
            remedy="list every outcome of q, or leave log_probs out for samples of q.",
        )
    return ratios, probs
