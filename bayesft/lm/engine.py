"""Incremental decoding of P prompts × N particles with a static cache.

The prompts' keys are stored once, the particles' own in one buffer per layer that is written in
place; a state may be carried by `while_loop` and `scan`. Between loops its buffers may grow.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from bayesft.base import Buffered, Prompt
from bayesft.lm.contexts import Alone, KeyValue, NextToken, PromptCache
from bayesft.lm.decoder import Decoder
from bayesft.sharding import copy_rows, join, split, split_prompts, split_rows, splits


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState(Buffered):
    """Where each particle stands: `layers` holds keys and values [P · N, heads, T, head_dim]."""

    prompt: PromptCache
    layers: tuple[KeyValue, ...]
    step: Int[Array, ""]
    withheld: int = dataclasses.field(default=0, metadata={"static": True})
    """How many positions `layers` are short of those they were made with."""

    def withholding(self, num_positions: int, *, free: bool = False) -> DecodeState:
        more = self.withheld - num_positions
        if more == 0:
            return self

        def resized(cache: Array) -> Array:
            if more < 0:
                fresh = cache[:, :, :more]
            else:
                fresh = split_rows(jnp.pad(cache, ((0, 0), (0, 0), (0, more), (0, 0))))
            if free:
                cache.delete()
            return fresh

        layers = jax.tree.map(resized, self.layers)
        return dataclasses.replace(self, layers=layers, withheld=num_positions)


def prefill(decoder: Decoder, xs: Prompt) -> tuple[Float[Array, "P D"], PromptCache]:
    """Hidden state at the last real token of each prompt, and the prompts' cache."""
    soft, num_soft = (None, 0) if xs.soft is None else (xs.soft[:, None], xs.soft.shape[1])
    length = xs.length + num_soft
    positions = jnp.arange(num_soft + xs.tokens.shape[1], dtype=jnp.int32)[None, None]
    hidden, layers = decoder.hidden(xs.tokens[:, None], positions, Alone(), soft)
    last = jnp.take_along_axis(hidden[:, 0], (length - 1)[:, None, None], axis=1, mode="clip")
    return last[:, 0], PromptCache(layers, length)


def start(
    decoder: Decoder, xs: Prompt, num_particles: int, max_new_tokens: int
) -> tuple[DecodeState, Float[Array, "P D"]]:
    """State after the prompts, and the hidden states that the first new token is drawn from."""
    xs = split_prompts(xs, num_particles)
    last, prompt = prefill(decoder, xs)

    def empty(keys: Array) -> Array:
        num_prompts, heads, _, head_dim = keys.shape
        rows = num_prompts * num_particles
        return split_rows(jnp.zeros((rows, heads, max_new_tokens, head_dim), keys.dtype))

    layers = tuple((empty(keys), empty(values)) for keys, values in prompt.layers)
    return DecodeState(prompt, layers, jnp.zeros((), jnp.int32)), last


def per_particle(rows: Float[Array, "P D"], num_particles: int) -> Float[Array, "P N D"]:
    """What all particles of a prompt share, for each of them."""
    return jnp.broadcast_to(rows[:, None], (rows.shape[0], num_particles, rows.shape[1]))


def advance(
    decoder: Decoder, state: DecodeState, tokens: Int[Array, "P N"]
) -> tuple[DecodeState, Float[Array, "P N D"]]:
    """Runs one token per particle, to the hidden states that the next one is drawn from.

    Token t of prompt p stands at position length[p] + t.
    """
    positions = (state.prompt.length + state.step)[:, None, None]
    context = NextToken(state.prompt, state.layers, state.step)
    # Joined ahead of the split, or the partitioner would split what the tokens come from, too.
    tokens = split(join(tokens))
    hidden, layers = decoder.hidden(tokens[:, :, None], positions, context)
    after = dataclasses.replace(state, layers=split_rows(layers), step=state.step + 1)
    return after, hidden[:, :, 0]


def reorder(state: DecodeState, ancestors: Int[Array, "P N"]) -> DecodeState:
    """Copies the cache rows of particles whose ancestor is another particle, in place.

    Survivors stay where they are: a row that is copied from must not be copied to
    (ancestors[ancestors[n]] == ancestors[n]), as resampling in bayesft guarantees. The cost is
    that of the dead rows, and nothing where every particle is its own ancestor.
    """
    num_prompts, num_particles = ancestors.shape
    first = jnp.arange(num_prompts, dtype=jnp.int32) * num_particles
    sources = (ancestors.astype(jnp.int32) + first[:, None]).reshape(-1)
    if splits(sources.size):
        return dataclasses.replace(state, layers=copy_rows(state.layers, sources))
    dead = sources != jnp.arange(sources.size, dtype=jnp.int32)
    targets = jnp.nonzero(dead, size=dead.size, fill_value=0)[0].astype(jnp.int32)

    def copy_row(index: Array, layers: tuple[KeyValue, ...]) -> tuple[KeyValue, ...]:
        target = targets[index]
        source = sources[target]

        def copy(cache: Array) -> Array:
            row = lax.dynamic_slice_in_dim(cache, source, 1)
            return lax.dynamic_update_slice_in_dim(cache, row, target, 0)

        return jax.tree.map(copy, layers)

    count = dead.sum(dtype=jnp.int32)
    layers = lax.fori_loop(jnp.zeros((), jnp.int32), count, copy_row, state.layers)
    return dataclasses.replace(state, layers=layers)
