"""Twisted SMC: a learned prefix function steers proposals and resampling."""

from __future__ import annotations

from bayesft.base import Prior, Twist
from bayesft.errors import SamplerError
from bayesft.priors.sequence import BoundGuide
from bayesft.samplers.particle_sampler import ParticleSampler
from bayesft.samplers.resampling import Resampling, systematic
from bayesft.samplers.smc import resampling_rule
from bayesft.samplers.tilted import TiltedProposal, locally_optimal
from bayesft.samplers.validation import require_count


def twisted(
    twist: Twist,
    num_particles: int = 128,
    guide: Prior | BoundGuide | None = None,
    ess_threshold: float = 0.5,
    resampling: Resampling = systematic,
    every: int | None = None,
) -> ParticleSampler:
    """Properly weighted draws by SMC through the intermediate targets π0·φ_prefix·ψ_t:

        q(v) ∝ π0(v | prefix)·φ_t(v)/φ_{t-1}·ψ_t(prefix, v),
        w_t = w_{t-1} · Σ_v π0(v | prefix)·φ_t(v)/φ_{t-1}·ψ_t(prefix, v) / ψ_{t-1}(prefix)

    (Zhao, Brekelmans, Makhzani and Grosse 2024). The claim holds for any twist that is positive
    where the target has mass; with the exact one, ψ_t = E_π0[φ | y_1:t] for evidence on whole
    sequences, every weight is Z. With a `guide` the proposal starts from it instead of the prior.

    ψ is 1 on finished sequences. Evidence on whole sequences replaces the twist of a sequence that
    has ended at the next segment's end, every `every` tokens (default: at the horizon), and, unlike
    in `smc`, is not asked about unfinished ones: to look ahead is the twist's part.

    Settings are otherwise those of `smc`. Raises SamplerError for settings out of range, a twist of
    another kind, a twist that reads hidden states of a prior that shows none, and where log ψ is
    NaN or +inf.
    """
    if not isinstance(twist, Twist):
        raise SamplerError(
            f"A {type(twist).__name__} is not a twist.",
            cause="a function, a guide, or the result of a fit was passed.",
            remedy="pass bft.twists.head(…) or bft.twists.model(guide).",
        )
    return ParticleSampler(
        num_particles=require_count("num_particles", num_particles),
        proposal=TiltedProposal(locally_optimal(guide).guide, twist),
        rule=resampling_rule(ess_threshold, resampling),
        every=None if every is None else require_count("every", every),
        looks_ahead=False,
    )
