"""Linear maps that share an input, fused into one product, with low-rank factors per map."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bayesft.lm.architecture import Projection
from bayesft.lm.products import rows_product
from bayesft.sharding import gathered, product


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): W + scale · A B on the named slots.

    The scale is alpha / rank, or alpha / √rank if rank-stabilised (arXiv:2312.03732).
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    slots: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


def full(kernel: Any) -> Array:
    """A kernel as an array: multiplied out, where it is stored in int8 (`quantize`)."""
    if isinstance(kernel, jax.Array):
        return kernel
    import qwix  # pyright: ignore[reportMissingImports]

    return qwix.dequantize(kernel)


class Factor(nnx.Variable):
    """An array of a low-rank factor: the trainable part of an adapted decoder."""


class Factors(nnx.Module):
    """A [in, rank] and B [rank, out]; `lora` draws A where training starts."""

    def __init__(self, inputs: int, outputs: int, rank: int):
        self.a = Factor(jnp.zeros((inputs, rank), jnp.float32))
        self.b = Factor(jnp.zeros((rank, outputs), jnp.float32))


class Linear(nnx.Module):
    """x @ kernel + bias for the slots of a projection in one product; the outputs are concatenated.

    Kernels are [in, out] and start normal with standard deviation `deviation`, biases at zero.
    """

    def __init__(
        self,
        projection: Projection,
        adapter: Adapter | None,
        *,
        deviation: float,
        rngs: nnx.Rngs,
    ):
        shape = (projection.inputs, projection.outputs)
        kernel = jax.random.normal(rngs.params(), shape, jnp.float32) * deviation
        self.kernel = nnx.Param(kernel)
        self.bias = (
            nnx.Param(jnp.zeros(projection.outputs, jnp.float32)) if projection.bias else None
        )
        self.slots = projection.slots
        self.scale = adapter.scale if adapter else 0.0
        self.factors = nnx.List(
            [
                Factors(projection.inputs, slot.size, adapter.rank)
                if adapter and slot.name in adapter.slots
                else None
                for slot in projection.slots
            ]
        )

    def __call__(self, x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
        flat = x.reshape(-1, x.shape[-1])
        y = product(flat, self.kernel.get_value(), _times)
        if self.bias is not None:
            y = y + self.bias[...][None]
        if any(factors is not None for factors in self.factors):
            y = y + self._low_rank(flat)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _low_rank(self, x: Float[Array, "rows in"]) -> Float[Array, "rows out"]:
        """Σ over slots of scale · (x A) B, with one product for all A."""
        present = [factors for factors in self.factors if factors is not None]
        all_a = jnp.concatenate([_factor(f.a, x) for f in present], 1)
        inner = self.scale * rows_product(x, all_a)
        inner = iter(jnp.split(inner, len(present), axis=1))
        return jnp.concatenate(
            [
                jnp.zeros((x.shape[0], slot.size), x.dtype)
                if factors is None
                else rows_product(next(inner), _factor(factors.b, x))
                for slot, factors in zip(self.slots, self.factors, strict=True)
            ],
            axis=1,
        )


def _times(x: Array, kernel: Any) -> Array:
    return rows_product(x, full(kernel))


def _factor(factor: Factor, x: Array) -> Array:
    return gathered(factor[...].astype(x.dtype))
