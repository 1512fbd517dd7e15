"""Rows: prompts × particles (or lanes), each of which a model runs on by itself."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import PartitionSpec

from bayesft.errors import MeshError
from bayesft.sharding.mesh import axis_sizes, is_set, num_shares

type Axes = tuple[str, ...]


def split(tree: Any) -> Any:
    """Leaves [P, N, ...] split over the mesh, as far as they divide."""
    if not is_set():
        return tree
    return jax.tree.map(lambda a: _constrained(a, *axes_of(*a.shape[:2])), tree)


def split_prompts(tree: Any, num_particles: int) -> Any:
    """Leaves [P, ...] split as the prompts of [P, N] are."""
    if not is_set():
        return tree
    return jax.tree.map(lambda a: _constrained(a, axes_of(a.shape[0], num_particles)[0]), tree)


def split_rows(tree: Any) -> Any:
    """Leaves with all P · N rows on the first axis, in this order, split along it."""
    if not is_set():
        return tree
    return jax.tree.map(lambda a: _constrained(a, axes_of(a.shape[0], 1)[0]), tree)


def join(tree: Any) -> Any:
    """Leaves known on every device, all rows of them."""
    return jax.tree.map(_constrained, tree) if is_set() else tree


def axes_of(num_prompts: int, num_particles: int) -> tuple[Axes, Axes]:
    """The axes of the mesh that prompts and particles are split over; none where they do not fit.

    A device holds neighbouring rows of [P · N], so that either each has whole prompts, or several
    share one prompt.
    """
    sizes = axis_sizes()
    names, counts = tuple(sizes), tuple(sizes.values())
    if num_prompts % math.prod(counts) == 0:
        return names, ()
    for number in range(len(names)):
        rest = math.prod(counts[number:])
        if math.prod(counts[:number]) == num_prompts and num_particles % rest == 0:
            return names[:number], names[number:]
    return (), ()


def splits(num_rows: int) -> bool:
    """Whether so many rows are spread over several devices."""
    return num_shares() > 1 and num_rows % num_shares() == 0


def require_split(num_prompts: int, num_particles: int, what: str) -> None:
    """Raise MeshError where rows do not divide: every device would run the models on all of them.

    Asked where their number is known for good; `split` also sees single rows that stand for all.
    """
    if num_shares() == 1 or any(axes_of(num_prompts, num_particles)):
        return
    shape = " × ".join(f"{count} ({name})" for name, count in axis_sizes().items())
    raise MeshError(
        f"{num_prompts} prompts × {num_particles} {what} cannot be split over a mesh of {shape} "
        "devices.",
        cause="a device takes whole prompts, or a share of one prompt's rows.",
        remedy=f"give a multiple of {num_shares()} prompts (prompts_per_step in a fit); or one "
        'prompt, or as many as the mesh has "data", with a multiple of the other devices as '
        f"{what}.",
    )


def _constrained(leaf: jax.Array, *axes: Axes) -> jax.Array:
    return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*axes))
