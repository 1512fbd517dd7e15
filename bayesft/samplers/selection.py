"""One of n: draws that are each selected among n samples of the prior of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from bayesft.base import Claim, Key
from bayesft.draws import Draws, Status
from bayesft.samplers.ended import estimate_log_ended, log_ended
from bayesft.samplers.plain import MAX_ROWS, Samples, propose
from bayesft.target import Target

type Values = Float[np.ndarray, "P N n"]
"""log φ of the n samples of every draw; -inf where a sample is impossible under the target."""


def select(
    target: Target,
    key: Key,
    n: int,
    num_draws: int,
    choose: Callable[[Values, int], Int[np.ndarray, "P N"]],
) -> tuple[Samples, Values]:
    """The selected samples and the values of all, in batches of one shape that may overshoot.

    `choose(values, first)` selects for the draws number first, first + 1, …, and draw number i
    selects among the samples number i·n, …, i·n + n − 1.
    """
    per_batch = min(max(1, MAX_ROWS // (len(target.prompts) * n)), num_draws)
    batches, values = [], []
    for first in range(0, num_draws, per_batch):
        samples = propose(target, key, first * n, per_batch * n)
        groups = samples.log_evidence.reshape(-1, per_batch, n)
        batches.append(samples.take(choose(groups, first) + n * np.arange(per_batch)))
        values.append(groups)
    return Samples.join(batches, num_draws), np.concatenate(values, axis=1)[:, :num_draws]


def selected_draws(
    target: Target, key: Key, n: int, selected: Samples, claim: Claim, info: dict[str, Any]
) -> Draws:
    """Equally weighted draws; what is impossible has log-weight -inf."""
    possible = ~np.isneginf(selected.log_evidence)
    num_samples = n * possible.shape[1]
    return Draws(
        tokens=jnp.asarray(selected.tokens),
        lengths=jnp.asarray(selected.lengths),
        log_weights=jnp.where(possible, 0.0, -jnp.inf),
        log_prior=jnp.asarray(selected.log_prior),
        log_evidence=jnp.asarray(selected.log_evidence),
        log_z=None,
        status=np.where(possible.any(-1), Status.OK, Status.ALL_DEAD),
        claim=claim,
        prompts=target.prompts.prompts,
        decode=target.prior.decode,
        log_ended=log_ended(target, lambda: estimate_log_ended(target, key, num_samples)),
        info=info,
    )
