"""Attention of a few new positions over a shared prompt and over each particle's own tokens."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from bayesft.lm.activations import soft_cap

MASKED = -1e30
"""Score of a masked position: finite, so that a fully masked row has no NaN."""
SMALLEST_BLOCK, MOST_BLOCKS = 64, 4
"""Queries per block of causal attention, and blocks: four leave out three eighths of the scores."""


@dataclasses.dataclass(frozen=True)
class Sight:
    """How a layer attends: its number, how many positions it sees, and the cap of its scores."""

    layer: int
    window: int | None = None
    cap: float | None = None

    def sees(self, distance: Int[Array, "*shape"]) -> Bool[Array, "*shape"]:
        """Whether a query sees a key that stands this many positions before it."""
        past = distance >= 0
        return past if self.window is None else past & (distance < self.window)


@dataclasses.dataclass(frozen=True)
class Shared:
    """Keys and values of a prompt, without a particle axis, and which of them a query sees.

    Particles see the same of their prompt, and so do queries where `visible` has one row for all.
    """

    keys: Float[Array, "P heads S head_dim"]
    values: Float[Array, "P heads S head_dim"]
    visible: Bool[Array, "P q S"]


def attend(
    query: Float[Array, "P N Q heads_q head_dim"],
    keys: Float[Array, "R heads T head_dim"],
    values: Float[Array, "R heads T head_dim"],
    visible: Bool[Array, "Q T"],
    shared: Shared | None = None,
    cap: float | None = None,
) -> Float[Array, "P N Q heads_q head_dim"]:
    """softmax(q kᵀ) v over the own positions and the prompt's that are visible.

    Own keys have one row per particle, R = P · N; the query is scaled already. One softmax runs
    over both parts without putting them together, so that the prompt is read once for all of its
    particles, as one large product.
    """
    num_prompts, num_particles, num_queries, _, head_dim = query.shape
    heads = keys.shape[1]
    rows = num_prompts * num_particles
    # Query heads that share a key head stand together with the queries: r heads (group Q) d.
    own_query = query.reshape(rows, num_queries, heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    group = own_query.shape[2]
    own_query = own_query.reshape(rows, heads, group * num_queries, head_dim)
    part = _part(own_query, keys, values, jnp.tile(visible, (group, 1))[None, None], cap)
    if shared is not None:
        prompt_query = _to_prompts(own_query, num_prompts)
        mask = shared.visible[:, None]
        if mask.shape[2] > 1:
            mask = jnp.tile(mask, (1, 1, num_particles * group, 1))
        prompt = _part(prompt_query, shared.keys, shared.values, mask, cap)
        part = _join(part, jax.tree.map(lambda x: _to_rows(x, rows), prompt))
    _, total, mixed = part
    mixed = (mixed / total).astype(query.dtype)
    mixed = mixed.reshape(rows, heads, group, num_queries, head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(query.shape)


def attend_causally(
    query: Float[Array, "P N T heads_q head_dim"],
    keys: Float[Array, "R heads T head_dim"],
    values: Float[Array, "R heads T head_dim"],
    visible: Bool[Array, "T T"],
    shared: Shared | None = None,
    cap: float | None = None,
) -> Float[Array, "P N T heads_q head_dim"]:
    """`attend` where no query sees a later key: in blocks of queries, over the keys up to each."""
    num_tokens = query.shape[2]
    size = max(SMALLEST_BLOCK, -(-num_tokens // MOST_BLOCKS))
    blocks = []
    for start in range(0, num_tokens, size):
        end = min(start + size, num_tokens)
        seen = shared
        if shared is not None and shared.visible.shape[1] > 1:
            seen = dataclasses.replace(shared, visible=shared.visible[:, start:end])
        own = keys[:, :, :end], values[:, :, :end], visible[start:end, :end]
        blocks.append(attend(query[:, :, start:end], *own, seen, cap))
    return jnp.concatenate(blocks, axis=2)


class _Part(NamedTuple):
    """Softmax over some of the positions: the largest score, Σ e^(score − top), Σ e^(…) v."""

    top: Float[Array, "rows heads queries 1"]
    total: Float[Array, "rows heads queries 1"]
    mixed: Float[Array, "rows heads queries head_dim"]


def _part(query: Array, keys: Array, values: Array, mask: Array, cap: float | None) -> _Part:
    scores = jnp.einsum("rhqd,rhtd->rhqt", query, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, soft_cap(scores, cap), MASKED)
    top = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - top)
    mixed = jnp.einsum(
        "rhqt,rhtd->rhqd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32
    )
    return _Part(top, weights.sum(-1, keepdims=True), mixed)


def _join(a: _Part, b: _Part) -> _Part:
    """Softmax over the positions of both; a part that is masked entirely adds exactly nothing."""
    top = jnp.maximum(a.top, b.top)
    of_a, of_b = jnp.exp(a.top - top), jnp.exp(b.top - top)
    return _Part(top, a.total * of_a + b.total * of_b, a.mixed * of_a + b.mixed * of_b)


def _to_prompts(x: Array, num_prompts: int) -> Array:
    """[P · N, heads, queries, d] as [P, heads, N · queries, d]."""
    rows, heads, queries, last = x.shape
    split = x.reshape(num_prompts, rows // num_prompts, heads, queries, last)
    return split.swapaxes(1, 2).reshape(num_prompts, heads, -1, last)


def _to_rows(x: Array, rows: int) -> Array:
    """[P, heads, N · queries, d] as [P · N, heads, queries, d]."""
    num_prompts, heads, _, last = x.shape
    split = x.reshape(num_prompts, heads, rows // num_prompts, -1, last)
    return split.swapaxes(1, 2).reshape(rows, heads, -1, last)


def distances(num_positions: int) -> Int[Array, "T T"]:
    """How many positions each position (column) stands before each other (row)."""
    position = jnp.arange(num_positions, dtype=jnp.int32)
    return position[:, None] - position[None]
