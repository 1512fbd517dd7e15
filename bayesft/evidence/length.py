"""Bounds on the number of tokens."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Horizon, PrefixEvidence, Prior, Prompt, is_eos
from bayesft.errors import EvidenceError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Length(PrefixEvidence):
    """log φ(y) = 0 where min_tokens ≤ length ≤ max_tokens, else -inf."""

    min_tokens: int = dataclasses.field(metadata={"static": True})
    max_tokens: int | None = dataclasses.field(metadata={"static": True})
    eos: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    name: str = dataclasses.field(metadata={"static": True})
    max_open: int | None = dataclasses.field(metadata={"static": True})
    """Largest number of tokens without EOS."""

    @property
    def bounds(self) -> tuple[float, float]:
        return -math.inf, 0.0

    def init(self, x: Prompt) -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)

    def step(self, state: Int[Array, ""], token: Int[Array, ""]):
        length = state + 1
        ends = is_eos(token, self.eos)
        allowed = ~ends | (length >= self.min_tokens)
        if self.max_tokens is not None and self.max_open is not None:
            allowed &= length <= jnp.where(ends, self.max_tokens, self.max_open)
        return length, jnp.where(allowed, 0.0, -jnp.inf)

    def cut(self, state: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.where(state >= self.min_tokens, 0.0, -jnp.inf)

    def bind(self, prior: Prior, horizon: Horizon, longest_prompt: int) -> Length:
        if self.max_tokens is None:
            return self
        # Nothing is cut before the horizon, so a sequence that is to end sooner needs its EOS.
        open_end = horizon.eos_policy == "truncate" and self.max_tokens >= horizon.max_new_tokens
        return dataclasses.replace(self, max_open=self.max_tokens - (not open_end))

    def require_satisfiable(self, horizon: Horizon) -> None:
        if self.min_tokens > horizon.max_new_tokens:
            raise EvidenceError(
                f"A length of at least {self.min_tokens} tokens does not fit into max_new_tokens="
                f"{horizon.max_new_tokens}.",
                cause="the horizon is too short, so no completion is possible.",
                remedy=f"use max_new_tokens ≥ {self.min_tokens}, or a smaller min_tokens.",
            )


def length(
    min_tokens: int, max_tokens: int | None, prior: Prior, *, name: str = "length"
) -> Length:
    """Evidence that bounds the number of new tokens, EOS included, as `draws.lengths` counts them:

        log φ(y) = 0 where min_tokens ≤ length of y ≤ max_tokens, else -inf

    EOS is impossible before position `min_tokens`, and every token behind position `max_tokens`
    (None: no bound). A sequence that the horizon cuts has the length of the horizon; a bound on the
    length alone is cheaper by `max_new_tokens` with eos="condition".

    Raises EvidenceError for bounds that are not ordered; a target raises it where `min_tokens`
    exceeds the horizon.
    """
    if min_tokens < 0 or (max_tokens is not None and max_tokens < max(min_tokens, 1)):
        raise EvidenceError(
            f"No sequence has between {min_tokens} and {max_tokens} tokens.",
            cause="bounds that are negative or in the wrong order.",
            remedy="use 0 ≤ min_tokens ≤ max_tokens, and max_tokens ≥ 1 or None.",
        )
    limit = None if max_tokens is None else int(max_tokens)
    return Length(int(min_tokens), limit, tuple(prior.eos), name, limit)
