"""Importance sampling: independent draws of a proposal, weighted by the target."""

from __future__ import annotations

from bayesft.base import Prior
from bayesft.priors.sequence import BoundGuide
from bayesft.samplers.particle_sampler import ParticleSampler
from bayesft.samplers.proposers import Proposal, require_proposal
from bayesft.samplers.validation import require_count


def importance(
    num_particles: int, proposal: Prior | BoundGuide | Proposal | None = None
) -> ParticleSampler:
    """Properly weighted draws: w(y) = π0(y | x)·φ(y, x) / q(y | x), Ẑ the mean weight.

    The proposal q is a guide or a prior over the same vocabulary, up to the target's horizon; the
    default is the prior itself, whose part of the weight is then exactly 0.

    A proposal must be able to draw whatever the target gives mass to. Where a guide gives next
    tokens probability 0 that the prior and the prefix evidence allow, `info["missing_support"]` [P]
    estimates their share of the prior's mass, and a SupportWarning says so.

    A draw may stop short once its weight is 0, for there is nothing to gain from its end; its
    log_prior is then that of the tokens drawn, and its log_evidence -inf.
    """
    return ParticleSampler(
        num_particles=require_count("num_particles", num_particles),
        proposal=require_proposal(proposal),
    )
