"""What a decoder is made of, as static data: sizes, kinds of layers, names of its weights."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bayesft.lm.rotary import Rope

type Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclasses.dataclass(frozen=True)
class Names:
    """Where a checkpoint keeps each part: module names as transformers spells them.

    The modules of a layer are relative to `layer`. Several names for one part mean that the
    checkpoint keeps separately what the decoder computes in one product; None means that a model
    of the family has no such part.
    """

    base: str
    embedding: str
    positions: str | None
    """The learned position embedding."""
    layer: str
    attention_norm: str | None
    query_key_value: tuple[str, ...]
    attention_output: str
    mlp_norm: str | None
    up: tuple[str, ...]
    down: str
    final_norm: str
    query_norm: str | None = None
    key_norm: str | None = None
    attention_post_norm: str | None = None
    """A norm of what attention adds to the residual stream."""
    mlp_post_norm: str | None = None
    head: str = "lm_head"
    kernels_are_transposed: bool = True
    """Whether kernels are stored [out, in], as torch's Linear does, or [in, out] (Conv1D)."""
    ignored: tuple[str, ...] = ()
    """Patterns of tensors that hold no parameters (buffers of old checkpoints)."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """A linear map of the checkpoint: its name and its share of a projection's outputs."""

    name: str
    start: int
    size: int

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclasses.dataclass(frozen=True)
class Projection:
    """Linear maps of the checkpoint that share an input, computed in one product."""

    inputs: int
    slots: tuple[Slot, ...]
    bias: bool

    @property
    def outputs(self) -> int:
        return sum(slot.size for slot in self.slots)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer; hashable, so it can be static under jit."""

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
    ropes: tuple[Rope | None, ...]
    """Rotary positions of each layer; None means that its queries and keys are not rotated."""
    windows: tuple[int | None, ...]
    """How many tokens each layer sees, the new one included; None means all of them."""
    attention_scale: float
    """What query-key products are multiplied by."""
    tied: bool
    """Whether the head is the embedding."""
    names: Names
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: Literal["head", "projection"] | None = None
    """Whether queries and keys are normed before they are rotated: each head alone, or all."""
    interleaved: bool = False
    """Whether a fused projection holds q, k, v head by head, not all queries first."""
    parallel: bool = False
    """Whether the MLP reads what attention reads, not what attention returns."""
    norm_offset: float = 0.0
    """What is added to the stored scale of every norm."""
    embedding_scale: float = 1.0
    score_cap: float | None = None
    """Attention scores s become cap · tanh(s / cap) before the softmax."""
    logit_cap: float | None = None
    """The same for the logits."""

    @property
    def query_key_norm_widths(self) -> tuple[int, int] | None:
        """How many outputs the norms of queries and of keys take together."""
        match self.query_key_norm:
            case None:
                return None
            case "head":
                return self.head_dim, self.head_dim
            case "projection":
                return self.num_heads * self.head_dim, self.num_key_heads * self.head_dim

    @property
    def projections(self) -> dict[tuple[str, str], Projection]:
        """The linear maps of a layer by their place in it."""
        names, width = self.names, self.width
        query, key = self.num_heads * self.head_dim, self.num_key_heads * self.head_dim
        mlp = (self.mlp_width,) * (2 if self.gated else 1)
        return {
            ("attention", "query_key_value"): Projection(
                width, _slots(names.query_key_value, (query, key, key)), self.attention_bias
            ),
            ("attention", "output"): Projection(
                query, _slots((names.attention_output,), (width,)), self.output_bias
            ),
            ("mlp", "up"): Projection(width, _slots(names.up, mlp), self.mlp_bias),
            ("mlp", "down"): Projection(
                self.mlp_width, _slots((names.down,), (width,)), self.mlp_bias
            ),
        }

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the linear maps of a layer, relative to it."""
        return tuple(slot.name for p in self.projections.values() for slot in p.slots)


def _slots(names: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[Slot, ...]:
    """One slot per name; a single name for several parts is their concatenation."""
    sizes = sizes if len(names) == len(sizes) else (sum(sizes),)
    starts = (sum(sizes[:index]) for index in range(len(sizes)))
    return tuple(Slot(*slot) for slot in zip(names, starts, sizes, strict=True))
