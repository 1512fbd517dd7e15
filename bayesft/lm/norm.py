"""Normalisation layers, computed in float32 whatever the weights' dtype."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float


class Norm(nnx.Module):
    """RMS norm (arXiv:1910.07467), or layer norm, which also subtracts the mean and adds a bias.

    The scale may be stored as its distance from an offset.
    """

    def __init__(self, width: int, kind: str, epsilon: float, offset: float = 0.0):
        self.scale = nnx.Param(jnp.full(width, 1.0 - offset, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if kind == "layer" else None
        self.epsilon = epsilon
        self.offset = offset

    def __call__(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        wide = x.astype(jnp.float32)
        if self.bias is not None:
            wide = wide - wide.mean(-1, keepdims=True)
        y = wide * lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        scale = _row(self.scale[...], x.ndim)
        y = y * (scale + self.offset if self.offset else scale)
        if self.bias is not None:
            y = y + _row(self.bias[...], x.ndim)
        return y.astype(x.dtype)


def _row(vector: Float[Array, " width"], ndim: int) -> Array:
    return vector.astype(jnp.float32).reshape((1,) * (ndim - 1) + (-1,))
