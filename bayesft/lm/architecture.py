"""What a decoder is made of, as static data: sizes, kinds of layers, and the names of its weights."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bayesft.lm.rotary import Rope

type Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclasses.dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps each part: module names as transformers spells them.

    The modules of a layer are relative to `layer`. Several names for one part mean that the
    checkpoint keeps separately what the decoder computes in one product.
    """

    base: str
    embedding: str
    positions: str | None
    layer: str
    attention_norm: str
    query_key_value: tuple[str, ...]
    attention_output: str
    mlp_norm: str
    up: tuple[str, ...]
    down: str
    final_norm: str
    head: str = "lm_head"
    kernels_are_transposed: bool = True
    """Whether kernels are stored [out, in], as torch's Linear does, or [in, out] (Conv1D)."""
    ignored: tuple[str, ...] = ()
    """Patterns of tensors that hold no parameters (buffers of old checkpoints)."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer with pre-norm blocks; hashable, so it can be static under jit."""

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    mlp_width: int
    max_positions: int
    norm: Literal["rms", "layer"]
    norm_epsilon: float
    activation: Activation
    gated: bool
    rope: Rope | None
    """Rotary positions; None means a learned position embedding."""
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied: bool
    """Whether the head is the embedding."""
    names: Names

    @property
    def attention_scale(self) -> float:
        """What query-key products are multiplied by."""
        return self.head_dim**-0.5

    @property
    def query_key_value_sizes(self) -> tuple[int, ...]:
        """Output sizes of the modules in `names.query_key_value`."""
        key = self.num_key_heads * self.head_dim
        return _sizes(self.names.query_key_value, (self.num_heads * self.head_dim, key, key))

    @property
    def up_sizes(self) -> tuple[int, ...]:
        """Output sizes of the modules in `names.up`."""
        return _sizes(self.names.up, (self.mlp_width,) * (2 if self.gated else 1))


def _sizes(names: tuple[str, ...], parts: tuple[int, ...]) -> tuple[int, ...]:
    return parts if len(names) == len(parts) else (sum(parts),)
