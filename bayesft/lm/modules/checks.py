"""What is noticed when a module is taken as a prior, on a few random rows of tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jaxtyping import Array

from bayesft.base import PyTree
from bayesft.errors import ModelError
from bayesft.lm.modules.decoding import Incremental, LogitsFn
from bayesft.lm.modules.form import Form

LENGTH = 8
"""Positions that are checked, where the context has as many."""
EXACT = 1e-4
"""Rounding of float32 sums in another order, as a share of the largest logit."""
MASKED = -1e3
"""Log-probs in nats below which a token is masked, by -inf or by a finite number."""
PRECISION = "highest"
"""Of products: TF32 would need a tolerance that notices little."""


def vocab_size_of(form: Form, params: PyTree, rest: PyTree, logits_fn: LogitsFn) -> int:
    """V, from the shape of the logits of one token; raises ModelError where it is not [B, T, V]."""
    shape = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    try:
        found = jax.eval_shape(lambda *args: _call(form, logits_fn, *args), params, rest, shape)
    except FlaxError as error:
        raise _refusal(
            f"Flax cannot run the module: {error}",
            "dropout or batch normalisation in training mode, or variables of another module",
            "build it for evaluation (deterministic=True, use_running_average=True), and pass the "
            "variables that its init gave",
        ) from error
    ndim: Any = getattr(found, "ndim", None)
    dtype: Any = getattr(found, "dtype", None)
    if ndim != 3 or found.shape[:2] != (1, 1) or not jnp.issubdtype(dtype, jnp.floating):
        raise ModelError(
            f"Tokens [1, 1] gave {found}, not logits [1, 1, V].",
            cause="the module returns a tuple or an object, or takes one sequence at a time",
            remedy="pass logits_fn=lambda module, tokens: …, which returns logits [B, T, V]",
        )
    return found.shape[2]


def check_forward(
    form: Form, params: PyTree, rest: PyTree, logits_fn: LogitsFn, length: int, vocab_size: int
) -> None:
    """Raises ModelError where logits depend on what comes later, on other rows, on the length of
    the buffer, or on a state that changes."""
    line, changed = _rows(length, vocab_size)
    run = jax.jit(lambda p, r, tokens: _run(form, logits_fn, p, r, tokens))
    with jax.default_matmul_precision(PRECISION):
        logits, after = run(params, rest, changed)
        alone, _ = run(params, rest, jnp.broadcast_to(line, changed.shape))
        short, _ = run(params, rest, changed[:, : (length + 1) // 2])
    _check_state(rest, after)
    if logits.shape != (*changed.shape, vocab_size):
        raise _refusal(
            f"Tokens {list(changed.shape)} gave logits {list(logits.shape)}.",
            "logits of the last position alone, or an axis mistaken for another",
            "pass logits_fn=lambda module, tokens: …, which returns logits [B, T, V]",
        )
    if not bool(jnp.isfinite(logits.max(-1)).all()):
        raise _refusal(
            "Logits are NaN, or have no finite largest one.",
            "parameters that are NaN, or a division by 0",
            "evaluate the module on a few tokens",
        )
    far = _Far(params)
    if far(logits[0], alone[0]):
        raise _refusal(
            "Logits of a row depend on the other rows of the batch.",
            "batch normalisation in training mode, or an axis mistaken for another",
            "call module.eval(), and check the axes of norms and attention",
        )
    for position in range(1, length):
        if far(logits[position, :position], alone[0, :position]):
            raise _refusal(
                f"The module looks ahead: logits before position {position} depend on the tokens "
                "from there on.",
                "attention without a causal mask, or logits of the token at a position instead "
                "of the one after it",
                "mask attention causally (nnx.make_causal_mask); logits[:, t] are of token t + 1",
            )
    if far(short, logits[:, : short.shape[1]]):
        raise _refusal(
            "Logits depend on how much padding stands behind a row.",
            "positions counted from the end, or a norm over positions",
            "count positions from 0, and let a position see those before it alone",
        )


def check_steps(
    form: Form,
    params: PyTree,
    rest: PyTree,
    logits_fn: LogitsFn,
    steps: Incremental,
    length: int,
    vocab_size: int,
) -> None:
    """Raises ModelError where the user's steps disagree with the module on whole rows, from two
    prompts one of which is padded."""
    line, _ = _rows(length, vocab_size)
    size = max(length // 2, 1)
    lengths = jnp.asarray([size, size - size // 2], jnp.int32)
    real = jnp.arange(size)[None] < lengths[:, None]
    prompts = jnp.where(real, line[None, :size], line[-1])
    count = length - size + 1

    @jax.jit
    def both(params: PyTree, rest: PyTree) -> tuple[Array, Array, PyTree]:
        module = form.build(params, rest)
        whole = logits_fn(module, line[None])[0].astype(jnp.float32)
        state, logits = steps.start(module, prompts, lengths, 1, count)
        found = [logits[:, 0]]
        for t in range(count - 1):
            state, logits = steps.advance(module, state, line[lengths + t][:, None])
            found.append(logits[:, 0])
        expected = whole[lengths[:, None] - 1 + jnp.arange(count)[None]]
        return jnp.stack(found, axis=1), expected, state.cache

    with jax.default_matmul_precision(PRECISION):
        found, expected, cache = both(params, rest)
    for leaf in jax.tree.leaves(cache):
        if leaf.ndim and leaf.shape[0] != 2:
            raise _refusal(
                f"An array of the cache for 2 rows has shape {list(leaf.shape)}.",
                "layers in front of rows, or a buffer that all rows share",
                "let every array of the cache lead with the rows; scalars are shared by all",
            )
    if _Far(params)(found, expected):
        raise _refusal(
            "init and step give other logits than the module on whole rows.",
            "a prompt's padding in the cache, a position off by one, or the logits of another "
            "position (init gives those after the last real token of each prompt)",
            "compare step by step with the module's logits on a whole row",
        )


def _rows(length: int, vocab_size: int) -> tuple[Array, Array]:
    """A row, and the row with other tokens from position t on, in row t (never, in row 0)."""
    rng = np.random.default_rng(0)
    line = rng.integers(vocab_size, size=length)
    other = (line + rng.integers(1, max(vocab_size, 2), (length, length))) % vocab_size
    start = np.arange(length)[:, None]
    rows = np.where((np.arange(length)[None] >= start) & (start > 0), other, line[None])
    return jnp.asarray(line, jnp.int32), jnp.asarray(rows, jnp.int32)


def _call(form: Form, logits_fn: LogitsFn, params: PyTree, rest: PyTree, tokens: Array) -> Any:
    return logits_fn(form.build(params, rest), tokens)


def _run(form: Form, logits_fn: LogitsFn, params: PyTree, rest: PyTree, tokens: Array):
    module = form.build(params, rest)
    logits = logits_fn(module, tokens)
    return logits.astype(jnp.float32), form.rest_of(module)


def _check_state(before: PyTree, after: PyTree) -> None:
    def same(old: Array, new: Array) -> bool:
        return jnp.issubdtype(old.dtype, jax.dtypes.prng_key) or np.array_equal(old, new)

    if jax.tree.structure(before) == jax.tree.structure(after) and all(
        jax.tree.leaves(jax.tree.map(same, before, after))
    ):
        return
    raise _refusal(
        "The module changes its own state when it is called.",
        "dropout that draws, batch normalisation that learns, values that are sown, or a cache",
        "call module.eval() first; give a cache through init= and step=",
    )


class _Far:
    """Whether two arrays of logits differ by more than the rounding of the module's dtype.

    Log-probs are compared, for they are what is used; of masked tokens, that both are masked.
    """

    def __init__(self, params: PyTree):
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
        self.share = max([EXACT, *(16 * float(jnp.finfo(dtype).eps) for dtype in dtypes)])

    def __call__(self, found: Array, expected: Array) -> bool:
        log_probs, wanted = jax.nn.log_softmax(found), jax.nn.log_softmax(expected)
        masked = wanted < MASKED
        sizes = jnp.abs(jnp.where(masked, 0.0, expected))
        limit = self.share * max(1.0, float(sizes.max()))
        # Where both are -inf their difference is NaN, and not looked at.
        near = jnp.where(masked, log_probs < MASKED / 2, jnp.abs(log_probs - wanted) <= limit)
        return not bool(near.all())


def _refusal(happened: str, cause: str, remedy: str) -> ModelError:
    return ModelError(happened, cause=cause, remedy=remedy)
