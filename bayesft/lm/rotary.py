"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), in the half-split layout."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by `factor` (Chen et al. 2023, arXiv:2306.15595)."""

    factor: float

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        return frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_max_positions: int

    def scale(self, frequencies: np.ndarray) -> np.ndarray:
        turns = self.original_max_positions * frequencies / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / self.factor


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotation of pairs of a head's first `size` dimensions by position · frequency."""

    theta: float
    size: int
    scaling: LinearScaling | Llama3Scaling | None = None

    def frequencies(self) -> np.ndarray:
        """Angles per position, [size / 2]."""
        exponents = np.arange(0, self.size, 2, dtype=np.float64) / self.size
        frequencies = self.theta**-exponents
        return frequencies if self.scaling is None else self.scaling.scale(frequencies)

    def rotation(self, positions: Int[Array, "*shape"]) -> Rotation:
        """Cosines and sines at the positions, computed once for all layers and heads."""
        frequencies = jnp.asarray(self.frequencies(), jnp.float32)
        angles = jnp.expand_dims(positions.astype(jnp.float32), -1) * frequencies.reshape(
            (1,) * positions.ndim + (-1,)
        )
        return Rotation(jnp.cos(angles), jnp.sin(angles))


@dataclasses.dataclass(frozen=True)
class Rotation:
    """cos and sin of the angles, [*shape, size / 2], where shape broadcasts to the tokens'."""

    cos: Float[Array, "*shape half"]
    sin: Float[Array, "*shape half"]

    def apply(self, x: Float[Array, "*tokens heads head_dim"]) -> Array:
        """x with the pairs (i, i + size/2) of every head rotated, in float32; the rest as it is."""
        cos, sin = jnp.expand_dims(self.cos, -2), jnp.expand_dims(self.sin, -2)
        half = cos.shape[-1]
        first, second, rest = jnp.split(x.astype(jnp.float32), [half, 2 * half], axis=-1)
        rotated = (first * cos - second * sin, second * cos + first * sin)
        rotated = rotated if not rest.shape[-1] else (*rotated, rest)
        return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
