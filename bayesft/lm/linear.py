"""Linear maps that share an input, fused into one product, with low-rank factors per map."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Slot:
    """One of the maps: the module's name in a checkpoint, and its number of outputs."""

    name: str
    size: int


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): W + scale · A B on the named slots."""

    rank: int
    scale: float
    slots: tuple[str, ...]


class Factor(nnx.Variable):
    """An array of a low-rank factor: the trainable part of an adapted decoder."""


class Factors(nnx.Module):
    """A [in, rank], normal so that A's outputs keep the input's scale, and B [rank, out], zero."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, rngs: nnx.Rngs):
        self.a = Factor(jax.random.normal(rngs.params(), (inputs, rank)) * inputs**-0.5)
        self.b = Factor(jnp.zeros((rank, outputs), jnp.float32))


class Linear(nnx.Module):
    """x @ kernel + bias for several slots in one product; the outputs are concatenated.

    Kernels are [in, out] and start normal with standard deviation `deviation`, biases at zero.
    """

    def __init__(
        self,
        inputs: int,
        slots: tuple[Slot, ...],
        *,
        bias: bool,
        deviation: float,
        adapter: Adapter | None,
        rngs: nnx.Rngs,
    ):
        outputs = sum(slot.size for slot in slots)
        kernel = jax.random.normal(rngs.params(), (inputs, outputs), jnp.float32)
        self.kernel = nnx.Param(kernel * deviation)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.slots = slots
        self.scale = adapter.scale if adapter else 0.0
        adapted = {s for s in slots if adapter and s.name in adapter.slots}
        self.factors = nnx.List(
            [
                Factors(inputs, slot.size, adapter.rank, rngs=rngs)
                if adapter and slot in adapted
                else None
                for slot in slots
            ]
        )

    def __call__(self, x: Float[Array, "*rows in"]) -> Float[Array, "*rows out"]:
        flat = x.reshape(-1, x.shape[-1])
        y = flat @ self.kernel[...]
        if self.bias is not None:
            y = y + self.bias[...][None]
        if any(factors is not None for factors in self.factors):
            y = y + self._low_rank(flat)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _low_rank(self, x: Float[Array, "rows in"]) -> Float[Array, "rows out"]:
        """Σ over slots of scale · (x A) B, with one product for all A."""
        present = [factors for factors in self.factors if factors is not None]
        inner = self.scale * (x @ jnp.concatenate([f.a[...].astype(x.dtype) for f in present], 1))
        inner = iter(jnp.split(inner, len(present), axis=1))
        return jnp.concatenate(
            [
                jnp.zeros((x.shape[0], slot.size), x.dtype)
                if factors is None
                else next(inner) @ factors.b[...].astype(x.dtype)
                for slot, factors in zip(self.slots, self.factors, strict=True)
            ],
            axis=1,
        )
