"""Averages of importance weights over slots, the first of which may be taken."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayesft.errors import ChoiceError
from bayesft.program import plate


def log_mean_weight(
    first: Float[Array, ""] | None, another: Callable[[], Float[Array, ""]], num_slots: int
) -> Float[Array, ""]:
    """log (1/K) Σ_k w_k in nats; every slot but the `first`, where there is one, is drawn."""
    held = jnp.zeros(0) if first is None else first[None]
    if num_drawn := num_slots - len(held):
        held = jnp.concatenate([held, plate(lambda _: another(), num_drawn, name="slots")])
    return jax.nn.logsumexp(held) - jnp.log(num_slots)


def require_slots(name: str, num_samples: int) -> int:
    """The number of slots, or ChoiceError for less than one."""
    if num_samples < 1:
        raise ChoiceError(
            f"{name}(num_samples={num_samples}) is no distribution.",
            cause="its density is a mean over no weight.",
            remedy="use num_samples ≥ 1.",
        )
    return int(num_samples)
