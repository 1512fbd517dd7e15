"""`bft.certify`: how far a guide is from its target, from both sides."""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from bayesft.base import Key, Prior, require_key
from bayesft.diagnostics.bootstrap import robust_mean_interval
from bayesft.diagnostics.bounds import log_z_lower, log_z_upper
from bayesft.diagnostics.certificate import Certificate
from bayesft.diagnostics.evaluated import Evaluated, Evaluator
from bayesft.diagnostics.interval import ROUNDING, Interval, proportion_interval
from bayesft.diagnostics.pareto import TRUSTED_K, pareto_k
from bayesft.diagnostics.posterior import draw_posterior, given_draws
from bayesft.draws import Draws, effective_sample_size
from bayesft.errors import GuideError, SamplerError
from bayesft.priors import scoring
from bayesft.priors.validation import require_stand_in
from bayesft.samplers.plain import sample_keys
from bayesft.samplers.validation import require_count, require_level
from bayesft.target import Target

SAME_SCORE = 1e-3
"""Nats by which two scores of a draw may differ: decoding and teacher forcing round apart."""
UNDECLARED = (
    "KL(q‖p*) supposes that evidence is nowhere -inf: none was seen, and no bounds are declared"
)
WIDE = 1.0
"""Nats between the limits on log Z from which a certificate says that they are far apart."""
HEAVY = (
    "heavy tails: the weights behind the bounds have k̂ > 0.7, so limits are the wider of Student's "
    "and a bootstrap's, neither of which can see a tail that no draw has reached"
)


def certify(
    target: Target,
    guide: Prior,
    key: Key,
    level: float = 0.9,
    num_particles: int = 64,
    num_repeats: int = 64,
    proposal: Prior | None = None,
    posterior_draws: Draws | None = None,
) -> Certificate:
    """Two-sided bounds on log Z(x), and with them on the distances of a guide q from its target p*:

        KL(q ‖ p*) = E_q[log q − log γ] + log Z,   KL(p* ‖ q) = E_p*[log γ − log q] − log Z,

    γ = π0·φ, in nats. log Z lies between the means of log Ẑ over `num_repeats` independent groups
    of `num_particles` weighted samples without and with a slot held by an exact posterior draw (see
    `bayesft.diagnostics.bounds`). Half of the samples come from the prior, half from `proposal`, by
    default the guide; give a better one to certify a guide that proposes badly.

    Exact draws come from listing the prior's sequences, or from rejection, where the evidence
    declares an upper bound; `num_repeats` of them are used, all of them for KL(p* ‖ q). Otherwise
    an SMC draw stands in and the prompt is labelled as not certified. `posterior_draws` are draws
    of this target to use instead, such as those of an earlier certificate.

    Each interval has probability at least `level` of holding: Bonferroni's bound over its parts,
    exact binomial limits for proportions, and for means of independent groups or draws (the one
    approximation) Student's t, or the wider of it and a bootstrap where values are skewed for their
    number or the weights behind the bounds have a Pareto-k̂ above 0.7. Where limits on log Z are
    more than a nat apart the certificate is not `tight`, and prints that instead of them.

    Raises SamplerError for settings out of range, a key, proposal or draws that are none, and draws
    of another target, GuideError for a guide of another vocabulary, and what the evidence raises.
    """
    _check(target, guide, proposal, posterior_draws, level)
    require_key(key, SamplerError)
    half = -(-require_count("num_particles", num_particles) // 2)
    num_repeats = require_count("num_repeats", num_repeats)
    explorer = guide if proposal is None else proposal
    evaluator = Evaluator(target, guide, explorer)
    keys = [jax.random.fold_in(key, purpose) for purpose in range(5)]
    explored = evaluator.sample(explorer, keys[0], num_repeats * half)
    drawn = evaluator.sample(target.prior, keys[1], num_repeats * half)
    guided = explored
    if proposal is not None:
        guided = evaluator.sample(guide, keys[2], num_repeats * half)
    draws = _exact_draws(target, keys[3], num_repeats, explorer, posterior_draws)
    filled = np.isfinite(draws.log_weights)
    known = np.asarray(draws.log_evidence)
    if posterior_draws is not None:  # the caller's word, until it is scored under this target
        known = scoring.log_evidence(target, np.asarray(draws.tokens))
    posterior = evaluator.evaluate(np.asarray(draws.tokens), known)
    _require_possible(posterior, filled)
    _require_same_scores(draws, posterior.log_prior, known, filled)

    rounding = ROUNDING * (1 + np.abs(drawn.log_prior).mean(1))
    uniform = np.asarray(_uniform(target, keys[4], num_repeats))
    shape = (len(target.prompts), num_repeats, half)
    groups = explored.log_weight.reshape(shape), drawn.log_weight.reshape(shape)
    heavy = _heavy(np.concatenate([explored.log_weight, drawn.log_weight], axis=1))
    held, slots = _slots(posterior, filled, num_repeats)

    def log_z(error: float) -> Interval:
        lower = log_z_lower(*groups, error, heavy)
        upper = log_z_upper(*groups, held, slots, uniform, error, heavy)
        return Interval(lower, upper).widened(rounding)

    error = 1 - level
    bounds, inner = log_z(error / 2), log_z(error / 4)
    reverse, restricted, violation_rate, violations = _reverse(target, guided, inner, error)
    forward = _forward(posterior, filled, inner, error)
    doubts = [
        doubt or _contradiction(bounds, reverse, forward, row)
        for row, doubt in enumerate(draws.info["doubts"])
    ]
    possible = np.isfinite(guided.log_density)
    weights = np.where(possible, guided.log_density - guided.log_guide, -np.inf)
    ess = np.asarray(effective_sample_size(jax.numpy.asarray(weights))) / weights.shape[1]
    k = pareto_k(weights)
    return Certificate(
        log_z=bounds,
        reverse_kl=reverse,
        restricted_kl=restricted,
        forward_kl=forward,
        violation_rate=violation_rate,
        ess=ess,
        pareto_k=k,
        certified=np.asarray([not doubt for doubt in doubts]),
        tight=bounds.upper - bounds.lower <= WIDE,
        notes=_notes(doubts, violations, bounds, k, heavy),
        level=level,
        num_particles=2 * half,
        num_repeats=num_repeats,
        prompts=target.prompts.prompts,
        posterior_draws=draws,
    )


def _exact_draws(
    target: Target, key: Key, num_draws: int, explorer: Prior, given: Draws | None
) -> Draws:
    if given is None:
        return draw_posterior(target, key, num_draws, explorer)
    expected = (len(target.prompts), target.horizon.max_new_tokens)
    if (found := (given.tokens.shape[0], given.tokens.shape[2])) != expected:
        raise SamplerError(
            f"posterior_draws have (prompts, tokens) = {found}, the target {expected}.",
            cause="they are draws of another target.",
            remedy="draw from this target, or leave posterior_draws out.",
        )
    return given_draws(given, target, key)


def _slots(
    posterior: Evaluated, filled: Bool[np.ndarray, "P n"], num_repeats: int
) -> tuple[Evaluated, Bool[np.ndarray, "P R"]]:
    """The first R posterior draws, one per group; groups without one are not filled."""
    short = max(0, num_repeats - filled.shape[1])

    def fit(a: np.ndarray) -> np.ndarray:
        return np.pad(a[:, :num_repeats], ((0, 0), (0, short)))

    return Evaluated(*(fit(a) for a in vars(posterior).values())), fit(filled)


def _reverse(target: Target, guided: Evaluated, log_z: Interval, error: float):
    """KL(q ‖ p*), KL(q restricted ‖ p*), violation rate, and a note per prompt on violations."""
    allowed = np.isfinite(guided.log_density)
    num_draws, num_allowed = allowed.shape[1], allowed.sum(1)
    gap = np.where(allowed, guided.log_guide - np.where(allowed, guided.log_density, 0), 0.0)
    mass = proportion_interval(num_allowed, num_draws, error / 8, error / 8)
    # Where nothing is declared impossible and nothing was seen to be, all mass is allowed.
    certain = ~np.asarray(target.hard) & (num_allowed == num_draws)
    with np.errstate(divide="ignore"):
        log_mass = Interval(*(np.where(certain, 0.0, np.log(m)) for m in vars(mass).values()))
    mean, _ = robust_mean_interval(gap, allowed, error / 8, error / 8)
    restricted = (mean + -log_mass + log_z).at_least(0.0)
    violated = num_allowed < num_draws
    reverse = Interval(
        np.where(violated, np.inf, restricted.lower), np.where(certain, restricted.upper, np.inf)
    )
    rate = 1 - num_allowed / num_draws
    declared = target.evidence.bounds[0] > -np.inf
    notes = [
        ("" if declared else UNDECLARED)
        if certain[row]
        else f"{rate[row]:.2%} of {num_draws} guide draws are impossible under the target, so "
        "KL(q‖p*) = ∞; restricted to what is possible it is finite"
        if violated[row]
        else f"none of {num_draws} guide draws violates a hard constraint (rate below "
        f"{-np.expm1(log_mass.lower[row]):.2%}); KL(q‖p*) is ∞ if any can"
        for row in range(len(rate))
    ]
    return reverse, restricted, rate, notes


def _forward(
    posterior: Evaluated, filled: Bool[np.ndarray, "P n"], log_z: Interval, error: float
) -> Interval:
    with np.errstate(invalid="ignore"):
        gap = np.where(filled, posterior.log_density - posterior.log_guide, 0.0)
    missed = (gap == np.inf).any(1)
    finite = np.where(missed[:, None], 0.0, gap)
    mean, _ = robust_mean_interval(finite, filled, error / 4, error / 4)
    forward = (mean + -log_z).at_least(0.0)
    return Interval(*(np.where(missed, np.inf, limit) for limit in vars(forward).values()))


def _contradiction(log_z: Interval, reverse: Interval, forward: Interval, row: int) -> str:
    if log_z.lower[row] <= log_z.upper[row] and min(reverse.upper[row], forward.upper[row]) >= 0:
        return ""
    return "the limits contradict each other (evidence that changes between calls, or bad luck)"


def _heavy(log_weights: Float[np.ndarray, "P n"]) -> Bool[np.ndarray, " P"]:
    k = pareto_k(log_weights)
    return np.zeros(len(log_weights), bool) if k is None else k > TRUSTED_K


def _notes(
    doubts: list[str],
    violations: list[str],
    log_z: Interval,
    k: Float[np.ndarray, " P"] | None,
    heavy: Bool[np.ndarray, " P"],
) -> list[list[str]]:
    notes = []
    for row, (doubt, violation) in enumerate(zip(doubts, violations, strict=True)):
        about = [f"not certified: {doubt}"] if doubt else []
        about += [violation] if violation else []
        lower, upper = log_z.lower[row], log_z.upper[row]
        if not doubt and upper - lower > WIDE:
            about.append(
                f"limits apart: log Z lies between {lower:.2f} and {upper:.2f}, which leaves the "
                "divergences open: raise num_particles, or give a proposal"
            )
        if k is not None and k[row] > TRUSTED_K:
            about.append(
                "k̂ > 0.7: weights of guide draws have no finite variance, and no known ESS"
            )
        if heavy[row]:
            about.append(HEAVY)
        if k is None:
            about.append("k̂ needs arviz: pip install 'bayesft[arviz]'")
        notes.append(about)
    return notes


def _require_same_scores(
    draws: Draws,
    log_prior: Float[np.ndarray, "P n"],
    log_evidence: Float[np.ndarray, "P n"],
    filled: Bool[np.ndarray, "P n"],
) -> None:
    for said, found in ((draws.log_prior, log_prior), (draws.log_evidence, log_evidence)):
        said, found = np.where(filled, np.asarray(said), 0), np.where(filled, found, 0)
        if not np.allclose(said, found, rtol=SAME_SCORE, atol=SAME_SCORE):
            raise SamplerError(
                "posterior_draws have other log-probs or evidence under this target.",
                cause="they are draws of another target, or evidence changes between calls.",
                remedy="draw from this target, or leave posterior_draws out.",
            )


def _require_possible(posterior: Evaluated, filled: Bool[np.ndarray, "P n"]) -> None:
    if (impossible := np.argwhere(filled & np.isneginf(posterior.log_density))).size:
        raise SamplerError(
            f"Posterior draw {impossible[0][1]} of prompt {impossible[0][0]} has density 0.",
            cause="posterior_draws of another target, or evidence that changes between calls.",
            remedy="draw from this target, or leave posterior_draws out.",
        )


@jax.jit
def _uniforms(keys: Key) -> Array:
    return jax.vmap(jax.vmap(jax.random.uniform))(keys)


def _uniform(target: Target, key: Key, num_repeats: int) -> Array:
    """U(0, 1) for every prompt and group, from the prompt's id."""
    return _uniforms(sample_keys(target.xs.id, key, 0, num_repeats))


def _check(
    target: Target, guide: Prior, proposal: Prior | None, draws: Draws | None, level: float
) -> None:
    if not isinstance(target, Target) or not isinstance(guide, Prior):
        raise GuideError(
            f"certify needs a target and a guide, not {type(target).__name__} and "
            f"{type(guide).__name__}.",
            cause="a whole fit was passed, or the arguments are swapped.",
            remedy="call bft.certify(target, fitted.guide, key).",
        )
    if not isinstance(proposal, Prior | None) or not isinstance(draws, Draws | None):
        raise SamplerError(
            "certify takes a prior as proposal and draws as posterior_draws, not "
            f"{type(proposal).__name__} and {type(draws).__name__}.",
            cause="a function that makes a proposal, or arrays of tokens.",
            remedy="pass proposal=guide, posterior_draws=certificate.posterior_draws, or neither.",
        )
    require_stand_in("The guide", guide, target, GuideError)
    if proposal is not None:
        require_stand_in("The proposal", proposal, target, GuideError)
    require_level(level)
