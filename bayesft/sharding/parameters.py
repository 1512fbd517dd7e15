"""Parameters: split over devices where they are kept, whole where they are used (ZeRO-3).

(Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054; Zhao et al. 2023,
https://arxiv.org/abs/2304.11277.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bayesft.sharding.mesh import PARAMETERS, axis_sizes, is_set

SMALLEST_SIDE = 64
"""Arrays with a shorter side (vectors, low-rank factors, small tables) are kept whole: gathering
them takes longer than the memory is worth."""


def spec_of(shape: tuple[int, ...]) -> PartitionSpec:
    """How an array of parameters is split: along its longest side that divides, if any."""
    size = axis_sizes().get(PARAMETERS, 1)
    sides = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or len(shape) < 2 or min(shape) < SMALLEST_SIDE or not sides:
        return PartitionSpec()
    longest = max(sides, key=lambda axis: shape[axis])
    return PartitionSpec(*(None,) * longest, PARAMETERS)


def place(tree: Any) -> Any:
    """Parameters, or an optimiser's state, put on the devices of the mesh that is set."""
    return jax.tree.map(_placed, tree) if is_set() else tree


def shard(tree: Any) -> Any:
    """The same inside jit: every array split as `place` would."""
    if not is_set():
        return tree
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, spec_of(a.shape)), tree)


def gathered(tree: Any) -> Any:
    """Parameters whole on every device; their gradient is split again as it is summed."""
    return jax.tree.map(_gather, tree) if is_set() else tree


def product(
    x: jax.Array, kernel: Any, multiply: Callable[[jax.Array, Any], jax.Array]
) -> jax.Array:
    """multiply(x, kernel), the kernel whole while it is used; the backward pass gathers it again.

    It travels as it is kept, in int8 for instance.
    """
    if not is_set():
        return multiply(x, kernel)
    return jax.checkpoint(lambda x, kernel: multiply(x, gathered(kernel)))(x, kernel)


@jax.custom_vjp
def _gather(array: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(array, PartitionSpec())


def _forward(array: jax.Array) -> tuple[jax.Array, None]:
    return _gather(array), None


def _backward(_: None, gradient: jax.Array) -> tuple[jax.Array]:
    # Sum and split are one collective then, a reduce-scatter, where the devices have it.
    return (jax.lax.with_sharding_constraint(gradient, spec_of(gradient.shape)),)


_gather.defvjp(_forward, _backward)


def _placed(array: Any) -> Any:
    if not isinstance(array, jax.Array | np.ndarray):
        return array
    # Tokens and tables of integers are wider than int8, in which kernels are kept.
    is_kernel = array.dtype == np.int8 or jnp.issubdtype(array.dtype, np.inexact)
    spec = spec_of(array.shape) if is_kernel else PartitionSpec()
    sharding = NamedSharding(jax.sharding.get_mesh(), spec)
    local = not isinstance(array, jax.Array) or array.is_fully_addressable
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    if sharding.is_fully_addressable or not local or is_key:
        return jax.device_put(array, sharding)
    # Every process has the whole array, and puts its own shares on its devices.
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
