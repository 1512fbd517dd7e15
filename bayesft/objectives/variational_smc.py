"""The bound on log Z of sequential Monte Carlo."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Estimator
from bayesft.objectives.sequence_steps import sequence_steps
from bayesft.objectives.weights import require_density, require_samples
from bayesft.program import Steps, cost, scan
from bayesft.program.particles import Particles, grow, start


@runtime_checkable
class Growing(Protocol):
    """A guide of growing paths, such as the states of a hidden Markov model."""

    def steps(self, target: Any, x: Any, /) -> Steps:
        """How its paths grow, and the target's densities of them on the way."""
        ...


@dataclasses.dataclass(frozen=True)
class VariationalSMC:
    """−log Ẑ = −Σ_t log (1/N) Σ_n w_t^n of N particles that the guide proposes."""

    num_particles: int
    selection: Estimator | None

    def __call__(self, guide: Any, target: Any, x: Any) -> Float[Array, ""]:
        if isinstance(guide, Growing):
            steps = guide.steps(target, x)
        else:
            require_density(target, "variational_smc", finite=True)
            steps = sequence_steps(guide(x), target, x)

        def step(particles: Particles, t: Array) -> tuple[Particles, None]:
            particles, grown = grow(steps, particles, t, self.selection)
            cost(-grown.log_mean)  # paid here: no later choice is credited with it
            return particles, None

        scan(step, start(steps, self.num_particles), jnp.arange(steps.num_steps), name="steps")
        return jnp.zeros(())


def variational_smc(num_particles: int, *, selection: Estimator | None = None) -> VariationalSMC:
    """E[−log Ẑ] ≥ −log Z in nats: the guide proposes, particles are resampled at every step.

    For guides of sequences and a `bft.Target`, whose prefix evidence weighs on the way (evidence on
    whole sequences at their end), and for guides with a method `steps(target, x)` that returns
    `bft.distributions.Steps`. Tight, and minimised by q = p*, where the prefix densities are those
    of p* as well; elsewhere the guide becomes a proposal for SMC. N = 1 is reverse KL. Any
    estimator of one path; `selection` is that of the ancestors, by default the same: unbiased. With
    `bft.estimators.detached()` their score is dropped, a bias that the papers accept for its
    variance.

    Raises ObjectiveError for N < 1, HardConstraintError for hard constraints, TargetError for data
    and evidence in Python, GuideError for a guide whose draws do not grow. (Naesseth et al. 2018;
    Maddison et al. 2017, FIVO; Le et al. 2018, AESMC.)
    """
    reason = "the bound averages over no particle."
    return VariationalSMC(require_samples("variational_smc", num_particles, 1, reason), selection)
