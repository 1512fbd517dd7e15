"""Log-probabilities of given tokens from hidden states, in memory that does not grow with T · V."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int

from bayesft.lm.activations import soft_cap
from bayesft.lm.products import rows_product

CHUNKS = (512, 4096)
"""Fewest and most rows of the head per chunk, a power of two; vocabularies up to the most are not
chunked."""
PRODUCTS = 2**21
"""Products of hidden states and rows held at a time, 8 MiB of float32, where CHUNKS allows."""


def log_probs_of(
    tokens: Int[Array, " T"],
    hidden: Float[Array, "T D"],
    rows: Float[Array, "V D"],
    cap: float | None = None,
    chunk: int | None = None,
) -> Float[Array, " T"]:
    """log softmax(hidden rowsᵀ)[tokens] in nats: hidden · rows[tokens] − log Σ_v exp(hidden · v).

    With a cap, every product is soft-capped first (`soft_cap`). Sums are in float32. `chunk` rows
    of the head are multiplied at a time, by default as many as `CHUNKS` and `PRODUCTS` allow for T
    tokens; lanes of a `vmap` multiply that memory.
    """
    fewest, most = CHUNKS
    if chunk is None and rows.shape[0] > most:
        fitting = PRODUCTS // hidden.shape[0]
        chunk = max(fewest, min(most, 1 << max(fitting.bit_length() - 1, 0)))
    if chunk is None or rows.shape[0] <= chunk:
        logits = logits_of(hidden, rows, cap)
        own = jnp.where(_are(tokens, 0, rows.shape[0]), logits, 0.0).sum(axis=-1)
        return own - jax.nn.logsumexp(logits, axis=-1)
    return _chunked(tokens, hidden, rows, cap, chunk)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _chunked(tokens: Array, hidden: Array, rows: Array, cap: float | None, chunk: int) -> Array:
    own, _ = _own(tokens, hidden, rows, cap)
    return own - _sums(hidden, rows, cap, chunk, sloped=False)[0]


# A tangent rule and not a custom_vjp, which would return one head gradient [V, D] for every lane
# that it is vmapped over: the transpose of a product sums over lanes inside it.
@functools.partial(_chunked.defjvp, symbolic_zeros=True)
def _chunked_jvp(cap: float | None, chunk: int, primals: tuple, tangents: tuple):
    """The derivative along the hidden states is had in the pass that sums, as in FlashAttention
    (arXiv:2205.14135); a head that is not differentiated costs nothing more."""
    tokens, hidden, rows = primals
    _, along_hidden, along_rows = tangents
    sloped = not isinstance(along_hidden, SymbolicZero)
    own, own_slope = _own(tokens, hidden, rows, cap)
    log_sum, slope = _sums(hidden, rows, cap, chunk, sloped)
    tangent = jnp.zeros_like(log_sum)
    if slope is not None:
        tangent += jnp.sum((own_slope - slope) * along_hidden, axis=-1)
    if not isinstance(along_rows, SymbolicZero):
        tangent += _along_rows(tokens, hidden, rows, along_rows, log_sum, cap, chunk)
    return own - log_sum, tangent


def _own(
    tokens: Array, hidden: Array, rows: Array, cap: float | None
) -> tuple[Float[Array, " T"], Float[Array, "T D"]]:
    """Logits of the tokens, and their derivatives along the hidden states."""
    own_rows = rows.at[tokens].get(mode="clip").astype(jnp.float32)
    logits = soft_cap(jnp.sum(hidden.astype(jnp.float32) * own_rows, axis=-1), cap)
    return logits, _bent(own_rows, logits[:, None], cap)


def _sums(
    hidden: Array, rows: Array, cap: float | None, chunk: int, sloped: bool
) -> tuple[Float[Array, " T"], Float[Array, "T D"] | None]:
    """log Σ_v exp(logit_v) and, if sloped, its derivative Σ_v softmax_v · cap'_v · rows[v].

    Both are running sums over chunks, relative to the largest logit so far.
    """
    num_rows, num_tokens = rows.shape[0], hidden.shape[0]

    def add(index: Array, sums: tuple) -> tuple:
        largest, total, slope = sums
        # Slices leave the head where it is. The last one starts early, to be of the same size.
        start = jnp.minimum(index * chunk, num_rows - chunk)
        part = lax.dynamic_slice_in_dim(rows, start, chunk)
        logits = logits_of(hidden, part, cap)
        if num_rows % chunk:
            fresh = start + jnp.arange(chunk, dtype=start.dtype) >= index * chunk
            logits = jnp.where(fresh[None], logits, -jnp.inf)
        top = jnp.maximum(largest, logits.max(axis=-1))
        weights = jnp.exp(logits - top[:, None])
        kept = jnp.exp(largest - top)
        total = total * kept + weights.sum(axis=-1)
        if sloped:
            # In the head's type, for the fast product; the sum is in float32.
            bent = _bent(weights, logits, cap).astype(part.dtype)
            more = jnp.matmul(bent, part, preferred_element_type=jnp.float32)
            slope = slope * kept[:, None] + more
        return top, total, slope

    start = (
        jnp.full(num_tokens, -jnp.inf),
        jnp.zeros(num_tokens),
        jnp.zeros((num_tokens, hidden.shape[1])) if sloped else None,
    )
    largest, total, slope = lax.fori_loop(0, -(-num_rows // chunk), add, start)
    return largest + jnp.log(total), slope / total[:, None] if sloped else None


def _along_rows(
    tokens: Array,
    hidden: Array,
    rows: Array,
    along: Array,
    log_sum: Array,
    cap: float | None,
    chunk: int,
) -> Float[Array, " T"]:
    """Σ_v (1[v = token] − softmax_v) · cap'_v · hidden · along[v].

    Its transpose computes the softmax again, and adds the tokens' own terms inside the product.
    """

    @jax.checkpoint
    def part(start: Array, rows: Array, along: Array) -> Array:
        logits = logits_of(hidden, rows, cap)
        weights = _are(tokens, start, rows.shape[0]) - jnp.exp(logits - log_sum[:, None])
        return jnp.sum(_bent(weights, logits, cap) * logits_of(hidden, along, None), axis=-1)

    # Whole chunks are scanned over, for the transpose of a slice would be as large as the head.
    whole = rows.shape[0] // chunk * chunk
    starts = jnp.arange(0, whole, chunk, dtype=tokens.dtype)
    chunks = (x[:whole].reshape(-1, chunk, x.shape[1]) for x in (rows, along))
    total = lax.map(lambda xs: part(*xs), (starts, *chunks)).sum(axis=0)
    if whole < rows.shape[0]:
        total += part(jnp.asarray(whole, tokens.dtype), rows[whole:], along[whole:])
    return total


def _are(tokens: Int[Array, " T"], start: Array | int, size: int) -> Bool[Array, "T size"]:
    """Whether each token is start, start + 1, …"""
    return tokens[:, None] == start + jnp.arange(size, dtype=tokens.dtype)[None]


def logits_of(
    hidden: Float[Array, "T D"], rows: Float[Array, "V D"], cap: float | None
) -> Float[Array, "T V"]:
    """hidden rowsᵀ, soft-capped, in float32."""
    return soft_cap(rows_product(hidden, rows, axis=1, dtype=jnp.float32), cap)


def _bent(weights: Array, capped: Array, cap: float | None) -> Array:
    """Weights times the derivative of the soft cap, 1 − (capped / cap)²."""
    # A logit that is masked has weight 0 and an infinite square.
    return weights if cap is None else weights * (1 - jnp.clip(capped / cap, -1, 1) ** 2)
