"""Sequential Monte Carlo over growing paths, as a distribution."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from bayesft.base import Estimator, PyTree
from bayesft.distributions.slots import require_slots
from bayesft.program import Steps, StochasticDensity, draw, scan
from bayesft.program.particles import Grown, Particles, at, grow, start


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SMC(StochasticDensity):
    """One of N particles that were resampled as they grew, chosen by weight."""

    steps: Steps
    num_particles: int = dataclasses.field(metadata={"static": True})
    selection: Estimator | None = dataclasses.field(metadata={"static": True})

    def propose(self) -> tuple[PyTree, Float[Array, ""]]:
        particles, grown = self._run()
        chosen = dist.Categorical(logits=particles.log_weights)
        index = draw("selected", chosen, self.selection)

        def back(slot: Array, inputs: tuple[PyTree, Array]) -> tuple[Array, PyTree]:
            elements, ancestors = inputs
            return ancestors[slot], at(elements, slot)

        _, path = jax.lax.scan(back, index, (grown.elements, grown.ancestors), reverse=True)
        return path, self.steps.log_density(path) - grown.log_mean.sum()

    def assess(self, value: PyTree) -> Float[Array, ""]:
        _, grown = self._run(value)
        return self.steps.log_density(value) - grown.log_mean.sum()

    def _run(self, held: PyTree = None) -> tuple[Particles, Grown]:
        def step(particles: Particles, inputs: tuple[Array, PyTree]) -> tuple[Particles, Grown]:
            return grow(self.steps, particles, inputs[0], self.selection, inputs[1])

        inputs = (jnp.arange(self.steps.num_steps), held)
        return scan(step, start(self.steps, self.num_particles), inputs, name="steps")


def smc(steps: Steps, num_particles: int, *, selection: Estimator | None = None) -> SMC:
    """Draw a path by SMC with N particles: `normalize` where paths grow, a distribution

        q(y) = E[γ_T(y) / Ẑ],   Ẑ = Π_t (1/N) Σ_n w_t^n,   w_t = γ_t/(γ_{t−1}·r_t),

    y in one slot at every step, the others as SMC draws them: closer to γ_T/Z with N. Ancestors are
    drawn at every step (multinomial), and `selection` is the estimator of their choice, by default
    that of the others; where elements are reparameterised it needs one of its own, such as
    `score_function()`, and with `detached()` its score is dropped: a bias that many accept. KL(q ‖
    γ_T/Z) by its log-prob is the bound of `bft.objectives.variational_smc`. Any estimators of one
    path.

    Raises ChoiceError for N < 1. (Andrieu, Doucet and Holenstein 2010 for the held path; Naesseth,
    Linderman, Ranganath and Blei 2018; Lew et al. 2022.)
    """
    return SMC(steps, require_slots("smc", num_particles), selection)
