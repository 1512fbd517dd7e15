"""A twist with an entry of its own for every prefix and next token."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bayesft.base import Prior, Prompt, SteppedTwist
from bayesft.errors import NotEnumerableError

MAX_ENTRIES = 10_000_000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tabular(SteppedTwist):
    """log ψ(y_1:t, v) = params[i, v], i the number of the prefix y_1:t; the same for every prompt.

    Prefixes are numbered as nodes of a heap: the empty one is 0, and v continues i to V·i + v + 1.
    """

    params: Float[Array, "M V"]  # pyright: ignore[reportIncompatibleMethodOverride]

    def with_params(self, params: Float[Array, "M V"]) -> Tabular:
        return Tabular(params)

    def start(self, xs: Prompt, num_particles: int, max_new_tokens: int):
        state = jnp.zeros((xs.id.shape[0], num_particles), jnp.int32)
        return state, self._read(state)

    def advance(self, state: Int[Array, "P N"], tokens: Int[Array, "P N"]):
        state = self._continued(state, tokens)
        return state, self._read(state)

    def reorder(self, state: Int[Array, "P N"], ancestors: Int[Array, "P N"]):
        return jnp.take_along_axis(state, ancestors, axis=1)

    def log_twists(self, tokens: Int[Array, " T"], x: Prompt, prior: Prior) -> Float[Array, "T V"]:
        return self._read(self.prefixes(tokens))

    def prefixes(self, tokens: Int[Array, " T"]) -> Int[Array, " T"]:
        """The numbers of tokens[:0], …, tokens[:T - 1]."""

        def step(prefix, token):
            return self._continued(prefix, token), prefix

        return jax.lax.scan(step, jnp.int32(0), tokens)[1]

    def _continued(self, prefix: Int[Array, "*n"], token: Int[Array, "*n"]) -> Int[Array, "*n"]:
        """What is beyond the table, past the last token, stays at its end."""
        num_prefixes, vocab_size = self.params.shape
        return jnp.minimum(vocab_size * prefix + token + 1, num_prefixes - 1)

    def _read(self, prefix: Int[Array, "*n"]) -> Float[Array, "*n V"]:
        return self.params[prefix]


def tabular(vocab_size: int, num_tokens: int) -> Tabular:
    """A twist with a free value for every prefix of less than `num_tokens` tokens and next token.

    Its (V^T − 1)/(V − 1) × V entries are log ψ in nats, 0 at the start (ψ ≡ 1); one table serves
    all prompts. For targets small enough to be enumerated. Raises NotEnumerableError where it would
    have more than 10 million entries, or none.
    """
    num_prefixes = sum(vocab_size**t for t in range(num_tokens))
    if not 0 < num_prefixes * vocab_size <= MAX_ENTRIES:
        raise NotEnumerableError(
            f"A table for {num_tokens} tokens of a vocabulary of {vocab_size} would have "
            f"{num_prefixes * vocab_size} entries.",
            cause="the vocabulary or max_new_tokens is too large (or 0).",
            remedy="use bft.twists.head or bft.twists.model.",
        )
    return Tabular(jnp.zeros((num_prefixes, vocab_size)))
