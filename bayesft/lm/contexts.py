"""The three contexts of a forward pass: on its own, after a prompt, and one token at a time."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from bayesft.lm.attention import Shared, Sight, attend, attend_causally, distances
from bayesft.lm.decoder import Heads

type KeyValue = tuple[Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptCache:
    """Keys and values of prompts in every layer, without a particle axis."""

    layers: tuple[KeyValue, ...]
    """Each [P, heads, S, head_dim]."""
    length: Int[Array, " P"]

    def shared(self, sight: Sight, after: Int[Array, " Q"]) -> Shared:
        """What a layer sees of the prompts from positions length + after; never padding."""
        keys, values = self.layers[sight.layer]
        position = jnp.arange(keys.shape[2], dtype=jnp.int32)
        visible = (position[None] < self.length[:, None])[:, None]
        if sight.window is not None:
            # Positions count from the first token, so padding stands between none of them.
            query = self.length[:, None] + after[None]
            visible = visible & sight.sees(query[..., None] - position[None, None])
        return Shared(keys, values, visible)


@dataclasses.dataclass(frozen=True)
class Alone:
    """The tokens see each other, causally, and none the `padding` in front; keeps their keys and
    values per row."""

    padding: Int[Array, ""] | int = 0

    def attend(
        self, sight: Sight, query: Heads, keys: Heads, values: Heads
    ) -> tuple[Heads, KeyValue]:
        keys, values = _rows(keys), _rows(values)
        num_tokens = query.shape[2]
        seen = jnp.arange(num_tokens, dtype=jnp.int32) >= self.padding
        visible = sight.sees(distances(num_tokens)) & seen[None]
        mixed = attend_causally(query, keys, values, visible, cap=sight.cap)
        return mixed, (keys, values)


@dataclasses.dataclass(frozen=True)
class AfterPrompt:
    """The new tokens see a prompt and each other, causally."""

    prompt: PromptCache

    def attend(self, sight: Sight, query: Heads, keys: Heads, values: Heads) -> tuple[Heads, None]:
        keys, values = _rows(keys), _rows(values)
        num_tokens = query.shape[2]
        visible = sight.sees(distances(num_tokens))
        shared = self.prompt.shared(sight, jnp.arange(num_tokens, dtype=jnp.int32))
        return attend_causally(query, keys, values, visible, shared, sight.cap), None


@dataclasses.dataclass(frozen=True)
class NextToken:
    """One new token per particle is written into the cache and sees it, and the prompt."""

    prompt: PromptCache
    layers: tuple[KeyValue, ...]
    step: Int[Array, ""]

    def attend(
        self, sight: Sight, query: Heads, keys: Heads, values: Heads
    ) -> tuple[Heads, KeyValue]:
        cached_keys, cached_values = self.layers[sight.layer]
        keys = lax.dynamic_update_slice_in_dim(cached_keys, _rows(keys), self.step, axis=2)
        values = lax.dynamic_update_slice_in_dim(cached_values, _rows(values), self.step, axis=2)
        position = jnp.arange(keys.shape[2], dtype=jnp.int32)
        visible = sight.sees(self.step - position)[None]
        shared = self.prompt.shared(sight, self.step[None])
        mixed = attend(query, keys, values, visible, shared, sight.cap)
        return mixed, (keys, values)


def _rows(x: Heads) -> Float[Array, "R heads T head_dim"]:
    """One row per particle, positions behind heads."""
    return x.reshape(-1, *x.shape[2:]).swapaxes(1, 2)
