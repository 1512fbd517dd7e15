"""Sequential Monte Carlo with adaptive resampling."""

from __future__ import annotations

from collections.abc import Sequence

from bayesft.base import Prior
from bayesft.errors import SamplerError
from bayesft.priors.sequence import BoundGuide
from bayesft.samplers.particle_sampler import ParticleSampler
from bayesft.samplers.proposers import Proposal, require_proposal
from bayesft.samplers.resampling import Resampling, systematic
from bayesft.samplers.sequential import ResamplingRule
from bayesft.samplers.validation import require_count


def smc(
    num_particles: int,
    proposal: Prior | BoundGuide | Proposal | None = None,
    ess_threshold: float = 0.5,
    resampling: Resampling = systematic,
    every: int | None = None,
    delimiter: str | Sequence[int] | None = None,
) -> ParticleSampler:
    """Properly weighted draws from particles that are resampled as they grow.

    w_t = w_{t-1} · π0(y_t | y_<t, x)/q(y_t | y_<t, x) · φ_t/φ_{t-1}, Ẑ = Π of the mean weights at
    the resamplings and at the end (Del Moral, Doucet and Jasra 2006). A prompt is resampled ahead
    of a token when its ESS is below `ess_threshold` · N: 0 is never, 1 whenever weights differ.

    Prefix evidence enters φ_t at every token. Evidence on whole sequences, in JAX or Python, enters
    at the end, and on the way at segment ends, evaluated on the prefix: increments telescope to the
    final value. A segment ends after `every` = k tokens, or, for a prompt by itself, when each of
    its particles has drawn a token that writes the `delimiter` (a text within one token, or token
    ids); then a prefix counts up to its last delimiter. A value of -inf on an unfinished prefix is
    held back (the previous value stays), since a constraint that a prefix does not meet may be met
    later.

    `proposal` and draws of weight 0 are as in `importance`; `locally_optimal()` and
    `adaptive_weighted_rejection()` propose by the prefix evidence. `resampling` is a scheme of
    `bft.samplers.resampling`, or any function `(key, log_weights [N]) -> counts [N]`. `info` has
    `num_resamples` [P], `ess` [segments, P] at the end of each segment, `missing_support` as in
    `importance`, and `history`: `ancestors`, `tokens` and `log_weights`, each [T, P, N], from which
    genealogies and dead trajectories follow (`ancestors` also by itself).

    Raises SamplerError for settings out of range and for a proposal that does not fit.
    """
    if every is not None and delimiter is not None:
        raise SamplerError(
            "Both every and delimiter were given.",
            cause="segments end after a number of tokens or at delimiters, not both.",
            remedy="give one of the two.",
        )
    if delimiter is not None and not isinstance(delimiter, str):
        delimiter = tuple(int(token) for token in delimiter)
    return ParticleSampler(
        num_particles=require_count("num_particles", num_particles),
        proposal=require_proposal(proposal),
        rule=resampling_rule(ess_threshold, resampling),
        every=None if every is None else require_count("every", every),
        delimiter=delimiter,
    )


def resampling_rule(ess_threshold: float, resampling: Resampling) -> ResamplingRule:
    """The rule of these settings; raises SamplerError where one is out of range."""
    if not isinstance(ess_threshold, int | float) or not 0 <= ess_threshold <= 1:
        raise SamplerError(
            f"ess_threshold={ess_threshold!r} is not between 0 and 1.",
            cause="a number of particles instead of a share of them.",
            remedy="use 0.5, 0 (never resample) or 1 (always).",
        )
    if not callable(resampling):
        raise SamplerError(
            f"resampling={resampling!r} is not a function.",
            cause="a scheme named by a string.",
            remedy="pass bft.samplers.resampling.systematic or another scheme.",
        )
    return ResamplingRule(resampling, float(ess_threshold))
