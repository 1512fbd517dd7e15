"""Prompts, horizons and token sequences, as arrays."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

type EosPolicy = Literal["truncate", "condition", "force"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observation:
    """A completion known from data or from a sampler, for objectives that score given values.

    `weight` is its share of the expectation (they sum to the number of rows in a batch) and
    `log_target` the normalised log-probability of the completion under what it was drawn from, in
    nats, or 0 where that is unknown.
    """

    tokens: Int[Array, "*batch T"]
    weight: Float[Array, "*batch"]
    log_target: Float[Array, "*batch"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a sequence is conditioned on, as arrays; `id` finds its text and columns on the host.

    Tokens are padded on the right to a bucketed length S; `length` counts the real ones.
    The id depends on the prompt's content alone, and keys fold it in, so a prompt in a batch draws
    what the same prompt alone would draw.

    `soft` holds embeddings that a decoder reads before the tokens, as if they were rows of its
    table (a soft prompt, Lester et al. 2021); they take S of its context, and draws may depend on
    choices of a program through them.
    """

    tokens: Int[Array, "*batch S"]
    length: Int[Array, "*batch"]
    id: Int[Array, "*batch"]
    observed: Observation | None = None
    soft: Float[Array, "*batch S D"] | None = None


@dataclasses.dataclass(frozen=True)
class Horizon:
    """When a sequence ends: at EOS, or at `max_new_tokens` as the policy says (static under jit).

    `truncate`: a cut sequence is an outcome of its own. `condition`: only ended sequences count
    (a matter of the target's density; as a distribution it samples as `truncate`). `force`: the
    last position is EOS (`eos[0]`) with probability 1.
    """

    max_new_tokens: int
    eos_policy: EosPolicy = "truncate"

    def constrain(
        self, logits: Float[Array, "*batch V"], t: int | Int[Array, ""], eos: tuple[int, ...]
    ) -> Float[Array, "*batch V"]:
        """Logits of the token at position t under the policy."""
        if self.eos_policy != "force":
            return logits
        only_eos = jnp.where(jnp.arange(logits.shape[-1]) == eos[0], 0.0, -jnp.inf)
        last = t == self.max_new_tokens - 1
        return jnp.where(last, jnp.broadcast_to(only_eos, logits.shape), logits)

    def finish(
        self,
        token_log_probs: Float[Array, "*batch T"],
        tokens: Int[Array, "*batch T"],
        eos: tuple[int, ...],
        vocab_size: int,
    ) -> Float[Array, "*batch T"]:
        """Per-token log-probs under the policy: 0 on padding, the forced EOS scored as certain.

        Ids outside the vocabulary, which array indexing clamps or wraps around, have -inf.
        """
        if tokens.shape[-1] != self.max_new_tokens:
            raise ValueError(f"{tokens.shape[-1]} tokens given, the horizon is {self}")
        position = _positions(tokens)
        live = position < sequence_lengths(tokens, eos)[..., None]
        if self.eos_policy == "force":
            forced = jnp.where(tokens == eos[0], 0.0, -jnp.inf)
            last = position == self.max_new_tokens - 1
            token_log_probs = jnp.where(last, forced, token_log_probs)
        known = (tokens >= 0) & (tokens < vocab_size)
        return jnp.where(live, jnp.where(known, token_log_probs, -jnp.inf), 0.0)


def _positions(tokens: Int[Array, "*batch T"]) -> Int[Array, "*batch T"]:
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, tokens.ndim - 1)


def is_eos(tokens: Int[Array, "*shape"], eos: tuple[int, ...]) -> Array:
    """Whether each token ends a sequence, as bool [*shape]."""
    ends = tokens == eos[0]
    for token in eos[1:]:
        ends = ends | (tokens == token)
    return ends


def sequence_lengths(tokens: Int[Array, "*batch T"], eos: tuple[int, ...]) -> Int[Array, "*batch"]:
    """Number of tokens up to and with the first EOS; T where there is none."""
    ends = is_eos(tokens, eos)
    first = jnp.argmax(ends, axis=-1).astype(jnp.int32)
    return jnp.where(ends.any(-1), first + 1, jnp.int32(tokens.shape[-1]))


def pad_after_end(tokens: Int[Array, "*batch T"], eos: tuple[int, ...]) -> Int[Array, "*batch T"]:
    """The same sequences with everything after their end replaced by `eos[0]`."""
    live = _positions(tokens) < sequence_lengths(tokens, eos)[..., None]
    return jnp.where(live, tokens, jnp.asarray(eos[0], tokens.dtype))
