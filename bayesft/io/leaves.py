"""Pytrees as flat dicts of plain arrays, which is what checkpoints hold."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from bayesft.base import PyTree


def described(tree: PyTree) -> dict[str, str]:
    """Shape and dtype of every leaf by its path, as in {".params['w']": "float32[3, 4]"}."""
    paths, _ = tree_flatten_with_path(tree)
    return {keystr(path): f"{_array(a).dtype}{list(jnp.shape(a))}" for path, a in paths}


def arrays(tree: PyTree) -> dict[str, jax.Array]:
    """The leaves by number: keys as their data, and those without elements left out."""
    found = [_data(_array(leaf)) for leaf in jax.tree.leaves(tree)]
    return {f"{i:05d}": array for i, array in enumerate(found) if array.size}


def for_all(found: dict[str, jax.Array]) -> dict[str, jax.Array | np.ndarray]:
    """Arrays as several processes save them together: those that each has for itself, all being
    alike, as numpy's, which Orbax takes from one of them."""
    return {
        name: np.array(array) if array.is_fully_addressable else array
        for name, array in found.items()
    }


def rebuilt(like: PyTree, found: dict[str, Any]) -> PyTree:
    """The tree of that structure whose `arrays` were found."""
    leaves, structure = jax.tree.flatten(like)
    return structure.unflatten(
        [_as(leaf, found.get(f"{i:05d}", leaf)) for i, leaf in enumerate(map(_array, leaves))]
    )


def _array(leaf: Any) -> jax.Array:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as(leaf: jax.Array, found: Any) -> jax.Array:
    if found is leaf:
        return leaf
    # An array bound to its device would compile anew what was compiled for one that is not.
    found = found if leaf.committed else jnp.asarray(np.asarray(found))
    if not _is_key(leaf):
        return found
    return jax.random.wrap_key_data(found, impl=jax.random.key_impl(leaf))
