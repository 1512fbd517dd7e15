"""N-gram model, fitted by counting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bayesft.base import Prompt
from bayesft.errors import TargetError
from bayesft.priors import corpus
from bayesft.priors.stepped import SteppedPrior

MAX_TABLE = 1 << 26
"""Entries of the table, 256 MiB in float32."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ngram(SteppedPrior):
    """π(y | x) = Π_t p(y_t | y_{t-n+1}, …, y_{t-1}); the prompt comes first, EOS before it."""

    logits: Float[Array, "*contexts V"]
    """[V] * order: one row for every context of order - 1 tokens."""
    eos: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    vocabulary: tuple[str, ...] | None = dataclasses.field(metadata={"static": True})

    @property
    def vocab_size(self) -> int:
        return self.logits.shape[-1]

    def init(self, x: Prompt):
        num_context = self.logits.ndim - 1
        if x.tokens.shape[-1] == 0:
            context = jnp.full((num_context,), self.eos[0], jnp.int32)
        else:
            at = x.length - num_context + jnp.arange(num_context)
            context = jnp.where(at >= 0, x.tokens[jnp.maximum(at, 0)], self.eos[0])
        return context, self.logits[tuple(context)]

    def step(self, state: Int[Array, " context"], token: Int[Array, ""]):
        context = jnp.concatenate([state, token[None].astype(state.dtype)])[1:]
        return context, self.logits[tuple(context)]


def ngram(
    sequences: Sequence[str] | Sequence[Sequence[int]],
    *,
    order: int = 2,
    smoothing: float = 1.0,
    vocabulary: Sequence[str] | None = None,
    vocab_size: int | None = None,
    eos: int | Sequence[int] | None = None,
) -> Ngram:
    """N-gram model of texts or token-id lists, each of which ends with EOS (appended if need be):

        p(v | context) = (count(context, v) + smoothing) / (count(context) + smoothing · V)

    for contexts of `order` - 1 tokens; EOS stands before the start of a sequence. A context that
    was never seen is uniform, also without smoothing; smoothing 0 is maximum likelihood.

    Texts are split into `vocabulary`, the text of each of V tokens (its one empty text is EOS,
    unless `eos` is given); without one their characters are the vocabulary, and EOS its last token.
    Token ids need `vocab_size` (or `vocabulary`) and `eos`.

    Raises TargetError for an order below 1, a negative smoothing, a table of V^order entries that
    is too large, or an open vocabulary; PromptError for what cannot be written in it.
    """
    rows = corpus.require_sequences(sequences, "sequences")
    if isinstance(rows[0], str) and vocabulary is None:
        declared = corpus.characters(rows)
    else:
        declared = corpus.declare(vocabulary, vocab_size, eos)
    size = declared.size
    if order < 1 or not 0 <= smoothing < math.inf or size**order > MAX_TABLE:
        raise TargetError(
            f"order={order}, smoothing={smoothing} and {size} tokens make no n-gram model.",
            cause=f"a setting out of range, or a table of more than {MAX_TABLE} entries (V^order).",
            remedy="use a lower order, or a smaller vocabulary; 0 ≤ smoothing < inf.",
        )
    counts = np.full((size,) * order, smoothing, np.float64)
    for ids in corpus.tokenize(rows, declared):
        padded = np.asarray([declared.eos[0]] * (order - 1) + ids)
        windows = np.lib.stride_tricks.sliding_window_view(padded, order)
        np.add.at(counts, tuple(windows.T), 1.0)
    counts[counts.sum(-1) == 0] = 1.0
    with np.errstate(divide="ignore"):  # log 0 = -inf: never seen, without smoothing
        logits = np.log(counts / counts.sum(-1, keepdims=True))
    return Ngram(jnp.asarray(logits, jnp.float32), declared.eos, declared.names)
