"""Copies of rows across devices."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int

from bayesft.sharding.mesh import axis_sizes, num_shares

NUM_ROWS = 32
"""Rows that are under way at a time: enough to fill a link, few beside the rows of a device."""


def copy_rows(tree: Any, sources: Int[Array, " R"]) -> Any:
    """Leaves [R, ...], split along their rows, in which row r is what row sources[r] was.

    Only rows whose source is another row are written, and only those are sent. A row that is
    copied from must not be copied to: sources[sources[r]] == sources[r].
    """
    axes = tuple(axis_sizes())
    dead = sources != jnp.arange(sources.size, dtype=sources.dtype)
    targets = jnp.nonzero(dead, size=dead.size, fill_value=0)[0].astype(jnp.int32)
    split, whole = PartitionSpec(axes), PartitionSpec()
    run = jax.shard_map(
        functools.partial(_exchange, axes, sources.size // num_shares()),
        in_specs=(jax.tree.map(lambda _: split, tree), whole, whole, whole),
        out_specs=jax.tree.map(lambda _: split, tree),
        check_vma=False,
    )
    return run(tree, sources, targets, dead.sum(dtype=jnp.int32))


def _exchange(
    axes: tuple[str, ...],
    num_own: int,
    tree: Any,
    sources: Int[Array, " R"],
    targets: Int[Array, " R"],
    count: Int[Array, ""],
) -> Any:
    """On each device: owners offer the rows that are asked for, and all others offer zeros."""
    first = jax.lax.axis_index(axes) * num_own
    size = min(NUM_ROWS, sources.size)

    def own(rows: Array) -> Array:
        return (rows >= first) & (rows < first + num_own)

    def some(number: Array, tree: Any) -> Any:
        slots = number * size + jnp.arange(size, dtype=jnp.int32)
        target = targets[jnp.minimum(slots, targets.size - 1)]
        source = sources[target]
        offered = own(source) & (slots < count)
        taken = own(target) & (slots < count)
        place = jnp.where(taken, target - first, num_own)  # past the end: dropped

        def move(leaf: Array) -> Array:
            rows = leaf[jnp.clip(source - first, 0, num_own - 1)]
            mask = offered.reshape(-1, *(1,) * (leaf.ndim - 1))
            rows = jax.lax.psum(jnp.where(mask, rows, jnp.zeros_like(rows)), axes)
            return leaf.at[place].set(rows, mode="drop")

        return jax.tree.map(move, tree)

    return jax.lax.fori_loop(0, -(-count // size), some, tree)
