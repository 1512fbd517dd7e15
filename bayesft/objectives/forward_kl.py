"""KL(p* ‖ q), from any sampler's weighted draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.base import Claim, Guide, Key, Observation, Prompt, Sampler
from bayesft.errors import SamplerError, TargetError
from bayesft.target import Target


@dataclasses.dataclass(frozen=True)
class ForwardKL:
    """Σ_n w_n·(log p*(y_n | x) − log q(y_n | x)) with a sampler's self-normalised weights."""

    sampler: Sampler | Callable[[Guide], Sampler]

    @property
    def claim(self) -> Claim:
        return Claim(
            "biased",
            "self-normalised weights are biased by O(1/N), and log Z is estimated from the same "
            "draws; with exact draws the gradient is unbiased",
        )

    def observe(self, target: Target, guide: Guide, key: Key) -> Prompt:
        """Draws of every prompt as rows [P·N] to score, with their weights."""
        sampler = self.sampler if isinstance(self.sampler, Sampler) else self.sampler(guide)
        if sampler.claim.kind == "another law":
            raise SamplerError(
                f"forward_kl was given draws of {sampler.claim.detail}.",
                cause="its weights do not represent the posterior.",
                remedy="use importance, rejection or smc.",
            )
        draws = sampler.run(target, key)
        num_draws = draws.tokens.shape[1]
        dead = draws.weights == 0
        if bool(dead.all()):
            raise SamplerError(
                "Every draw for forward_kl has weight 0, for every prompt of the step.",
                cause="a constraint that the sampler's draws never meet.",
                remedy="draw more, propose from a guide, or soften the constraint.",
            )
        log_z = draws.log_z
        if log_z is None:  # the constant is unknown: the value is the cross-entropy −E[log q]
            log_z = draws.log_prior + draws.log_evidence
            log_z = jnp.where(dead, 0.0, log_z)
        else:
            log_z = jnp.broadcast_to(log_z[:, None], dead.shape)
        log_target = draws.log_prior + draws.log_evidence - log_z
        observed = Observation(
            draws.tokens, draws.weights * num_draws, jnp.where(dead, 0.0, log_target)
        )
        rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), observed)
        xs = jax.tree.map(lambda a: jnp.repeat(a, num_draws, axis=0), target.xs)
        return dataclasses.replace(xs, observed=rows)

    def __call__(self, guide: Any, target: Target, x: Prompt) -> Float[Array, ""]:
        if x.observed is None:
            raise TargetError(
                "forward_kl was run without draws of the target.",
                cause="it was called as a program by itself.",
                remedy="pass it to bft.fit, which draws from the target before every step.",
            )
        log_q = guide(x).log_prob(x.observed.tokens)
        # A draw of weight 0 may be impossible under q: it must not turn the sum into NaN.
        gap = jnp.where(x.observed.weight > 0, x.observed.log_target - log_q, 0.0)
        return x.observed.weight * gap


def forward_kl(sampler: Sampler | Callable[[Guide], Sampler]) -> ForwardKL:
    """KL(p* ‖ q) in nats, minimised by q = p*; mass-covering; allows hard constraints.

    `sampler` draws from the target before every step; a function of the current guide gives one
    that proposes from it, e.g. `lambda q: bft.samplers.importance(64, proposal=q)`. The reported
    value uses the sampler's estimate of log Z; without one it is the cross-entropy −E_p*[log q].
    (Distributional policy gradients, Parshakova et al. 2019, are importance sampling from the
    guide.) Raises SamplerError where the draws follow another law or all have weight 0.
    """
    return ForwardKL(sampler)
