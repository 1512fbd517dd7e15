"""The decoder, one forward pass for every use: what differs is the context that attention sees."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bayesft.lm.activations import FUNCTIONS
from bayesft.lm.architecture import Activation, Architecture
from bayesft.lm.linear import Adapter, Factor, Linear
from bayesft.lm.norm import Norm
from bayesft.lm.rotary import Rotation

type LinearMaker = Callable[[tuple[str, str]], Linear]
type Heads = Float[Array, "P N T heads head_dim"]


class Context(Protocol):
    """Where attention finds keys and values: the new tokens, a prompt, a cache."""

    def attend(self, layer: int, query: Heads, keys: Heads, values: Heads) -> tuple[Heads, Any]:
        """Attention of the new tokens of a layer, and what the context keeps of their keys."""
        ...


class Attention(nnx.Module):
    """Multi-head attention with grouped keys (arXiv:2305.13245)."""

    def __init__(self, architecture: Architecture, make: LinearMaker):
        self.query_key_value = make(("attention", "query_key_value"))
        self.output = make(("attention", "output"))
        self.num_heads = architecture.num_heads
        self.num_key_heads = architecture.num_key_heads
        self.head_dim = architecture.head_dim
        self.scale = architecture.attention_scale

    def __call__(
        self, x: Array, rotation: Rotation | None, layer: int, context: Context
    ) -> tuple[Array, Any]:
        heads = self.query_key_value(x).reshape(*x.shape[:-1], -1, self.head_dim)
        rotated, values = jnp.split(heads, [self.num_heads + self.num_key_heads], axis=-2)
        if rotation is not None:
            rotated = rotation.apply(rotated)
        query, keys = jnp.split(rotated, [self.num_heads], axis=-2)
        mixed, kept = context.attend(layer, query * self.scale, keys, values)
        return self.output(mixed.reshape(*x.shape[:-1], -1)), kept


class Mlp(nnx.Module):
    """down(act(up x)), or down(act(gate x) · (up x)) (arXiv:2002.05202)."""

    def __init__(self, architecture: Architecture, make: LinearMaker):
        self.up = make(("mlp", "up"))
        self.down = make(("mlp", "down"))
        self.gated = architecture.gated
        self.activation: Activation = architecture.activation

    def __call__(self, x: Array) -> Array:
        hidden = self.up(x)
        activation = FUNCTIONS[self.activation]
        if self.gated:
            gate, up = jnp.split(hidden, 2, axis=-1)
            return self.down(activation(gate) * up)
        return self.down(activation(hidden))


class Block(nnx.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, architecture: Architecture, make: LinearMaker):
        norm = functools.partial(
            Norm, architecture.width, architecture.norm, architecture.norm_epsilon
        )
        self.attention_norm = norm()
        self.attention = Attention(architecture, make)
        self.mlp_norm = norm()
        self.mlp = Mlp(architecture, make)

    def __call__(
        self, x: Array, rotation: Rotation | None, layer: int, context: Context
    ) -> tuple[Array, Any]:
        mixed, kept = self.attention(self.attention_norm(x), rotation, layer, context)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), kept


class Decoder(nnx.Module):
    """Embedding, blocks (unrolled), final norm, and a head that may be the embedding."""

    def __init__(
        self,
        architecture: Architecture,
        adapter: Adapter | None = None,
        *,
        deviation: float = 0.02,
        rngs: nnx.Rngs,
    ):
        projections = architecture.projections

        def make(place: tuple[str, str]) -> Linear:
            return Linear(projections[place], adapter, deviation=deviation, rngs=rngs)

        def table(rows: int) -> nnx.Param:
            shape = (rows, architecture.width)
            return nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * deviation)

        self.embedding = table(architecture.vocab_size)
        self.positions = None if architecture.rope else table(architecture.max_positions)
        self.layers = nnx.List([Block(architecture, make) for _ in range(architecture.num_layers)])
        self.final_norm = Norm(architecture.width, architecture.norm, architecture.norm_epsilon)
        self.head = None if architecture.tied else table(architecture.vocab_size)
        self.rope = architecture.rope

    @property
    def output_rows(self) -> Float[Array, "V D"]:
        """The head's weights, one row per token."""
        return (self.embedding if self.head is None else self.head)[...]

    def hidden(
        self, tokens: Int[Array, "P N T"], positions: Int[Array, "p n T"], context: Context
    ) -> tuple[Float[Array, "P N T D"], tuple[Any, ...]]:
        """Normed hidden states of the new tokens, and what the context keeps of each layer.

        Positions broadcast to the tokens: sines are computed once where rows share a position.
        """
        x = self.embedding[...].at[tokens].get(mode="clip")
        if self.positions is not None:
            x = x + self.positions[...].at[positions].get(mode="clip")
        rotation = None if self.rope is None else self.rope.rotation(positions)
        kept = []
        for index, block in enumerate(self.layers):
            x, keys = block(x, rotation, index, context)
            kept.append(keys)
        return self.final_norm(x), tuple(kept)

    def logits(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Unnormalised log-probabilities of the next token, in float32."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        scores = jnp.matmul(flat, self.output_rows.T, preferred_element_type=jnp.float32)
        return scores.reshape(*hidden.shape[:-1], scores.shape[-1])


@functools.cache
def structure(
    architecture: Architecture, adapter: Adapter | None = None
) -> tuple[nnx.GraphDef[Decoder], Any, Any]:
    """Graph of a decoder and the shapes of its base weights and of its factors, as plain dicts."""
    decoder = nnx.eval_shape(lambda: Decoder(architecture, adapter, rngs=nnx.Rngs(0)))
    graph, factors, weights = nnx.split(decoder, Factor, ...)
    return graph, nnx.to_pure_dict(weights), nnx.to_pure_dict(factors)
