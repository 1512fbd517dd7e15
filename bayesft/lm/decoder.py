"""The decoder, one forward pass for every use: what differs is the context that attention sees."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bayesft.errors import GuideError
from bayesft.lm.activations import FUNCTIONS
from bayesft.lm.architecture import Activation, Architecture
from bayesft.lm.attention import Sight
from bayesft.lm.linear import Adapter, Factor, Linear
from bayesft.lm.log_probs import logits_of
from bayesft.lm.norm import Norm
from bayesft.lm.products import AsDots
from bayesft.lm.rotary import Rotation
from bayesft.sharding import gathered

type LinearMaker = Callable[[tuple[str, str]], Linear]
type Heads = Float[Array, "P N T heads head_dim"]
type RematPolicy = Callable[..., Any]
"""A member of `jax.checkpoint_policies`: which intermediates the backward pass finds stored."""

PRODUCTS: RematPolicy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
"""Products with weights are stored and what is between them runs again: less than half the memory,
in no more time, for reading back what was stored costs as much."""


def require_policy(policy: Any) -> RematPolicy | None:
    """The policy, or None, which stores everything; raises GuideError for anything else."""
    if policy is not None and not callable(policy):
        raise GuideError(
            f"{policy!r} is no policy of what the backward pass finds stored.",
            cause="the name of a policy instead of the policy.",
            remedy="give a member of jax.checkpoint_policies, such as "
            "jax.checkpoint_policies.nothing_saveable, or None to store everything.",
        )
    return policy


class Context(Protocol):
    """Where attention finds keys and values: the new tokens, a prompt, a cache."""

    def attend(self, sight: Sight, query: Heads, keys: Heads, values: Heads) -> tuple[Heads, Any]:
        """Attention of the new tokens of a layer, and what the context keeps of their keys."""
        ...


class Attention(nnx.Module):
    """Multi-head attention with grouped keys (arXiv:2305.13245)."""

    def __init__(self, architecture: Architecture, layer: int, make: LinearMaker):
        self.query_key_value = make(("attention", "query_key_value"))
        self.output = make(("attention", "output"))
        self.num_heads = architecture.num_heads
        self.num_key_heads = architecture.num_key_heads
        self.head_dim = architecture.head_dim
        self.interleaved = architecture.interleaved
        self.scale = architecture.attention_scale
        self.sight = Sight(layer, architecture.windows[layer], architecture.score_cap)
        widths = architecture.query_key_norm_widths
        self.query_norm, self.key_norm = (
            (None, None) if widths is None else (_norm(architecture, width) for width in widths)
        )

    def __call__(self, x: Array, rotation: Rotation | None, context: Context) -> tuple[Array, Any]:
        heads = self._heads(x)
        rotated, values = jnp.split(heads, [self.num_heads + self.num_key_heads], axis=-2)
        if self.query_norm is not None and self.key_norm is not None:
            query, keys = jnp.split(rotated, [self.num_heads], axis=-2)
            parts = (_over_groups(self.query_norm, query), _over_groups(self.key_norm, keys))
            rotated = jnp.concatenate(parts, axis=-2)
        if rotation is not None:
            rotated = rotation.apply(rotated)
        query, keys = jnp.split(rotated, [self.num_heads], axis=-2)
        mixed, kept = context.attend(self.sight, query * self.scale, keys, values)
        return self.output(mixed.reshape(*x.shape[:-1], -1)), kept

    def _heads(self, x: Array) -> Array:
        """Queries, keys and values as heads, in this order."""
        heads = self.query_key_value(x)
        if self.interleaved:
            heads = heads.reshape(*x.shape[:-1], self.num_heads, 3, self.head_dim).swapaxes(-3, -2)
        return heads.reshape(*x.shape[:-1], -1, self.head_dim)


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
    """y = x + post(attention(norm x)), then y + post(mlp(norm y)), or y + post(mlp(norm x)).

    Of the norms before and after, each is there or not; the last form is the parallel one.
    """

    def __init__(self, architecture: Architecture, layer: int, make: LinearMaker):
        names = architecture.names

        def norm(name: str | None) -> Norm | None:
            return None if name is None else _norm(architecture, architecture.width)

        self.attention_norm = norm(names.attention_norm)
        self.attention = Attention(architecture, layer, make)
        self.attention_post_norm = norm(names.attention_post_norm)
        self.mlp_norm = norm(names.mlp_norm)
        self.mlp = Mlp(architecture, make)
        self.mlp_post_norm = norm(names.mlp_post_norm)
        self.parallel = architecture.parallel

    def __call__(self, x: Array, rotation: Rotation | None, context: Context) -> tuple[Array, Any]:
        mixed, kept = self.attention(_normed(self.attention_norm, x), rotation, context)
        y = x + _normed(self.attention_post_norm, mixed)
        changed = self.mlp(_normed(self.mlp_norm, x if self.parallel else y))
        return y + _normed(self.mlp_post_norm, changed), kept


class Decoder(nnx.Module):
    """Embedding, blocks (unrolled), final norm, and a head that may be the embedding."""

    def __init__(
        self,
        architecture: Architecture,
        adapter: Adapter | None = None,
        remat: RematPolicy | None = None,
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
        learned = architecture.names.positions is not None
        self.positions = table(architecture.max_positions) if learned else None
        layers = range(architecture.num_layers)
        self.layers = nnx.List([Block(architecture, layer, make) for layer in layers])
        self.final_norm = _norm(architecture, architecture.width)
        self.head = None if architecture.tied else table(architecture.vocab_size)
        self.ropes = architecture.ropes
        self.embedding_scale = architecture.embedding_scale
        self.logit_cap = architecture.logit_cap
        self.remat = remat

    @property
    def output_rows(self) -> Float[Array, "V D"]:
        """The head's weights, one row per token."""
        return gathered((self.embedding if self.head is None else self.head)[...])

    def hidden(
        self,
        tokens: Int[Array, "P N T"],
        positions: Int[Array, "p n T"],
        context: Context,
        soft: Float[Array, "P N S D"] | None = None,
    ) -> tuple[Float[Array, "P N T D"], tuple[Any, ...]]:
        """Normed hidden states of the new tokens, and what the context keeps of each layer.

        Positions broadcast to the tokens: sines are computed once where rows share a position.
        A `soft` prompt stands before the tokens, which then are S more, positions included.
        """
        x = gathered(self.embedding[...]).at[tokens].get(mode="clip")
        if soft is not None:
            x = jnp.concatenate([soft.astype(x.dtype), x], axis=2)
        if self.embedding_scale != 1.0:
            x = x * jnp.asarray(self.embedding_scale, x.dtype)
        if self.positions is not None:
            x = x + gathered(self.positions[...]).at[positions].get(mode="clip")
        # Layers that turn by the same angles share them.
        ropes = dict.fromkeys(self.ropes)
        rotations = {rope: None if rope is None else rope.rotation(positions) for rope in ropes}
        kept = []
        for rope, block in zip(self.ropes, self.layers, strict=True):
            run = functools.partial(block, rotation=rotations[rope], context=context)
            if self.remat is not None:
                run = jax.checkpoint(run, policy=AsDots(self.remat))
            x, keys = run(x)
            kept.append(keys)
        return self.final_norm(x), tuple(kept)

    def logits(self, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """Unnormalised log-probabilities of the next token, in float32."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        scores = logits_of(flat, self.output_rows, self.logit_cap)
        return scores.reshape(*hidden.shape[:-1], scores.shape[-1])


def _norm(architecture: Architecture, width: int) -> Norm:
    return Norm(width, architecture.norm, architecture.norm_epsilon, architecture.norm_offset)


def _normed(norm: Norm | None, x: Array) -> Array:
    return x if norm is None else norm(x)


def _over_groups(norm: Norm, heads: Array) -> Array:
    """Norms each head where the norm is as wide as a head, all heads together where it is wider."""
    width = norm.scale.shape[0]
    return norm(heads.reshape(*heads.shape[:-2], -1, width)).reshape(heads.shape)


@functools.cache
def structure(
    architecture: Architecture,
    adapter: Adapter | None = None,
    remat: RematPolicy | None = None,
) -> tuple[nnx.GraphDef[Decoder], Any, Any]:
    """Graph of a decoder and the shapes of its base weights and of its factors, as plain dicts."""
    decoder = nnx.eval_shape(lambda: Decoder(architecture, adapter, remat, rngs=nnx.Rngs(0)))
    graph, factors, weights = nnx.split(decoder, Factor, ...)
    return graph, nnx.to_pure_dict(weights), nnx.to_pure_dict(factors)
